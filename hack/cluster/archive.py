"""Container images of one static program, written by hand as a docker-archive: no builder, no registry."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path


def write(target: Path, name: str, program: Path, entrypoint: list[str], links: tuple[str, ...] = ()) -> None:
    """Write an image `name` with `program` in /bin, and symlinks beside it."""
    layer = _tar({f"bin/{program.name}": program.read_bytes()}, {f"bin/{link}": program.name for link in links})
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"], "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    target.write_bytes(_tar({"config.json": config, "layer.tar": layer, "manifest.json": manifest}, {}))


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _tar(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for name, destination in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, destination, 0o777
            archive.addfile(entry)
    return buffer.getvalue()
