"""The cluster's network on this machine: one bridge that carries pods and servers, and guards that keep packets here.

Everything listens on the bridge or on loopback. A packet for a pod or a Service never leaves the machine (unreachable
routes below the bridge's own), and a pod reaches nothing beyond it (a REJECT in FORWARD).
"""

import ipaddress
import json
import re
from pathlib import Path

from cluster import paths, shell
from cluster.errors import ClusterError

BRIDGE = "datafetch0"
_BRIDGES = "datafetch+"
"""Those of all nodes, as iptables says it."""
PODS = ipaddress.IPv4Network("10.244.0.0/16")
SERVICES = ipaddress.ip_network("10.96.0.0/16")
HOST_IP = "10.244.0.1"
"""This machine, as pods see it: node address, API server, DNS, and servers under test."""
API_SERVICE_IP = str(SERVICES[1])
DNS_SERVICE_IP = str(SERVICES[10])

_GUARD_METRIC = "4000"
_EGRESS = "DATAFETCH-EGRESS"
_OUR_CHAINS = re.compile(r"(KUBE|CNI|DATAFETCH)-")
_SWITCHES = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")


def pods_of(number: int) -> ipaddress.IPv4Network:
    """Return the addresses of a node's pods."""
    return ipaddress.IPv4Network((int(PODS.network_address) + 256 * number, 24))


def bridge_of(number: int) -> str:
    """Return the name of a node's bridge."""
    return f"datafetch{number}"


def raise_bridge() -> None:
    """Make the first bridge and the routes, before the first pod, so that servers can already bind its address."""
    _refuse_foreign_routes()
    for network in (PODS, SERVICES):
        shell.run("ip", "route", "replace", "unreachable", str(network), "metric", _GUARD_METRIC)
    add_bridge(0)
    # A connection to a Service needs a route before kube-proxy's rules in OUTPUT can rewrite it.
    shell.run("ip", "route", "replace", str(SERVICES), "dev", BRIDGE, "src", HOST_IP)
    _switch_forwarding_on()


def add_bridge(number: int) -> None:
    """Make a node's bridge."""
    bridge, pods = bridge_of(number), pods_of(number)
    if not _exists(bridge):
        shell.run("ip", "link", "add", bridge, "type", "bridge")
        # A bridge otherwise takes the lowest address of its ports, which changes as pods come and go.
        shell.run("ip", "link", "set", bridge, "address", f"0a:58:0a:f4:{number:02x}:01")
        shell.run("ip", "address", "add", f"{pods[1]}/{pods.prefixlen}", "dev", bridge)
    shell.run("ip", "link", "set", bridge, "up")
    _forbid_egress()


def remove_bridge(number: int) -> None:
    """Take a node's bridge away, and with it its pods' interfaces."""
    if _exists(bridge_of(number)):
        shell.run("ip", "link", "delete", bridge_of(number))


def remove() -> None:
    """Take away the bridge, the chains of kube-proxy, kubelet and the CNI plugins, and last the guarding routes."""
    for family in ("iptables", "ip6tables"):
        _remove_chains(family)
    for number in (0, 1):
        remove_bridge(number)
    _restore_switches()
    for network in (PODS, SERVICES):
        shell.attempt("ip", "route", "delete", "unreachable", str(network), "metric", _GUARD_METRIC)


def _exists(bridge: str) -> bool:
    return shell.attempt("ip", "link", "show", bridge).returncode == 0


def _refuse_foreign_routes() -> None:
    for route in json.loads(shell.run("ip", "-json", "-4", "route", "show", "table", "main")):
        known = route.get("dev") in (bridge_of(0), bridge_of(1))
        foreign = not known and route.get("type") != "unreachable" and route["dst"] != "default"
        if not foreign:
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        for ours in (PODS, SERVICES):
            if network.overlaps(ours):
                raise ClusterError(
                    f"{network} is routed to {route.get('dev')}, and the local cluster needs {ours}: "
                    "end what uses that range, or use another cluster with DATAFETCH_CLUSTER=existing."
                )


def _switch_forwarding_on() -> None:
    shell.attempt("modprobe", "br_netfilter")
    before = {name: _switch(name).read_text().strip() for name in _SWITCHES if _switch(name).exists()}
    if "net/bridge/bridge-nf-call-iptables" not in before:
        raise ClusterError("The kernel has no br_netfilter, which Services need: load that module.")
    if not _saved_switches().exists():
        _saved_switches().write_text(json.dumps(before))
    for name in before:
        _switch(name).write_text("1")


def _restore_switches() -> None:
    if not _saved_switches().exists():
        return
    for name, value in json.loads(_saved_switches().read_text()).items():
        _switch(name).write_text(value)
    _saved_switches().unlink()


def _switch(name: str) -> Path:
    return Path("/proc/sys") / name


def _saved_switches() -> Path:
    return paths.runtime() / "switches.json"


def _forbid_egress() -> None:
    shell.attempt("iptables", "-w", "-N", _EGRESS)
    shell.run("iptables", "-w", "-F", _EGRESS)
    reject = ("-j", "REJECT", "--reject-with", "icmp-net-unreachable")
    shell.run("iptables", "-w", "-A", _EGRESS, "-i", _BRIDGES, "!", "-o", _BRIDGES, *reject)
    if shell.attempt("iptables", "-w", "-C", "FORWARD", "-j", _EGRESS).returncode != 0:
        shell.run("iptables", "-w", "-I", "FORWARD", "-j", _EGRESS)


def _remove_chains(family: str) -> None:
    saved = shell.attempt(f"{family}-save")
    if saved.returncode != 0:
        return
    if script := removal_script(saved.stdout):
        shell.run(f"{family}-restore", "-w", "--noflush", stdin=script)


def removal_script(saved: str) -> str:
    """Turn the output of iptables-save into input of iptables-restore that removes a cluster's chains and jumps."""
    lines: list[str] = []
    for table in re.findall(r"^\*(\w+)\n(.*?)^COMMIT$", saved, re.MULTILINE | re.DOTALL):
        chains = [name for name in re.findall(r"^:(\S+)", table[1], re.MULTILINE) if _OUR_CHAINS.match(name)]
        rules = re.findall(r"^-A (\S+) (.*)$", table[1], re.MULTILINE)
        jumps = [f"-D {chain} {rule}" for chain, rule in rules if not _OUR_CHAINS.match(chain) and _jumps(rule)]
        if chains:
            removals = [f"-F {name}" for name in chains] + [f"-X {name}" for name in chains]
            lines += [f"*{table[0]}", *jumps, *removals, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def _jumps(rule: str) -> bool:
    target = re.search(r"-[jg] (\S+)", rule)
    return target is not None and _OUR_CHAINS.match(target[1]) is not None
