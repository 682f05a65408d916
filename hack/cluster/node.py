"""The node: containerd, kubelet and kube-proxy on this machine, with their configuration files.

A second node would be another set of these in a mount namespace of its own; nothing here has the name `node0` but NAME.
"""

import json
from pathlib import Path

from cluster import archive, binaries, certificates, control_plane, network, paths, processes, remains, shell
from cluster.errors import ClusterError
from cluster.processes import Process

NAME = "node0"
SOCKET = paths.runtime() / "containerd.sock"
PAUSE_IMAGE = "datafetch.local/pause:1"

_BUSYBOX = Path("/bin/busybox")
_CNI_PLUGINS = Path("/usr/lib/cni")


def prepare() -> None:
    """Write what containerd, kubelet and kube-proxy read."""
    remains.make_cgroups()
    _file("cni").mkdir(parents=True)
    client = certificates.sign("kubelet", f"system:node:{NAME}", group="system:nodes")
    certificates.write_kubeconfig(_file("kubelet.kubeconfig"), control_plane.SERVER, client)
    certificates.sign("kubelet-serving", NAME, hosts=(f"DNS:{NAME}", f"IP:{network.HOST_IP}"))
    _file("containerd.toml").write_text(_containerd_config())
    _file("cni/10-datafetch.conflist").write_text(json.dumps(_cni_config(), indent=2))
    _file("kubelet.json").write_text(json.dumps(_kubelet_config(), indent=2))
    _file("kube-proxy.json").write_text(json.dumps(_proxy_config(), indent=2))
    # Pods with `dnsPolicy: Default` get this: nothing of the machine's own DNS.
    _file("resolv.conf").write_text(f"nameserver {network.DNS_SERVICE_IP}\n")


def containerd() -> Process:
    """Return the container runtime, with root, state and socket of its own."""
    return Process("containerd", ("containerd", "--config", str(_file("containerd.toml"))))


def kubelet() -> Process:
    """Return the node's agent."""
    flags = (
        f"--config={_file('kubelet.json')}",
        f"--kubeconfig={_file('kubelet.kubeconfig')}",
        f"--root-dir={paths.state() / 'kubelet'}",
        f"--hostname-override={NAME}",
        f"--node-ip={network.HOST_IP}",
    )
    return Process("kubelet", (str(binaries.program("kubelet")), *flags))


def kube_proxy() -> Process:
    """Services, by iptables."""
    config = f"--config={_file('kube-proxy.json')}"
    return Process("kube-proxy", (str(binaries.program("kube-proxy")), config, f"--hostname-override={NAME}"))


def load_pause_image() -> None:
    """Wait for containerd and give it the image of the pods' sandboxes."""
    image = _file("pause.tar")
    archive.write(image, PAUSE_IMAGE, _BUSYBOX, ["/bin/busybox", "sleep", "2147483647"])
    if not processes.wait_until(lambda: ctr_attempt("version"), 20):
        raise ClusterError("containerd does not answer; see `python3 hack/cluster logs containerd`.")
    load(image)


def load(image: Path) -> None:
    """Import a docker-archive into the node's images; layers that containerd has already are not read again."""
    present = set(shell.run(*_CTR, "content", "ls", "--quiet").split())
    with archive.reduced(image, present) as layout:
        shell.run(*_CTR, "images", "import", layout)


def kill(container: str) -> None:
    """SIGKILL the first process of a container; with it goes its pid namespace, all that runs there."""
    shell.run(*_CTR, "task", "kill", "--signal", "SIGKILL", container)


def ctr_attempt(*arguments: str) -> bool:
    """Whether this `ctr` command succeeds."""
    return shell.attempt(*_CTR, *arguments).returncode == 0


_CTR = ("ctr", "--address", str(SOCKET), "--namespace", "k8s.io")


def _file(name: str) -> Path:
    return paths.state() / "node" / name


def _containerd_config() -> str:
    unused = ("aufs", "btrfs", "devmapper", "zfs")
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in unused] + ["io.containerd.internal.v1.opt"]
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{paths.state() / "containerd"}"
state = "{paths.runtime() / "containerd"}"
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "{SOCKET}"
{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE runc otherwise dies with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  # Under our state, so that `down` finds them.
  netns_mounts_under_state_dir = true
{cri}.cni]
  bin_dir = "{_CNI_PLUGINS}"
  conf_dir = "{_file("cni")}"
{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
{cri}.containerd.runtimes.runc.options]
  Root = "{paths.runtime() / "runc"}"
"""


def _cni_config() -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(network.NODE_PODS)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(paths.state() / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": network.BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": remains.CNI_NETWORK, "plugins": [bridge, ports]}


def _kubelet_config() -> dict[str, object]:
    serving = certificates.pair("kubelet-serving")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.HOST_IP,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates.pair("ca").certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{remains.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Lowering it needs CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        "clusterDNS": [network.DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": str(_file("resolv.conf")),
        "podLogsDir": str(paths.state() / "pod-logs"),
        "volumePluginDir": str(paths.state() / "volume-plugins"),
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
