"""The cluster where Docker or podman runs: kind, by hack/kind/kind.yaml. Not run on a machine without Docker."""

import json
import time
from pathlib import Path

from cluster import addons, api, binaries, paths, processes, shell
from cluster.errors import ClusterError

_NAME = "datafetch"
_NODE = f"{_NAME}-control-plane"
_CONFIG = paths.SOURCES.parent / "kind" / "kind.yaml"
_VOLUMES_ON_NODE = "/var/local/datafetch"
_FALL_SECONDS = 2.0
_READY_SECONDS = 120.0

_NO_MORE_NODES = (
    "A kind cluster keeps the nodes that it was made with: use the local one, with DATAFETCH_CLUSTER=local."
)


class Kind:
    """The provider `kind`."""

    name = "kind"

    def up(self) -> None:
        """Create the cluster unless it exists, then add what the other clusters have too."""
        started = time.monotonic()
        binaries.ensure(binaries.kind(), binaries.kubectl(), binaries.helm())
        if self.is_healthy():
            return
        paths.state().mkdir(parents=True, exist_ok=True)
        if _NAME not in _kind("get", "clusters").split():
            _kind("create", "cluster", "--config", _CONFIG, "--kubeconfig", paths.kubeconfig(), "--wait", "120s")
        _kind("export", "kubeconfig", "--name", _NAME, "--kubeconfig", paths.kubeconfig())
        client = api.connect(binaries.program("kubectl"), paths.kubeconfig())
        _unset_default_class(client)
        addons.apply_storage(client)
        processes.stop(["provisioner"])
        processes.start(addons.provisioner(_VOLUMES_ON_NODE, (engine(), "exec", _NODE)))
        print(f"started in {time.monotonic() - started:.1f} s", flush=True)

    def down(self) -> None:
        """Delete the cluster and end the provisioner."""
        processes.stop(processes.names())
        binaries.ensure(binaries.kind())
        _kind("delete", "cluster", "--name", _NAME, "--kubeconfig", paths.kubeconfig())
        paths.kubeconfig().unlink(missing_ok=True)

    def load(self, archives: list[Path]) -> None:
        """Load image archives into kind's node."""
        for image in archives:
            _kind("load", "image-archive", image, "--name", _NAME)

    def kubeconfig(self) -> Path:
        """Where `up` wrote the administrator's kubeconfig."""
        return paths.kubeconfig()

    def host_ip(self) -> str:
        """Return the gateway of kind's network, by which pods reach servers of this machine."""
        networks = json.loads(shell.run(engine(), "network", "inspect", "kind"))[0]
        ranges = networks.get("IPAM", {}).get("Config") or networks.get("subnets", [])
        gateways = [entry.get("Gateway") or entry.get("gateway") for entry in ranges]
        found = [gateway for gateway in gateways if gateway and ":" not in gateway]
        if not found:
            raise ClusterError("The network `kind` has no IPv4 gateway: see `docker network inspect kind`.")
        return str(found[0])

    def restart(self, process: str) -> None:
        """Kill it on kind's node, where kubelet or systemd starts it again."""
        shell.run(engine(), "exec", _NODE, "pkill", "-KILL", "--exact", process)
        processes.wait_until(lambda: not self.is_healthy(), _FALL_SECONDS)
        if not processes.wait_until(self.is_healthy, _READY_SECONDS):
            raise ClusterError(f"The cluster did not become ready after a restart of {process}.")

    def kill_container(self, container: str) -> None:
        """SIGKILL the first process of a container."""
        task = ("ctr", "--namespace", "k8s.io", "task", "kill", "--signal", "SIGKILL")
        shell.run(engine(), "exec", _NODE, *task, container)

    def add_node(self) -> str:
        """Refuse."""
        raise ClusterError(
            "A kind cluster keeps the nodes that it was made with: use the local one, with DATAFETCH_CLUSTER=local."
        )

    def lose_node(self, _: str) -> None:
        """Refuse."""
        raise ClusterError(_NO_MORE_NODES)

    def remove_node(self, _: str) -> None:
        """Refuse."""
        raise ClusterError(_NO_MORE_NODES)

    def run_on_node(self, *command: str) -> None:
        """Run a command as root on the node."""
        shell.run(engine(), "exec", _NODE, *command)

    def is_healthy(self) -> bool:
        """Tell whether the provisioner runs and the API server answers."""
        if not paths.kubeconfig().exists() or not processes.is_running("provisioner"):
            return False
        return api.connect(binaries.program("kubectl"), paths.kubeconfig()).answers("/readyz")

    def describe(self) -> list[str]:
        """Say whether the provisioner runs, the one process of ours."""
        return [f"provisioner: {'runs' if processes.is_running('provisioner') else 'does not run'}"]


def engine() -> str:
    """Return the container engine that answers, or nothing."""
    return next((name for name in ("docker", "podman") if shell.attempt(name, "info").returncode == 0), "")


def _kind(*arguments: str | Path) -> str:
    extra = {"KIND_EXPERIMENTAL_PROVIDER": engine() or "docker"}
    return shell.run(binaries.program("kind"), *arguments, extra=extra)


def _unset_default_class(client: api.Api) -> None:
    """Take the role of default from kind's own class; with two defaults, their age would decide."""
    classes = "/apis/storage.k8s.io/v1/storageclasses"
    annotations = {"storageclass.kubernetes.io/is-default-class": "false"}
    for item in client.get(classes)["items"]:
        if item["metadata"]["name"] != addons.STORAGE_CLASS:
            body = {"metadata": {"annotations": annotations}}
            client.request("PATCH", f"{classes}/{item['metadata']['name']}", body, "application/merge-patch+json")
