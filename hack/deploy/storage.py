"""Servers of this machine under DNS names in the cluster: Services without selector, with this machine behind them.

Starting and filling the servers is hack/storage.
"""

from dataclasses import dataclass

from cluster.api import Object
from deploy.kubectl import Kubectl
from storage.servers import AZURE_ACCOUNT, Addresses

NAMESPACE = "storage"
_PORT_NAME = "http"


@dataclass(frozen=True)
class Endpoints:
    """URLs of the storage servers, as pods reach them."""

    s3: str
    gcs: str
    azure: str
    """With the account as the path's first segment."""


def publish_storage(kubectl: Kubectl, addresses: Addresses, namespace: str = NAMESPACE) -> Endpoints:
    """Publish the three servers of hack/storage as s3, gcs and azure in a namespace."""
    azure = publish(kubectl, "azure", addresses.host, addresses.azure_port, namespace)
    return Endpoints(
        s3=publish(kubectl, "s3", addresses.host, addresses.s3_port, namespace),
        gcs=publish(kubectl, "gcs", addresses.host, addresses.gcs_port, namespace),
        azure=f"{azure}/{AZURE_ACCOUNT}",
    )


def publish(kubectl: Kubectl, name: str, address: str, port: int, namespace: str = NAMESPACE) -> str:
    """Publish one HTTP server at an IP address of this machine; return its URL, `http://NAME.NAMESPACE.svc`.

    The address must be one that pods reach: `python3 hack/cluster host-ip`.
    """
    kubectl.ensure_namespace(namespace)
    kubectl.apply(_service(name, namespace), _endpoint_slice(name, namespace, address, port))
    return f"http://{name}.{namespace}.svc"


def withdraw_storage(kubectl: Kubectl, namespace: str = NAMESPACE) -> None:
    """Take the names away; the servers run on."""
    kubectl.delete("namespace", namespace)


def _service(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": _PORT_NAME, "port": 80}]},
    }


def _endpoint_slice(name: str, namespace: str, address: str, port: int) -> Object:
    # The port's name joins the two: the Service listens on 80, the server on its own port.
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": _PORT_NAME, "port": port}],
        "endpoints": [{"addresses": [address]}],
    }
