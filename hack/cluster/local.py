"""The cluster without Docker: Kubernetes' own programs as processes of this machine. Needs root and Linux."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cluster import (
    addons,
    api,
    binaries,
    control_plane,
    network,
    node,
    packages,
    paths,
    processes,
    remains,
    shell,
)
from cluster.errors import ClusterError

_PROCESSES = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "provisioner",
)
_READY_SECONDS = 90
_RESTARTABLE = {
    "containerd": node.containerd,
    "kube-apiserver": control_plane.apiserver,
    "kube-controller-manager": control_plane.controller_manager,
    "kube-scheduler": control_plane.scheduler,
    "kubelet": node.kubelet,
    "kube-proxy": node.kube_proxy,
}


class Local:
    """The provider `local`."""

    name = "local"

    def up(self) -> None:
        """Start the cluster unless it runs; what is left of a dead one is removed first."""
        _require_root()
        packages.ensure(packages.CLUSTER)
        binaries.ensure(binaries.kubernetes(), binaries.kubectl(), binaries.helm(), binaries.coredns())
        if self.is_healthy():
            return
        if paths.runtime().exists() or paths.state().exists():
            print("removing what is left of a cluster that no longer runs", flush=True)
            self.down()
        _start()

    def down(self) -> None:
        """End the processes that `up` started, then the containers, mounts, bridge and chains."""
        _require_root()
        processes.stop(processes.names())
        if paths.runtime().exists():
            network.remove()
        remains.remove()

    def load(self, archives: list[Path]) -> None:
        """Import image archives into the node's containerd."""
        for each in node.running():
            for image in archives:
                node.load(each, image)

    def kubeconfig(self) -> Path:
        """Where `up` wrote the administrator's kubeconfig."""
        return paths.kubeconfig()

    def host_ip(self) -> str:
        """Return the bridge's address."""
        return network.HOST_IP

    def restart(self, process: str) -> None:
        """End one of Kubernetes' own processes, start it again, and wait until the cluster can be used."""
        if process not in _RESTARTABLE:
            raise ClusterError(f"There is no process {process!r} to restart: say one of {', '.join(_RESTARTABLE)}.")
        processes.stop([process])
        processes.start(_RESTARTABLE[process]())
        _await(f"the cluster after a restart of {process}", self.is_healthy, process)

    def kill_container(self, container: str) -> None:
        """SIGKILL the first process of a container."""
        node.kill(container)

    def add_node(self) -> str:
        """Start a second node, with the images of the first."""
        added = node.SECOND
        if processes.is_running(added.process_names[0]):
            return added.name
        self.remove_node(added.name)
        network.add_bridge(added.number)
        node.prepare(added)
        processes.start(node.containerd(added))
        node.load_pause_image(added)
        node.copy_images(node.FIRST, added)
        processes.start(node.kubelet(added))
        client = _client()
        _await(f"node {added.name}", lambda: _is_node_ready(client, added), added.process_names[0])
        return added.name

    def lose_node(self, name: str) -> None:
        """Cut the second node's power."""
        node.cut_off(_second(name))

    def remove_node(self, name: str) -> None:
        """End the second node, and forget it: what the controller of a cloud does with a machine that is gone."""
        gone = _second(name)
        node.cut_off(gone)
        client = _client()
        if client.answers(f"/api/v1/nodes/{gone.name}"):
            client.request("DELETE", f"/api/v1/nodes/{gone.name}")
        network.remove_bridge(gone.number)
        node.forget(gone)

    def run_on_node(self, *command: str) -> None:
        """Run a command as root: the node is this machine."""
        shell.run(*command)

    def is_healthy(self) -> bool:
        """Every process runs, the node is Ready, and names are resolved."""
        if not paths.kubeconfig().exists() or not all(processes.is_running(name) for name in _PROCESSES):
            return False
        client = _client()
        return client.answers("/readyz") and _is_node_ready(client, node.FIRST) and _resolves()

    def describe(self) -> list[str]:
        """One line a process."""
        states = {True: "runs", False: "does not run"}
        return [f"{name}: {states[processes.is_running(name)]}" for name in _PROCESSES]


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "The cluster without Docker needs root (containers, iptables): run this as root, start Docker or podman, "
            "or use a cluster of your own with DATAFETCH_CLUSTER=existing and KUBECONFIG."
        )


def _start() -> None:
    started = time.monotonic()
    shutil.rmtree(paths.logs(), ignore_errors=True)
    paths.state().mkdir(parents=True)
    paths.runtime().mkdir(mode=0o711)
    network.raise_bridge()
    processes.start(control_plane.etcd())
    control_plane.make_certificates()
    processes.start(control_plane.apiserver())
    node.prepare(node.FIRST)
    node.prepare_proxy()
    processes.start(node.containerd())
    node.load_pause_image(node.FIRST)
    client = _client()
    _await("the API server", lambda: client.answers("/readyz"), "kube-apiserver")
    for process in (control_plane.controller_manager(), control_plane.scheduler(), node.kubelet(), node.kube_proxy()):
        processes.start(process)
    addons.apply_storage(client)
    addons.apply_dns(client)
    volumes = paths.state() / "volumes"
    volumes.mkdir()
    processes.start(addons.dns())
    processes.start(addons.provisioner(str(volumes)))
    _await("the node", lambda: _is_node_ready(client, node.FIRST), "kubelet")
    _await("DNS", _resolves, "coredns")
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    _await("the controllers", lambda: client.answers(account), "kube-controller-manager")
    _await("the provisioner", lambda: "ready" in (paths.logs() / "provisioner.log").read_text(), "provisioner")
    print(f"started in {time.monotonic() - started:.1f} s", flush=True)


def _await(what: str, condition: Callable[[], bool], process: str) -> None:
    def settled() -> bool:
        return condition() or not processes.is_running(process)

    processes.wait_until(settled, _READY_SECONDS, interval=0.1)
    if not condition():
        raise ClusterError(f"{what} did not become ready: see `python3 hack/cluster logs {process}`.")


def _client() -> api.Api:
    return api.connect(binaries.program("kubectl"), paths.kubeconfig())


def _second(name: str) -> node.Node:
    if name != node.SECOND.name:
        raise ClusterError(f"Only {node.SECOND.name} comes and goes, not {name!r}.")
    return node.SECOND


def _is_node_ready(client: api.Api, which: node.Node) -> bool:
    try:
        found = client.get(f"/api/v1/nodes/{which.name}")
    except (api.ApiError, OSError):
        return False
    conditions = found["status"].get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _resolves() -> bool:
    return addons.resolves("kubernetes.default.svc.cluster.local", network.DNS_SERVICE_IP)
