"""Removing the demonstration: `python3 hack/demo clean`. Caches stay, so that the next run is quick."""

import shutil

from cluster import provider
from demo import place
from demo.tools import run_tool
from deploy import chart, storage
from deploy.kubectl import of_cluster
from storage import servers


def clean(*, keep_cluster: bool) -> None:
    """End the storage servers; end the cluster, or take what is ours out of it."""
    remove_servers()
    chosen = provider.choose()
    if keep_cluster or chosen.name == "existing":
        _empty_cluster()
        print("removed the demonstration; the cluster, and in it the CRD, stay")
        return
    run_tool("cluster", "down")
    print("removed the demonstration and its cluster; caches stay")


def remove_servers() -> None:
    """End the storage servers, and remove what was stored in them."""
    state = place.servers_state()
    if state.exists():
        servers.down(state)
        shutil.rmtree(state)


def _empty_cluster() -> None:
    kubectl = of_cluster()
    kubectl.delete("namespace", place.NAMESPACE)
    storage.withdraw_storage(kubectl)
    chart.uninstall_chart(kubectl)
    kubectl.delete("namespace", chart.NAMESPACE)
