"""A tree around a target that nobody may touch: whatever a fetch does, outside everything stays as it was."""

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

Seen = dict[str, tuple[int, int, int, str | bytes]]

SURROUNDINGS = {
    "secret.txt": b"outside",
    "etc/passwd": b"root:x:0:0",
    "etc/deep/er/file.bin": bytes(range(256)),
    "volume-of-another/model/weights.bin": b"theirs",
    "empty": b"",
}


@dataclass(frozen=True)
class Canary:
    """A directory with a volume in it, and what lay around that volume in the beginning."""

    base: Path
    volume: Path
    before: Seen

    @classmethod
    def around(cls, base: Path) -> "Canary":
        """Make the tree; the volume is `base/volume`."""
        for name, content in SURROUNDINGS.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        volume = base / "volume"
        volume.mkdir(parents=True)
        return cls(base, volume, seen(base, volume))

    def as_it_is_now(self) -> "Canary":
        """Return the same, with what lies around the volume by now: traps that a test has laid."""
        return replace(self, before=seen(self.base, self.volume))

    @property
    def outside(self) -> Path:
        """A directory outside the volume, with something in it."""
        return self.base / "etc"

    def is_untouched(self) -> bool:
        """Compare names, kinds, modes, modification times, contents and links byte for byte; say what differs."""
        after = seen(self.base, self.volume)
        changed = {path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)}
        assert not changed, f"changed outside the target: {sorted(changed)}"
        return True


def seen(base: Path, but: Path) -> Seen:
    """Everything below a directory that is not below another."""
    found: Seen = {}
    for directory, names, files in os.walk(base):
        for name in [*names, *files, "."]:
            path = Path(directory, name)
            if path != but:
                found[os.path.join(directory, name)] = _facts(path)
        names[:] = [name for name in names if Path(directory, name) != but]
    return found


def _facts(path: Path) -> tuple[int, int, int, str | bytes]:
    status = path.lstat()
    content: str | bytes = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    return status.st_mode, status.st_mtime_ns, status.st_nlink, content
