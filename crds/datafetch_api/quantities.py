"""Sizes and durations as Kubernetes writes them: `200Gi`, `1.5M`, `60s`, `1m30s`. Pure parsing and printing."""

import re
from fractions import Fraction

_SUFFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}
BYTES_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a Kubernetes quantity names, rounded up.

    Raises ValueError for anything that is not a quantity of bytes.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMGTPE]i?|Ki)?", text.strip())
    if match is None or (match[2] or "") not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a size; write it like 200Gi, 500M or 1048576")
    value = Fraction(match[1]) * _SUFFIXES[match[2] or ""]
    return -(-value.numerator // value.denominator)


def parse_duration(text: str) -> int:
    """Return the seconds that a duration such as `90s`, `5m` or `1h30m` names.

    Raises ValueError for anything else, the empty string included.
    """
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is not a duration; write it like 60s, 5m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def format_bytes(size: int) -> str:
    """Print a number of bytes for people, in binary units with three significant digits: `1.37 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.5 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{size} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
