"""Run inside a build: `python3 gather.py KNOWN TARGET PROGRAM...` copies programs and the libraries that they need.

KNOWN lists the files that were there before the programs were installed: the image's base has those. What else came
with the programs' packages (Perl, with git) stays behind.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def main(known: Path, target: Path, programs: list[str]) -> None:
    """Copy each program to its own path below the target, and each library that is new."""
    before = {os.path.realpath(line) for line in known.read_text().splitlines()}
    for program in programs:
        _copy(Path(program), target)
        for library in _libraries(program):
            if str(library) not in before:
                _copy(library, target)


def _libraries(program: str) -> list[Path]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    # The name under which it is looked for, in the directory that links to it lead to.
    found = [os.path.split(path) for path in re.findall(r"=> (/\S+)", listed)]
    return [Path(os.path.realpath(directory), name) for directory, name in found]


def _copy(path: Path, target: Path) -> None:
    goal = target / path.relative_to("/")
    goal.parent.mkdir(parents=True, exist_ok=True)
    # What a link leads to is what is needed, under the link's name.
    shutil.copy2(path, goal)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
