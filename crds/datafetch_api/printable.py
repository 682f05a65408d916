"""Text from outside as it may stand in a message: one line, and nothing in it that a terminal would obey. Pure."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def single_line(text: str) -> str:
    r"""Return the text with control characters, line breaks, direction marks and halves of surrogate pairs escaped."""
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    return _SURROGATE.sub(lambda match: ascii(match[0])[1:-1], text)
