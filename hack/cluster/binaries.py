"""The programs that are built from the Go module proxy, once per version, into the cache.

They are pinned by go.mod and go.sum in kubernetes/ and tools/; kind, which is seldom built, by its version alone. etcd
is not Debian's 3.4, with which a watch without a resourceVersion can fail (504, "Too large resource version").
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
"""As in tools/go.mod; its version is stamped into the program."""
KIND = "v0.33.0"

_KUBERNETES_MODULE = paths.SOURCES / "kubernetes"
_TOOLS_MODULE = paths.SOURCES / "tools"
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


def _pins(module: Path) -> str:
    files = sorted(path for path in module.rglob("*") if path.suffix in (".mod", ".sum", ".go"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


def _build_kubernetes(folder: Path) -> None:
    _build_pinned(folder, *(f"k8s.io/kubernetes/cmd/{name}" for name in _COMPONENTS))
    _build_pinned(folder / "etcd", "go.etcd.io/etcd/server/v3")


def _build_kubectl(folder: Path) -> None:
    _build_pinned(folder, "k8s.io/kubernetes/cmd/kubectl")


def _build_pinned(target: Path, *packages: str) -> None:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    stamps = _ldflags({f"k8s.io/component-base/version.{name}": value for name, value in values.items()})
    output = f"{target}{os.sep}" if target.is_dir() else str(target)
    _go(_KUBERNETES_MODULE, "build", "-o", output, stamps, *packages)


def _build_helm(folder: Path) -> None:
    module = "helm.sh/helm/v3"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {f"{module}/internal/version.version": HELM}
    # Without these, `helm template` and `helm lint` take the cluster for Kubernetes 1.20.
    for package in ("pkg/chartutil", "pkg/lint/rules"):
        values |= {f"{module}/{package}.k8sVersionMajor": major, f"{module}/{package}.k8sVersionMinor": minor}
    _go(_TOOLS_MODULE, "build", "-o", f"{folder}{os.sep}", _ldflags(values), f"{module}/cmd/helm")


def _build_coredns(folder: Path) -> None:
    _go(_TOOLS_MODULE, "build", "-o", f"{folder}{os.sep}", _ldflags({}), "./coredns")


def _install_kind(folder: Path) -> None:
    _go(_TOOLS_MODULE, "install", _ldflags({}), f"sigs.k8s.io/kind@{KIND}", gobin=folder)


def kubernetes() -> Build:
    """Return the control plane with etcd, and the node's programs."""
    key = f"kubernetes-{KUBERNETES}-{_pins(_KUBERNETES_MODULE)}"
    return Build(key, (*_COMPONENTS, "etcd"), _build_kubernetes)


def kubectl() -> Build:
    """Return the build of kubectl."""
    return Build(f"kubectl-{KUBERNETES}-{_pins(_KUBERNETES_MODULE)}", ("kubectl",), _build_kubectl)


def helm() -> Build:
    """Return Helm 3."""
    return Build(f"helm-{HELM}-{_pins(_TOOLS_MODULE)}", ("helm",), _build_helm)


def coredns() -> Build:
    """Return the cluster's DNS server."""
    return Build(f"coredns-{_pins(_TOOLS_MODULE)}", ("coredns",), _build_coredns)


def kind() -> Build:
    """Return kind, where a container engine runs."""
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
    print(f"building {build.key}, once (Kubernetes takes 4 to 8 minutes on 2 cores, the others less)", flush=True)
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


def _go(module: Path, verb: str, *arguments: str, gobin: Path | None = None) -> None:
    if not shutil.which("go", path=shell.environment()["PATH"]):
        raise ClusterError("Go is not installed: install Go 1.26 or newer, the cluster's programs are built with it.")
    # CGO_ENABLED=0: no C compiler needed, and the binaries run on any distribution.
    extra = {"CGO_ENABLED": "0", "GOFLAGS": "", **({"GOBIN": str(gobin)} if gobin else {})}
    flags = ("-trimpath", "-buildvcs=false")
    shell.run("nice", "-n", "10", "go", verb, *flags, *arguments, extra=extra, cwd=module)


def _ldflags(values: dict[str, str]) -> str:
    return "-ldflags=-s -w" + "".join(f" -X {name}={value}" for name, value in values.items())
