"""`python bench/peers`: makes the packages importable, then hands over to `commands.py`."""

import sys
from pathlib import Path

_BENCH = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(_BENCH), str(_BENCH.parent / "hack"), str(_BENCH.parent / "tests")]

# mypy knows it as bench.peers.
from peers.commands import main  # type: ignore[import-not-found]  # noqa: E402 - needs the line above

sys.exit(main())
