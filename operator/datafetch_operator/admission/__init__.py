"""Pods that ask for data by annotation: from an AdmissionReview to a patch, or to a sentence that refuses.

Its door is `answer`. The pieces: `request` reads the annotations, `inline` what stands in them, `injection` decides,
`draft` changes the pod, `dressing` gives our containers their resources and security context.
"""

from datafetch_operator.admission.answer import LookUp, answer

__all__ = ["LookUp", "answer"]
