"""Archives among the files of a fetch, and what comes out of them.

`formats` says what is an archive by its name, `streams` decompresses, `tar` and `zip` read members one after the
other, `extraction` writes those of one archive, within its limits, and `unpacking` does so for all archives of a fetch,
in a few threads. Nothing here holds an archive, or a list of its members, in memory; names and sizes in it come from
outside and are believed in nothing. Where the files go is the plan's and the sink's.
"""

from datafetch.unpacking.formats import archive_format, archives_of
from datafetch.unpacking.unpacking import Unpacking

__all__ = ["Unpacking", "archive_format", "archives_of"]
