"""Archives as tools make them, and as nobody should; volumes of both layouts that they are fetched to."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from component.commands import Run, datafetch, tree
from component.prefork import Prefork
from servers.http import StaticServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["FORMATS", "Yard", "member", "tar", "zipped", "zstd"]


def tar(files: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes], **kinds: Any) -> bytes:
    """Return a tar of these files, then of members with headers of their own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **kinds) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info, data in more:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """Return the header of a tar's member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """Return a zip of these files, then of members with headers of their own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
        for info, data in more:
            archive.writestr(info, data)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    ".tar": tar,
    ".tar.gz": lambda files: gzip.compress(tar(files)),
    ".tgz": lambda files: gzip.compress(tar(files)),
    ".tar.bz2": lambda files: bz2.compress(tar(files)),
    ".tar.xz": lambda files: lzma.compress(tar(files)),
    ".tar.zst": lambda files: zstd.compress(tar(files)),
    ".zip": zipped,
}


@dataclass
class Yard:
    """A server with archives, and one target of a layout that they are fetched to."""

    server: StaticServer
    base: Path
    managed: bool
    unpack: dict[str, Any] = field(default_factory=dict)
    runs: Prefork | None = None
    """What runs the command, if not a process of its own."""

    @property
    def volume(self) -> Path:
        """What the target lies on."""
        return self.base / "volume"

    def put(self, files: dict[str, bytes]) -> None:
        """Serve these files from the next request on."""
        for name, data in files.items():
            self.server.put(f"/{name}", data)

    def config(self, names: Iterable[str], **more: Any) -> Path:
        """Write the config that brings these names, archives unpacked."""
        self.volume.mkdir(exist_ok=True, parents=True)
        items = [{"url": f"{self.server.url}/{name}", "target_path": name} for name in names]
        owner: dict[str, Any] = {"download_root": str(self.volume / "data")}
        if self.managed:
            fields = {"namespace": "ml", "name": "data", "uid": "u1", "spec_hash": f"v1:{json.dumps(self.unpack)}"}
            owner = {"managed": {"volume": str(self.volume), "path": "data", **fields}}
        item = {"type": "http", "name": "web", "items": items, "unpack": self.unpack}
        path = self.base / "config.yaml"
        path.write_text(yaml.safe_dump({**owner, "download_items": [item], **more}))
        return path

    def fetch(self, *names: str, arguments: tuple[str, ...] = (), **more: Any) -> Run:
        """Fetch these names."""
        return self.datafetch("run", self.config(names, **more), "--json", *arguments)

    def datafetch(self, *arguments: str | Path) -> Run:
        """Run the command."""
        run = self.runs.datafetch if self.runs is not None else datafetch
        return run(*arguments, cwd=self.base)

    @property
    def published(self) -> dict[str, bytes]:
        """What a reader sees."""
        target = self.volume / "data"
        return tree(target) if target.exists() else {}

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """The entries of the only manifest, or of the newest."""
        found = max(self.volume.rglob("manifests/*.json"), key=lambda path: path.stat().st_mtime_ns)
        entries: list[dict[str, Any]] = json.loads(found.read_text())["entries"]
        return entries

    @property
    def staged(self) -> dict[str, int]:
        """The files of our own on the volume that hold data on its way, with their sizes."""
        found = [path for path in self.volume.rglob("*") if path.is_file() and "tree" in path.parts]
        return {path.name: path.stat().st_size for path in found}
