"""Which cluster is meant: what every provider can do, and the choice between the three."""

import os
from pathlib import Path
from typing import Protocol

from cluster import kind, paths
from cluster.errors import ClusterError
from cluster.existing import Existing
from cluster.kind import Kind
from cluster.local import Local

VARIABLE = "DATAFETCH_CLUSTER"


class Provider(Protocol):
    """A cluster, however it is run. Everything after `up` is the same for all."""

    name: str

    def up(self) -> None:
        """Start it, or check that it runs."""

    def down(self) -> None:
        """End what `up` started."""

    def load(self, archives: list[Path]) -> None:
        """Bring image archives to its nodes."""

    def kubeconfig(self) -> Path:
        """Return the path of an administrator's kubeconfig."""

    def host_ip(self) -> str:
        """Return the address at which its pods reach servers on this machine."""

    def restart(self, process: str) -> None:
        """End one of Kubernetes' own processes, start it again, and wait until the cluster can be used."""

    def kill_container(self, container: str) -> None:
        """SIGKILL the first process of a container, by its id, as no signal from inside can."""

    def add_node(self) -> str:
        """Start a second node, which is like the first, and return its name."""

    def lose_node(self, name: str) -> None:
        """End all that runs on the second node, as a loss of power does; the API server is told nothing."""

    def remove_node(self, name: str) -> None:
        """End the second node, where it still runs, and delete it from the API."""

    def run_on_node(self, *command: str) -> None:
        """Run a command as root on the node, where its volumes are."""

    def is_healthy(self) -> bool:
        """Whether it can be used now."""

    def describe(self) -> list[str]:
        """Lines for `status`."""


_PROVIDERS: dict[str, type[Provider]] = {"kind": Kind, "local": Local, "existing": Existing}


def choose() -> Provider:
    """Return the one that DATAFETCH_CLUSTER names, else the one that `up` started, else kind where an engine runs."""
    named = os.environ.get(VARIABLE, "") or remembered()
    if not named:
        named = "kind" if kind.engine() else "local"
    if named not in _PROVIDERS:
        raise ClusterError(f"{VARIABLE}={named}: say one of {', '.join(_PROVIDERS)}, or leave it unset.")
    if named != Existing.name and remembered() not in ("", named):
        raise ClusterError(f"A {remembered()} cluster is up: end it first, with {VARIABLE}={remembered()} and `down`.")
    return _PROVIDERS[named]()


def remember(provider: Provider) -> None:
    """Keep the choice for the commands after `up`. A cluster that exists anyway is used only when asked for."""
    if isinstance(provider, Existing):
        return
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().write_text(provider.name)


def forget(provider: Provider) -> None:
    """Drop the choice, now that `down` has ended that cluster."""
    if remembered() == provider.name:
        _file().unlink(missing_ok=True)


def remembered() -> str:
    """Return the provider whose cluster was started, or nothing."""
    return _file().read_text().strip() if _file().exists() else ""


def _file() -> Path:
    return paths.cache() / "provider"
