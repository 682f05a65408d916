"""`python3 hack/emulators`: makes the packages of hack/ importable, then hands over to `commands.py`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from emulators.commands import main  # noqa: E402 - needs the line above

sys.exit(main())
