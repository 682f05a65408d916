"""The programs that are built from the Go module proxy, once per version, into the cache.

Kubernetes and etcd are pinned by the go.mod and go.sum beside this file, the others by version (the checksum database
vouches for them). etcd is not Debian's 3.4, with which a watch without a resourceVersion can fail (504, "Too large
resource version").
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster import paths, shell
from cluster.errors import ClusterError

KUBERNETES = "v1.35.4"
"""The last minor that accepts Debian 12's containerd 1.6."""
HELM = "v3.22.0"
COREDNS = "v1.15.0"
KIND = "v0.33.0"

_MODULE = paths.SOURCES / "kubernetes"
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")


@dataclass(frozen=True)
class Build:
    """A folder of the cache with the binaries of one build."""

    key: str
    programs: tuple[str, ...]
    make: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        """Where the binaries lie once built."""
        return paths.cache() / "builds" / self.key


def _pins() -> str:
    pins = b"".join((_MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    return f"{KUBERNETES}-{hashlib.sha256(pins).hexdigest()[:10]}"


def _build_kubernetes(folder: Path) -> None:
    _build(folder, *(f"k8s.io/kubernetes/cmd/{name}" for name in _COMPONENTS))
    _build(folder / "etcd", "go.etcd.io/etcd/server/v3")


def _build_kubectl(folder: Path) -> None:
    _build(folder, "k8s.io/kubernetes/cmd/kubectl")


def _build(target: Path, *packages: str) -> None:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    stamps = _ldflags({f"k8s.io/component-base/version.{name}": value for name, value in values.items()})
    output = f"{target}{os.sep}" if target.is_dir() else str(target)
    _go("build", "-o", output, stamps, *packages)


def _install_helm(folder: Path) -> None:
    module = "helm.sh/helm/v3"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {f"{module}/internal/version.version": HELM}
    # Without these, `helm template` and `helm lint` take the cluster for Kubernetes 1.20.
    for package in ("pkg/chartutil", "pkg/lint/rules"):
        values |= {f"{module}/{package}.k8sVersionMajor": major, f"{module}/{package}.k8sVersionMinor": minor}
    _go("install", _ldflags(values), f"{module}/cmd/helm@{HELM}", gobin=folder)


def _install_coredns(folder: Path) -> None:
    _go("install", _ldflags({}), f"github.com/coredns/coredns@{COREDNS}", gobin=folder)


def _install_kind(folder: Path) -> None:
    _go("install", _ldflags({}), f"sigs.k8s.io/kind@{KIND}", gobin=folder)


def kubernetes() -> Build:
    """Return the control plane with etcd, and the node's programs."""
    return Build(f"kubernetes-{_pins()}", (*_COMPONENTS, "etcd"), _build_kubernetes)


def kubectl() -> Build:
    """Return the build of kubectl."""
    return Build(f"kubectl-{_pins()}", ("kubectl",), _build_kubectl)


def helm() -> Build:
    """Helm 3."""
    return Build(f"helm-{HELM}", ("helm",), _install_helm)


def coredns() -> Build:
    """Return the cluster's DNS server."""
    return Build(f"coredns-{COREDNS}", ("coredns",), _install_coredns)


def kind() -> Build:
    """kind, where a container engine runs."""
    return Build(f"kind-{KIND}", ("kind",), _install_kind)


def ensure(*builds: Build) -> None:
    """Build what is not in the cache yet, and point the stable links at it."""
    for build in builds:
        if not build.folder.is_dir():
            _fill(build)
        _link(build)


def program(name: str) -> Path:
    """Return the path of a program that `ensure` has built."""
    path = paths.tools() / name
    if not path.exists():
        raise ClusterError(f"{name} is not built yet: run `python3 hack/cluster up` first.")
    return path


def _fill(build: Build) -> None:
    started = time.monotonic()
    print(f"building {build.key} (kept in the cache; Kubernetes takes 4 to 8 minutes on 2 cores)", flush=True)
    unfinished = build.folder.with_name(f"{build.key}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    build.make(unfinished)
    unfinished.rename(build.folder)
    print(f"built {build.key} in {time.monotonic() - started:.0f} s", flush=True)


def _link(build: Build) -> None:
    paths.tools().mkdir(parents=True, exist_ok=True)
    for name in build.programs:
        link, target = paths.tools() / name, build.folder / name
        if link.is_symlink() and link.readlink() == target:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _go(verb: str, *arguments: str, gobin: Path | None = None) -> None:
    if not shutil.which("go", path=shell.environment()["PATH"]):
        raise ClusterError("Go is not installed: install Go 1.25 or newer, the cluster's programs are built with it.")
    # CGO_ENABLED=0: no C compiler needed, and the binaries run on any distribution.
    extra = {"CGO_ENABLED": "0", "GOFLAGS": "", **({"GOBIN": str(gobin)} if gobin else {})}
    flags = ("-trimpath", "-buildvcs=false")
    shell.run("nice", "-n", "10", "go", verb, *flags, *arguments, extra=extra, cwd=_MODULE)


def _ldflags(values: dict[str, str]) -> str:
    return "-ldflags=-s -w" + "".join(f" -X {name}={value}" for name, value in values.items())
