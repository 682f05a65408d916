"""What every cluster has besides Kubernetes: DNS for Services, a default StorageClass and its provisioner."""

import os
import secrets
import socket
import sys
from pathlib import Path

from cluster import binaries, network, paths
from cluster.api import Api, Object
from cluster.processes import Process

STORAGE_CLASS = "datafetch-hostpath"
PROVISIONER = "datafetch.io/hostpath"

_DNS_PORT = 1053
_DNS_READY = "127.0.0.1:18181"


def dns() -> Process:
    """CoreDNS as a host process: cluster.local and nothing else, because no question may leave the machine."""
    corefile = paths.state() / "Corefile"
    corefile.write_text(
        f"""cluster.local:{_DNS_PORT} in-addr.arpa:{_DNS_PORT} {{
    bind {network.HOST_IP}
    errors
    ready {_DNS_READY}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {paths.kubeconfig()}
        ttl 5
    }}
}}
.:{_DNS_PORT} {{
    bind {network.HOST_IP}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""
    )
    return Process("coredns", (str(binaries.program("coredns")), "-conf", str(corefile)))


def provisioner(volumes: str, on_node: tuple[str, ...] = ()) -> Process:
    """Run the dynamic provisioner; `on_node` is put before the commands that make and remove folders on the node."""
    kubectl, config = str(binaries.program("kubectl")), str(paths.kubeconfig())
    argv = (sys.executable, "-m", "cluster.provisioner", kubectl, config, volumes, *on_node)
    here = str(Path(__file__).resolve().parent.parent)
    extra = {"PYTHONPATH": here, "PYTHONUNBUFFERED": "1"}
    if "DOCKER_HOST" in os.environ:
        extra["DOCKER_HOST"] = os.environ["DOCKER_HOST"]
    return Process("provisioner", argv, extra)


def apply_storage(api: Api) -> None:
    """Apply the default StorageClass."""
    path = f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}"
    api.apply(path, _storage_class())


def apply_dns(api: Api) -> None:
    """Apply the Service at which pods ask for names, with the host's DNS server behind it."""
    api.apply("/api/v1/namespaces/kube-system/services/kube-dns", _dns_service())
    slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
    api.apply(f"{slices}/kube-dns-host", _dns_endpoints())


def resolves(name: str, server: str) -> bool:
    """Whether a DNS server has an address for this name (RFC 1035: one question of type A over UDP)."""
    identity = secrets.token_bytes(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = identity + bytes.fromhex("01000001000000000000") + labels + bytes.fromhex("0000010001")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(question, (server, 53))
            answer = client.recv(512)
        except OSError:
            return False
    code, answers = answer[3] & 0x0F, int.from_bytes(answer[6:8])
    return answer[:2] == identity and code == 0 and answers > 0


def _storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def _dns_ports(key: str) -> list[Object]:
    number = {"port": 53, "targetPort": _DNS_PORT} if key == "service" else {"port": _DNS_PORT}
    return [{"name": f"dns-{protocol.lower()}", "protocol": protocol, **number} for protocol in ("UDP", "TCP")]


def _dns_service() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": network.DNS_SERVICE_IP, "ports": _dns_ports("service")},
    }


def _dns_endpoints() -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.HOST_IP], "conditions": {"ready": True}}],
        "ports": _dns_ports("endpoints"),
    }
