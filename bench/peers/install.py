"""The programs that are compared, pinned and in the cache directory; nginx comes from Debian.

May run pip, go and (as root) apt-get. Nothing is installed system-wide but nginx.
"""

import hashlib
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from cluster import packages, shell
from cluster.errors import ClusterError
from storage import install as storage_install

_HERE = Path(__file__).resolve().parent
REPOSITORY = _HERE.parents[1]
_REQUIREMENTS = REPOSITORY / "requirements" / "bench.txt"
_NGINX = {"nginx": "nginx-light"}
_HEADERS_PACKAGE = "libnginx-mod-http-headers-more-filter"
HEADERS_MODULE = Path("/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")


@dataclass(frozen=True)
class Programs:
    """Paths of what is compared."""

    datafetch: Path
    peers_python: Path
    """Python of the peers' environment: boto3, obstore, huggingface_hub."""
    s5cmd: Path
    rclone: Path
    aws: Path


def programs() -> Programs:
    """Return the programs, installing the peers first if they are not there."""
    environment = _peers_environment()
    return Programs(
        datafetch=Path(sys.executable).with_name("datafetch"),
        peers_python=environment / "bin" / "python",
        # bin/s5cmd is a Python script that runs this program: the peer is measured without that detour.
        s5cmd=next(environment.glob("lib/python*/site-packages/s5cmd/bin/s5cmd")),
        rclone=environment / "bin" / "rclone",
        aws=environment / "bin" / "aws",
    )


def ensure_nginx() -> None:
    """Install nginx and the module that strips a request header, where they are missing."""
    packages.ensure(_NGINX)
    if HEADERS_MODULE.exists():
        return
    command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", _HEADERS_PACKAGE)
    if os.geteuid() != 0:
        raise ClusterError(f"nginx lacks a module; install it as root: {' '.join(command)}")
    shell.run("apt-get", "update", "-qq")
    shell.run(*command, extra={"DEBIAN_FRONTEND": "noninteractive"})


def link() -> Path:
    """Return the program that delays and caps a link, building it first if its source has changed."""
    source = _HERE / "link"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.iterdir()))).hexdigest()[:12]
    program = _cache() / f"link-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "build", "-o", str(program), "."], cwd=source, check=True)
    return program


def _peers_environment() -> Path:
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    directory = _cache() / f"peers-{digest}"
    ready = directory / ".ready"
    if ready.exists():
        return directory
    print(f"installing the peers of {_REQUIREMENTS.relative_to(REPOSITORY)}", flush=True)
    venv.create(directory, clear=True, with_pip=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", str(_REQUIREMENTS)], check=True)
    ready.touch()
    return directory


def _cache() -> Path:
    return storage_install.cache_directory().parent / "bench"
