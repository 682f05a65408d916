"""Image archives: one of a static program written by hand, and any one reduced to the layers that a node lacks.

A docker-archive is a tar of layers, a configuration and manifest.json; an OCI layout names the same by their digests.
"""

import contextlib
import hashlib
import io
import json
import platform
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

_OCI = "application/vnd.oci.image"


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


@contextlib.contextmanager
def reduced(archive: Path, present: set[str]) -> Iterator[Path]:
    """Give the images of a docker-archive as an OCI layout, without the layers whose digest is among `present`."""
    with tarfile.open(archive) as source, tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(file.name, "w") as target:
            listed = json.loads(_read(source, "manifest.json"))
            entries = [entry for image in listed for entry in _copy_image(source, target, image, present)]
            index = {"schemaVersion": 2, "manifests": entries}
            _add(target, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
            _add(target, "index.json", json.dumps(index).encode())
        yield Path(file.name)


def _copy_image(
    source: tarfile.TarFile, target: tarfile.TarFile, image: dict[str, Any], present: set[str]
) -> list[dict[str, Any]]:
    """Copy one image's blobs and return its entries in the index, one for each of its names."""
    config = _read(source, image["Config"])
    layers = []
    # A layer of a docker-archive is not compressed, so its digest stands in the configuration.
    for path, digest in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
        member = _resolved(source, path)
        layers.append({"mediaType": f"{_OCI}.layer.v1.tar", "digest": digest, "size": member.size})
        if digest not in present:
            entry = tarfile.TarInfo(f"blobs/{digest.replace(':', '/')}")
            entry.size = member.size
            target.addfile(entry, source.extractfile(member))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": {"mediaType": f"{_OCI}.config.v1+json", **_add_blob(target, config)},
        "layers": layers,
    }
    described = {"mediaType": f"{_OCI}.manifest.v1+json", **_add_blob(target, json.dumps(manifest).encode())}
    return [{**described, "annotations": {"io.containerd.image.name": name}} for name in image["RepoTags"]]


def _resolved(source: tarfile.TarFile, path: str) -> tarfile.TarInfo:
    member = source.getmember(path)
    if not member.issym():
        return member
    return source.getmember(posixpath.normpath(f"{posixpath.dirname(path)}/{member.linkname}"))


def _read(source: tarfile.TarFile, path: str) -> bytes:
    content = source.extractfile(_resolved(source, path))
    if content is None:
        raise ClusterError(f"{path} is not a file in this docker-archive: build and save the image again.")
    return content.read()


def _add_blob(target: tarfile.TarFile, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    _add(target, f"blobs/sha256/{digest}", content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _add(target: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    target.addfile(entry, io.BytesIO(content))


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
