"""etcd, the API server, the controller manager and the scheduler as host processes: their flags and certificates."""

from cluster import binaries, certificates, network, paths
from cluster.processes import Process

SERVER = f"https://{network.HOST_IP}:6443"

# Not etcd's usual ports: another etcd may run on a developer's machine.
_ETCD_CLIENTS = "http://127.0.0.1:12379"
_ETCD_PEERS = "http://127.0.0.1:12380"


def make_certificates() -> None:
    """Make the authority, the server's certificate and one client certificate for each component."""
    certificates.make_authority()
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    addresses = (network.HOST_IP, network.API_SERVICE_IP, "127.0.0.1")
    hosts = (*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses))
    certificates.sign("apiserver", "kube-apiserver", hosts=hosts)
    certificates.sign("apiserver-kubelet", "kube-apiserver-kubelet-client", group="system:masters")
    admin = certificates.sign("admin", "admin", group="system:masters")
    certificates.write_kubeconfig(paths.kubeconfig(), SERVER, admin)
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        client = certificates.sign(component, f"system:{component}")
        certificates.write_kubeconfig(certificates.folder() / f"{component}.kubeconfig", SERVER, client)


def etcd() -> Process:
    """Return the store, on loopback; it never syncs, because a new cluster starts empty anyway."""
    flags = {
        "data-dir": str(paths.state() / "etcd"),
        "listen-client-urls": _ETCD_CLIENTS,
        "advertise-client-urls": _ETCD_CLIENTS,
        "listen-peer-urls": _ETCD_PEERS,
        "initial-advertise-peer-urls": _ETCD_PEERS,
        "initial-cluster": f"default={_ETCD_PEERS}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }
    return _process("etcd", flags)


def apiserver() -> Process:
    """Return the API server, on the bridge's address, so that pods reach it and no other machine does."""
    pki = certificates.folder()
    serving, kubelet_client = certificates.pair("apiserver"), certificates.pair("apiserver-kubelet")
    flags = {
        "etcd-servers": _ETCD_CLIENTS,
        "bind-address": network.HOST_IP,
        "advertise-address": network.HOST_IP,
        "secure-port": "6443",
        "service-cluster-ip-range": str(network.SERVICES),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "client-ca-file": str(pki / "ca.crt"),
        "tls-cert-file": str(serving.certificate),
        "tls-private-key-file": str(serving.key),
        "kubelet-client-certificate": str(kubelet_client.certificate),
        "kubelet-client-key": str(kubelet_client.key),
        # The node's name stands in no DNS, and `kubectl logs` must find the node.
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": str(pki / "sa.pub"),
        "service-account-signing-key-file": str(pki / "sa.key"),
        "profiling": "false",
    }
    return _process("kube-apiserver", flags)


def controller_manager() -> Process:
    """Return the controllers. A lost node shows within half a minute instead of five."""
    pki = certificates.folder()
    flags = {
        **_client_flags("kube-controller-manager"),
        "cluster-cidr": str(network.PODS),
        "allocate-node-cidrs": "true",
        "service-account-private-key-file": str(pki / "sa.key"),
        "root-ca-file": str(pki / "ca.crt"),
        "cluster-signing-cert-file": str(pki / "ca.crt"),
        "cluster-signing-key-file": str(pki / "ca.key"),
        "use-service-account-credentials": "true",
        "node-monitor-period": "2s",
        "node-monitor-grace-period": "24s",
        "profiling": "false",
    }
    return _process("kube-controller-manager", flags)


def scheduler() -> Process:
    """Return the scheduler."""
    return _process("kube-scheduler", {**_client_flags("kube-scheduler"), "profiling": "false"})


def _client_flags(component: str) -> dict[str, str]:
    config = str(certificates.folder() / f"{component}.kubeconfig")
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": "127.0.0.1",
        "leader-elect": "false",
    }


def _process(name: str, flags: dict[str, str]) -> Process:
    return Process(name, (str(binaries.program(name)), *(f"--{flag}={value}" for flag, value in flags.items())))
