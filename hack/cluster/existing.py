"""The cluster that KUBECONFIG names: it is used as it is, and nothing in it is started, changed or ended here."""

import os
from pathlib import Path

from cluster import binaries, shell
from cluster.errors import ClusterError


class Existing:
    """The provider `existing`."""

    name = "existing"

    def up(self) -> None:
        """Say so if the cluster doesn't answer."""
        binaries.ensure(binaries.kubectl(), binaries.helm())
        kubectl = binaries.program("kubectl")
        shell.run(kubectl, "--kubeconfig", self.kubeconfig(), "--request-timeout=10s", "get", "--raw", "/readyz")

    def down(self) -> None:
        """Leave the cluster alone: it is not ours."""
        print("The cluster that KUBECONFIG names is not ended: it was not started here.")

    def load(self, archives: list[Path]) -> None:
        """Refuse: only the owner of a cluster knows how its nodes get images."""
        raise ClusterError(
            f"Images can't be loaded into a cluster that was not started here: push {archives[0]} to a registry that "
            "it pulls from, and set the chart's image values."
        )

    def kubeconfig(self) -> Path:
        """Return the first file of KUBECONFIG."""
        config = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
        if not config:
            raise ClusterError("DATAFETCH_CLUSTER=existing needs KUBECONFIG: set it to the cluster's kubeconfig.")
        return Path(config).absolute()

    def host_ip(self) -> str:
        """Return the address that the caller says pods reach this machine at."""
        address = os.environ.get("DATAFETCH_HOST_IP", "")
        if not address:
            raise ClusterError("Set DATAFETCH_HOST_IP to the address at which the cluster's pods reach this machine.")
        return address

    def restart(self, process: str) -> None:
        """Refuse: nothing of it was started here."""
        raise ClusterError(
            f"{process} was not started here, so it is not restarted: use a cluster of `make cluster-up`."
        )

    def kill_container(self, container: str) -> None:
        """Refuse: its nodes are not ours."""
        raise ClusterError(f"Container {container} is not on a node of ours: use a cluster of `make cluster-up`.")

    def add_node(self) -> str:
        """Refuse."""
        raise ClusterError("Its nodes are not ours: use a cluster of `make cluster-up`.")

    def lose_node(self, name: str) -> None:
        """Refuse."""
        raise ClusterError(f"{name} is not cut off. Its nodes are not ours: use a cluster of `make cluster-up`.")

    def remove_node(self, name: str) -> None:
        """Refuse."""
        raise ClusterError(f"{name} is not removed. Its nodes are not ours: use a cluster of `make cluster-up`.")

    def run_on_node(self, *command: str) -> None:
        """Refuse: its nodes are not ours."""
        raise ClusterError(f"{command[0]} is not run on a node that is not ours: use a cluster of `make cluster-up`.")

    def is_healthy(self) -> bool:
        """Whether the API server answers."""
        kubectl = binaries.program("kubectl")
        answer = shell.attempt(kubectl, "--kubeconfig", self.kubeconfig(), "get", "--raw", "/readyz")
        return answer.returncode == 0

    def describe(self) -> list[str]:
        """There is nothing of ours to describe."""
        return []
