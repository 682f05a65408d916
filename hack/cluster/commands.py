"""The command line: `python3 hack/cluster COMMAND`."""

import argparse
import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster import paths, provider
from cluster.errors import ClusterError
from cluster.node import SECOND
from cluster.provider import Provider

_LOG_LINES = 40


def main() -> int:
    """Run one command; 1 and a sentence if it can't be done."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(provider.choose(), arguments))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 hack/cluster",
        description=f"A Kubernetes cluster to develop against. {provider.VARIABLE}=kind|local|existing chooses which.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it, or check that it runs")
    up.set_defaults(run=_up)
    commands.add_parser("down", help="end it and remove what it left").set_defaults(run=_down)
    commands.add_parser("status", help="say what runs; 1 if it is not usable").set_defaults(run=_status)
    load = commands.add_parser("load", help="bring image archives to the nodes")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    load.set_defaults(run=_load)
    restart = commands.add_parser("restart", help="restart one of Kubernetes' processes, for example kube-apiserver")
    restart.add_argument("process", metavar="PROCESS")
    restart.set_defaults(run=_restart)
    kill = commands.add_parser("kill", help="SIGKILL a container by its id, as a node out of memory would")
    kill.add_argument("container", metavar="CONTAINER_ID")
    kill.set_defaults(run=_kill)
    node = commands.add_parser("node", help="a second node, to drain or to lose")
    node.add_argument("action", choices=("add", "lose", "remove"), help="lose: as by a loss of power")
    node.set_defaults(run=_node)
    commands.add_parser("kubeconfig", help="print the kubeconfig's path").set_defaults(run=_kubeconfig)
    commands.add_parser("host-ip", help="print this machine's address as pods see it").set_defaults(run=_host_ip)
    commands.add_parser("bin", help="print the folder of kubectl and helm").set_defaults(run=_bin)
    logs = commands.add_parser("logs", help="print the end of the processes' logs")
    logs.add_argument("names", nargs="*", metavar="PROCESS", help="all, if none is named")
    logs.set_defaults(run=_logs)
    return parser


def _up(cluster: Provider, _: argparse.Namespace) -> int:
    with _alone():
        provider.remember(cluster)
        cluster.up()
    print(f"the cluster ({cluster.name}) is up: export KUBECONFIG={cluster.kubeconfig()}")
    return 0


def _down(cluster: Provider, _: argparse.Namespace) -> int:
    with _alone():
        cluster.down()
        provider.forget(cluster)
    return 0


def _status(cluster: Provider, _: argparse.Namespace) -> int:
    healthy = cluster.is_healthy()
    print(f"{cluster.name}: {'up' if healthy else 'not up'}", *cluster.describe(), sep="\n")
    return 0 if healthy else 1


def _load(cluster: Provider, arguments: argparse.Namespace) -> int:
    if missing := [str(path) for path in arguments.archives if not path.is_file()]:
        raise ClusterError(f"There is no {missing[0]}: build the images first, with `python3 hack/images build`.")
    cluster.load(arguments.archives)
    return 0


def _restart(cluster: Provider, arguments: argparse.Namespace) -> int:
    with _alone():
        cluster.restart(arguments.process)
    return 0


def _kill(cluster: Provider, arguments: argparse.Namespace) -> int:
    cluster.kill_container(arguments.container)
    return 0


def _node(cluster: Provider, arguments: argparse.Namespace) -> int:
    with _alone():
        if arguments.action == "add":
            print(cluster.add_node())
        elif arguments.action == "lose":
            cluster.lose_node(SECOND.name)
        else:
            cluster.remove_node(SECOND.name)
    return 0


def _kubeconfig(cluster: Provider, _: argparse.Namespace) -> int:
    print(cluster.kubeconfig())
    return 0


def _host_ip(cluster: Provider, _: argparse.Namespace) -> int:
    print(cluster.host_ip())
    return 0


def _bin(_: Provider, __: argparse.Namespace) -> int:
    print(paths.tools())
    return 0


def _logs(_: Provider, arguments: argparse.Namespace) -> int:
    names = arguments.names or sorted(path.stem for path in paths.logs().glob("*.log"))
    for name in names:
        log = paths.logs() / f"{name}.log"
        if not log.is_file():
            raise ClusterError(f"There is no log of {name!r}; `python3 hack/cluster status` names the processes.")
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        print(f"== {name} ({log})", *lines, sep="\n")
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Only one `up` or `down` at a time; a second one waits."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    with (paths.cache() / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
