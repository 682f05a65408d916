"""How much the tests of random moments do: little in `make test`, a lot in `make chaos`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Amounts of one test with one seed."""

    kills: int
    """Ends of a process within one transfer."""
    refreshes: int
    replacements: int
    """Objects replaced one after the other under a reader's eyes."""


FIXED = Scale(kills=8, refreshes=10, replacements=3)
CHAOS = Scale(kills=30, refreshes=50, replacements=8)
