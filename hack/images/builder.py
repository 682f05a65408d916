"""Building, saving and measuring images: with Docker or podman where one runs, otherwise with buildah as root."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster import kind, packages, paths, shell
from cluster.errors import ClusterError
from images import base, registry

PROJECT = Path(__file__).resolve().parent.parent.parent
BASE_VARIABLE = "DATAFETCH_BASE_IMAGE"


@dataclass(frozen=True)
class Image:
    """One of the two images."""

    part: str

    @property
    def name(self) -> str:
        """The name for manifests; containerd and kind both read it as docker.io/library/NAME."""
        return f"datafetch-{self.part}:dev"

    @property
    def dockerfile(self) -> Path:
        """What it is made of."""
        return PROJECT / f"Dockerfile.{self.part}"

    @property
    def archive(self) -> Path:
        """Where `build` saves it for `load`."""
        return paths.cache() / "images" / f"datafetch-{self.part}.tar"


IMAGES = (Image("operator"), Image("downloader"))


class Builder(Protocol):
    """What both builders can do."""

    def build(self, image: Image) -> None:
        """Build an image by its Dockerfile, from cached layers where nothing changed."""

    def save(self, image: Image) -> None:
        """Write the image to its archive."""

    def size(self, image: Image) -> int:
        """Return the image's size in bytes, uncompressed."""


class Engine:
    """Docker or podman."""

    def __init__(self, program: str) -> None:
        self._program = program

    def build(self, image: Image) -> None:
        """Build with the official Python image as the base, or the one that DATAFETCH_BASE_IMAGE names."""
        named = os.environ.get(BASE_VARIABLE)
        base_option = ["--build-arg", f"BASE={named}"] if named else []
        with registry.secrets() as secrets:
            options = ["--file", str(image.dockerfile), "--tag", image.name, *base_option, *secrets.options()]
            shell.run(self._program, "build", *options, PROJECT, extra={"DOCKER_BUILDKIT": "1"})

    def save(self, image: Image) -> None:
        """Write a docker-archive."""
        image.archive.parent.mkdir(parents=True, exist_ok=True)
        shell.run(self._program, "save", "--output", image.archive, image.name)

    def size(self, image: Image) -> int:
        """Ask the engine."""
        return int(shell.run(self._program, "image", "inspect", "--format", "{{.Size}}", image.name))


class Buildah:
    """buildah with a storage of its own in the cache; builds run in a chroot, with the machine's network."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("Building images without Docker or podman needs root: run this as root.")
        packages.ensure(packages.IMAGES)
        self._command = _storage()

    def build(self, image: Image) -> None:
        """Build on the base that debootstrap made, or the one that DATAFETCH_BASE_IMAGE names."""
        named = os.environ.get(BASE_VARIABLE) or self._base()
        where = ["--isolation", "chroot", "--layers", "--build-arg", f"BASE={named}"]
        with registry.secrets() as secrets:
            options = [*where, *secrets.options(), "--file", str(image.dockerfile), "--tag", _local(image)]
            shell.run(*self._command, "build", *options, PROJECT)

    def save(self, image: Image) -> None:
        """Write a docker-archive, unless the one that is there has this image already."""
        inspect = ("inspect", "--type", "image", "--format", "{{.FromImageID}}", _local(image))
        identity = shell.run(*self._command, *inspect).strip()
        saved = image.archive.with_suffix(".id")
        if image.archive.exists() and saved.exists() and saved.read_text() == identity:
            return
        # buildah doesn't write over an archive.
        image.archive.unlink(missing_ok=True)
        shell.run(*self._command, "push", "--quiet", _local(image), f"docker-archive:{image.archive}:{_local(image)}")
        saved.write_text(identity)

    def size(self, image: Image) -> int:
        """Ask the storage."""
        found = json.loads(shell.run(*self._command, "images", "--json", _local(image)))
        return _bytes(found[0]["size"])

    def _base(self) -> str:
        name = f"localhost/datafetch-base:{base.key()}"
        if shell.attempt(*self._command, "inspect", "--type", "image", name).returncode == 0:
            return name
        container = shell.run(*self._command, "from", "scratch").strip()
        shell.run(*self._command, "add", "--quiet", container, base.archive(), "/")
        shell.run(*self._command, "commit", "--quiet", "--rm", container, name)
        return name


def choose() -> Builder:
    """Return the engine that runs, else buildah."""
    program = kind.engine()
    return Engine(program) if program else Buildah()


def _bytes(text: str) -> int:
    """Read buildah's sizes, such as `235 MB`."""
    number, unit = text.split()
    return int(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def _local(image: Image) -> str:
    return f"docker.io/library/{image.name}"


def _storage() -> list[str]:
    """Return buildah with its storage: overlay, or vfs (slow, large) where the kernel or file system refuses that."""
    folder = paths.cache() / "images"
    for driver in ("overlay", "vfs"):
        options = ["--root", folder / driver, "--runroot", folder / f"{driver}-run", "--storage-driver", driver]
        command = ["buildah", *(str(part) for part in options)]
        answer = shell.attempt(*command, "info")
        if answer.returncode == 0 and json.loads(answer.stdout)["store"]["GraphDriverName"] == driver:
            return command
    raise ClusterError(f"buildah can store images neither with overlay nor with vfs: {answer.stderr.strip()}")
