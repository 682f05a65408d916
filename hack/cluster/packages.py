"""Debian packages that the cluster and the image builds need: installed as root, otherwise named in a sentence."""

import os
import shutil

from cluster import shell
from cluster.errors import ClusterError

CLUSTER = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "mount": "mount",
    "/bin/busybox": "busybox-static",
}
"""What must be there -> the package that brings it."""

IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "runc": "runc"}


def ensure(wanted: dict[str, str]) -> None:
    """Install what is missing, with apt-get when that is possible."""
    missing = _missing(wanted)
    if not missing:
        return
    install = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get", path=shell.SEARCH_PATH):
        raise ClusterError(f"Some programs are missing; install them as root: {install}")
    print(f"installing {', '.join(missing)}", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    shell.run("apt-get", "update", "-qq", extra=quiet)
    shell.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, extra=quiet)
    if still := _missing(wanted):
        raise ClusterError(f"apt-get installed {', '.join(still)}, but the programs are not where they belong.")


def _missing(wanted: dict[str, str]) -> list[str]:
    path = shell.environment()["PATH"]
    return sorted({package for program, package in wanted.items() if not shutil.which(program, path=path)})
