"""The other commands of hack/, run as a user runs them: what they say is shown as they say it."""

import subprocess
import sys

from cluster.errors import ClusterError
from demo import place


def run_tool(name: str, *arguments: str) -> None:
    """Run `python3 hack/NAME ...`. Raises ClusterError where it fails; its own words stand above then."""
    command = [sys.executable, str(place.PROJECT / "hack" / name), *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise ClusterError(f"`python3 hack/{name} {' '.join(arguments)}` failed; the reason stands above.")
