"""The base image where there is no registry: Debian 12 with Python 3.11, by debootstrap, slimmed, kept in the cache.

It stands in for docker.io/library/python:3.11-slim-bookworm, which the Dockerfiles name where nobody says otherwise.
"""

import hashlib
import shutil
import time
from pathlib import Path

from cluster import paths, shell

_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
_NOT_NEEDED = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/lintian",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)


def archive() -> Path:
    """Return the base's file system as a tar archive, made once per recipe."""
    target = paths.cache() / "images" / f"{key()}.tar"
    if not target.exists():
        _make(target)
    return target


def key() -> str:
    """Name the recipe: another list of packages is another base."""
    recipe = repr((_SUITE, _PACKAGES, _NOT_NEEDED)).encode()
    return f"base-{_SUITE}-{hashlib.sha256(recipe).hexdigest()[:10]}"


def _make(target: Path) -> None:
    started = time.monotonic()
    print("making the base image with debootstrap (kept in the cache; takes about a minute)", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    root = target.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    shell.run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root)
    for name in _NOT_NEEDED:
        _empty(root / name)
    # Made on this machine, and in a container the engine's own.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    unfinished = target.with_suffix(".unfinished")
    shell.run("tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", unfinished, ".")
    shutil.rmtree(root)
    unfinished.rename(target)
    print(f"made {target.name} in {time.monotonic() - started:.0f} s", flush=True)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
