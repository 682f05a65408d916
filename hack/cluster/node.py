"""The nodes: containerd and kubelet on this machine, with their configuration files, and one kube-proxy for all.

The first node is always there. The second comes and goes (`hack/cluster node`), for tests that drain or lose one: it
runs in a mount namespace of its own, because kubelet and containerd have folders that no flag moves.
"""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cluster import archive, binaries, certificates, control_plane, network, paths, processes, remains, shell
from cluster.errors import ClusterError
from cluster.processes import Process

PAUSE_IMAGE = "datafetch.local/pause:1"

_BUSYBOX = Path("/bin/busybox")
_CNI_PLUGINS = Path("/usr/lib/cni")


@dataclass(frozen=True)
class Node:
    """One node, and where what belongs to it lies."""

    name: str
    number: int

    @property
    def suffix(self) -> str:
        """What its processes, folders and control group have behind their names; nothing for the first."""
        return str(self.number) if self.number else ""

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """The addresses of its pods."""
        return network.pods_of(self.number)

    @property
    def address(self) -> str:
        """Its own address, which is its bridge's."""
        return str(self.pods[1])

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return paths.runtime() / f"containerd{self.suffix}.sock"

    @property
    def cgroup(self) -> str:
        """The control group above its containers."""
        return f"{remains.CGROUP}{self.suffix}"

    @property
    def process_names(self) -> tuple[str, str]:
        """Its processes, in the order in which they end."""
        return f"kubelet{self.suffix}", f"containerd{self.suffix}"

    def file(self, name: str) -> Path:
        """Return a file of its configuration."""
        return self.state("node") / name

    def state(self, name: str) -> Path:
        """Return a folder of its own."""
        return paths.state() / f"{name}{self.suffix}"

    def ctr(self, *arguments: str | Path) -> str:
        """Run a command of containerd's."""
        return shell.run(*self._ctr, *arguments)

    def answers(self) -> bool:
        """Whether its containerd does."""
        return shell.attempt(*self._ctr, "version").returncode == 0

    @property
    def _ctr(self) -> tuple[str, ...]:
        return ("ctr", "--address", str(self.socket), "--namespace", "k8s.io")


FIRST = Node("node0", 0)
SECOND = Node("node1", 1)

_UNMOVABLE = ("/var/lib/kubelet", "/run/containerd", "/var/lib/cni", "/var/log/containers")
"""Folders of kubelet, containerd's shims and CNI plugins that two nodes must not share."""
_ISOLATED = """
state=$1; shift
for folder in FOLDERS; do mkdir -p "$state$folder" "$folder"; mount --bind "$state$folder" "$folder"; done
exec "$@"
""".replace("FOLDERS", " ".join(_UNMOVABLE))


def running() -> list[Node]:
    """Return the nodes whose container runtime runs."""
    return [node for node in (FIRST, SECOND) if processes.is_running(node.process_names[1])]


def prepare(node: Node) -> None:
    """Write what its containerd and kubelet read."""
    remains.make_cgroups(node.cgroup)
    node.file("cni").mkdir(parents=True)
    client = certificates.sign(f"kubelet{node.suffix}", f"system:node:{node.name}", group="system:nodes")
    certificates.write_kubeconfig(node.file("kubelet.kubeconfig"), control_plane.SERVER, client)
    hosts = (f"DNS:{node.name}", f"IP:{node.address}")
    certificates.sign(f"kubelet{node.suffix}-serving", node.name, hosts=hosts)
    node.file("containerd.toml").write_text(_containerd_config(node))
    node.file("cni/10-datafetch.conflist").write_text(json.dumps(_cni_config(node), indent=2))
    node.file("kubelet.json").write_text(json.dumps(_kubelet_config(node), indent=2))
    # Pods with `dnsPolicy: Default` get this: nothing of the machine's own DNS.
    node.file("resolv.conf").write_text(f"nameserver {network.DNS_SERVICE_IP}\n")


def prepare_proxy() -> None:
    """Write what kube-proxy reads."""
    FIRST.file("kube-proxy.json").write_text(json.dumps(_proxy_config(), indent=2))


def containerd(node: Node = FIRST) -> Process:
    """Return the container runtime, with root, state and socket of its own."""
    argv: tuple[str, ...] = ("containerd", "--config", str(node.file("containerd.toml")))
    if node != FIRST:
        argv = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", _ISOLATED, "sh",
                str(node.state("mounts")), *argv)  # fmt: skip
    return Process(f"containerd{node.suffix}", argv)


def kubelet(node: Node = FIRST) -> Process:
    """Return the node's agent. It has to see what its containerd mounts, and the other way round."""
    argv: tuple[str, ...] = (
        str(binaries.program("kubelet")),
        f"--config={node.file('kubelet.json')}",
        f"--kubeconfig={node.file('kubelet.kubeconfig')}",
        f"--root-dir={node.state('kubelet')}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    )
    if node != FIRST:
        argv = ("nsenter", f"--target={processes.pid(node.process_names[1])}", "--mount", *argv)
    return Process(f"kubelet{node.suffix}", argv)


def kube_proxy() -> Process:
    """Services, by iptables."""
    config = f"--config={FIRST.file('kube-proxy.json')}"
    return Process("kube-proxy", (str(binaries.program("kube-proxy")), config, f"--hostname-override={FIRST.name}"))


def load_pause_image(node: Node) -> None:
    """Wait for its containerd and give it the image of the pods' sandboxes."""
    image = node.file("pause.tar")
    archive.write(image, PAUSE_IMAGE, _BUSYBOX, ["/bin/busybox", "sleep", "2147483647"])
    if not processes.wait_until(node.answers, 20):
        raise ClusterError(f"containerd does not answer; see `python3 hack/cluster logs {node.process_names[1]}`.")
    load(node, image)


def load(node: Node, image: Path) -> None:
    """Import a docker-archive into the node's images; layers that containerd has already are not read again."""
    present = set(node.ctr("content", "ls", "--quiet").split())
    with archive.reduced(image, present) as layout:
        node.ctr("images", "import", layout)


def copy_images(source: Node, target: Node) -> None:
    """Give a node all images of another."""
    names = [name for name in source.ctr("images", "ls", "--quiet").split() if not name.startswith("sha256:")]
    exported = target.file("images.tar")
    source.ctr("images", "export", exported, *names)
    target.ctr("images", "import", exported)
    exported.unlink()


def kill(container: str) -> None:
    """SIGKILL the first process of a container; with it goes its pid namespace, all that runs there."""
    for node in running():
        if container in node.ctr("tasks", "ls", "--quiet").split():
            node.ctr("task", "kill", "--signal", "SIGKILL", container)
            return
    raise ClusterError(f"No container {container} runs on {' or '.join(node.name for node in running())}.")


def cut_off(node: Node) -> None:
    """End all that runs on a node at once and without a word, as a loss of power does."""
    for name in node.process_names:
        processes.stop([name])
    processes.kill_container_shims(node.socket)
    remains.remove_cgroup(node.cgroup)


def forget(node: Node) -> None:
    """Delete what a node that was cut off has left on this machine."""
    for name in ("node", "containerd", "kubelet", "pod-logs", "addresses", "mounts", "volume-plugins"):
        remains.delete(node.state(name))
    for name in ("containerd", "runc"):
        remains.delete(paths.runtime() / f"{name}{node.suffix}")
    for socket in (node.socket, node.socket.with_suffix(".sock.ttrpc")):
        socket.unlink(missing_ok=True)


def _containerd_config(node: Node) -> str:
    unused = ("aufs", "btrfs", "devmapper", "zfs")
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in unused] + ["io.containerd.internal.v1.opt"]
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{node.state("containerd")}"
state = "{paths.runtime()}/containerd{node.suffix}"
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "{node.socket}"
{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE runc otherwise dies with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  # Under our state, so that `down` finds them.
  netns_mounts_under_state_dir = true
{cri}.cni]
  bin_dir = "{_CNI_PLUGINS}"
  conf_dir = "{node.file("cni")}"
{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
{cri}.containerd.runtimes.runc.options]
  Root = "{paths.runtime()}/runc{node.suffix}"
"""


def _cni_config(node: Node) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(node.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(node.state("addresses")),
    }
    bridge = {
        "type": "bridge",
        "bridge": network.bridge_of(node.number),
        "isGateway": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": f"{remains.CNI_NETWORK}{node.suffix}", "plugins": [bridge, ports]}


def _kubelet_config(node: Node) -> dict[str, object]:
    serving = certificates.pair(f"kubelet{node.suffix}-serving")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates.pair("ca").certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Lowering it needs CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        "clusterDNS": [network.DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": str(node.file("resolv.conf")),
        "podLogsDir": str(node.state("pod-logs")),
        "volumePluginDir": str(node.state("volume-plugins")),
        # A full disk of the developer's machine must not make the node refuse or evict pods.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # Images are loaded by hand; one that was collected would not come back.
        "imageMaximumGCAge": "0s",
        "imageMinimumGCAge": "8760h",
        "serializeImagePulls": False,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 20,
    }


def _proxy_config() -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(certificates.folder() / "kube-proxy.kubeconfig")},
        "clusterCIDR": str(network.PODS),
        "bindAddress": network.HOST_IP,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": [f"{network.HOST_IP}/32"],
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
        "iptables": {"minSyncPeriod": "100ms", "localhostNodePorts": False},
    }
