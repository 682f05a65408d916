"""Where one shard works, and how its part ends: with a record of what it has brought. Nothing becomes visible here."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from datafetch.ledger import Ledger
from datafetch.marker import ManifestHeader
from datafetch.records import ManifestFile
from datafetch.sink.directory import Directory
from datafetch.sink.layout import SHARDS, Complete, ManagedLayout, Published
from datafetch.sink.lock import EPOCHS
from datafetch.sink.manifest import write_manifest
from datafetch_api.config import Managed

FILES = "files"
DONE = "done"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What a shard has brought: the files are listed beside it, as in a manifest."""

    plan: str
    epoch: int
    """In whose tree its files lie, but for those that were published before."""
    files: int
    bytes: int
    reused_bytes: int
    manifest_digest: str


def home_of(shard: int) -> str:
    """Return where a shard's state lies, seen from the target's, with a slash."""
    return f"{SHARDS}/{shard}/"


def read_record(base: Directory, shard: int, plan: str) -> ShardRecord | None:
    """Return the record of what the shard has brought of that plan; None where it has not ended."""
    if DONE not in base.names(home_of(shard)):
        return None
    try:
        record = ShardRecord(**json.loads(base.read(f"{home_of(shard)}{DONE}") or b""))
    except (ValueError, TypeError):
        return None
    return record if record.plan == plan else None


class ShardLayout:
    """The state of one shard, beside what the target holds. `reused` says how many bytes were there already."""

    publication: Literal["Link", "InPlace"] = "Link"

    def __init__(
        self, managed: Managed, shard: int, plan: str, homes: tuple[str, ...], reused: Callable[[], int]
    ) -> None:
        self._target = ManagedLayout(managed)
        self._plan = plan
        self._homes = homes
        self._reused = reused
        self.base = self._target.base
        self.home = home_of(shard)
        self.state = self.base.child(self.home.rstrip("/"))

    def other_homes(self) -> tuple[str, ...]:
        """Return where the plan says that something of this part is staged."""
        return tuple(home for home in self._homes if home != self.home)

    def complete(self, spec_hash: str, *, full: bool = False) -> Complete | None:  # noqa: ARG002 - the protocol's
        """Return None: what is published says nothing of a part."""
        return None

    def begin(self, ledger: Ledger) -> None:
        """Read what is published; nothing but this shard's own state is changed, others are at work."""
        self._target.look(ledger)

    def take(self, file: ManifestFile, tree: Directory, *, full: bool = False) -> bool:  # noqa: ARG002 - the protocol's
        """Leave an unchanged file where it is: who publishes links it, once."""
        return self._target.holds(file, full=full)

    def holds(self, file: ManifestFile, *, full: bool = False) -> bool:
        """Say whether a published file is as it was."""
        return self._target.holds(file, full=full)

    def take_as(self, file: ManifestFile, tree: Directory, path: str, *, full: bool = False) -> bool:
        """Link a published file at another path into the staged tree."""
        return self._target.take_as(file, tree, path, full=full)

    def place(self, path: str, tree: Directory) -> None:
        """Do nothing: the whole becomes visible as one."""

    def placed(self, path: str) -> os.stat_result | None:  # noqa: ARG002 - the protocol's
        """Return None: no file has a final name before all have."""
        return None

    def open_placed(self, path: str) -> int:
        """Raise FileNotFoundError: no file has a final name before all have."""
        raise FileNotFoundError(path)

    def publish(self, epoch: int, header: ManifestHeader, ledger: Ledger, *, unchanged: bool) -> Published:  # noqa: ARG002 - the protocol's
        """Record what this shard has brought."""
        write_manifest(self.state, FILES, header, ledger.finished_files())
        record = ShardRecord(self._plan, epoch, header.files, header.bytes, self._reused(), header.manifest_digest)
        self.state.write_atomically(DONE, iter([json.dumps(asdict(record)).encode()]))
        return Published(None, "Link", header.manifest_digest, header.bytes)

    def clear(self, epoch: int) -> None:
        """Remove nothing: who publishes takes the files from here."""

    def close(self) -> None:
        """Close the directories."""
        self.state.close()
        self._target.close()


def epoch_place(shard: int, record: ShardRecord) -> str:
    """Return where the record's files are staged, seen from the target's state."""
    return f"{home_of(shard)}{EPOCHS}/{record.epoch}"
