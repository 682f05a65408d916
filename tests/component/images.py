"""Real file systems in image files, and what their disks hold at a moment: needs root, for mount(8).

The image lies in memory. What the file system has written to it by a moment is what a disk would hold that lost power
then: everything that was flushed, and as little else as the kernel has got round to.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.packages import ensure

FORMATS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 64 << 20),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320 << 20),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 128 << 20),
}
"""How each is made, and the bytes that it needs at least."""
PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}


def install(kind: str) -> None:
    """Install the program that makes such file systems where it is missing, as the cluster's programs are."""
    command, _size = FORMATS[kind]
    ensure({command[0]: PACKAGES[command[0]]})


def make_image(path: Path, kind: str) -> None:
    """Make an empty file system."""
    command, size = FORMATS[kind]
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([*command, str(path)], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an image; yield where."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def as_it_is_now(image: Path, copy: Path) -> None:
    """Copy what a mounted file system has written to its image so far."""
    shutil.copyfile(image, copy)
