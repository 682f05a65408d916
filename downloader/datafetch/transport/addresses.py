"""Where a redirect may lead, by the addresses of the two ends: not to this machine, nor to its cloud's metadata. Pure.

Who writes a config may name any address: creating a DataFetch is as much as creating pods. A server that is named in
one is a stranger, and must not be able to let a Job fetch what only its node may ask for (169.254.169.254, the admin
port of a sidecar) onto a volume that others read. Private addresses stay allowed: storage inside a cluster redirects to
its peers.
"""

import ipaddress
import socket
from enum import Enum

_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192")
)
"""Metadata services of AWS (IPv6), GCP (IPv6), Azure, Alibaba and Oracle that are not link-local."""


class Reach(Enum):
    """Who can be reached at an address."""

    ANYBODY = "anybody"
    THIS_MACHINE = "this machine (loopback)"
    THIS_LINK = "this machine's network (link-local)"
    METADATA = "the cloud's metadata service"


def reach(address: str) -> Reach:
    """Return who is reached at an IP address, however it is written; a host's name counts as anybody.

    Names come here only where a proxy looks them up: just `localhost` has the same meaning for everybody.
    """
    try:
        found = ipaddress.ip_address(_canonical(address.strip("[]").partition("%")[0]))
    except (ValueError, OSError):
        name = address.lower().removesuffix(".")
        return Reach.THIS_MACHINE if name == "localhost" or name.endswith(".localhost") else Reach.ANYBODY
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
    if found in _METADATA or str(found) == "169.254.169.254":
        return Reach.METADATA
    if found.is_loopback or found.is_unspecified:
        return Reach.THIS_MACHINE
    if found.is_link_local:
        return Reach.THIS_LINK
    return Reach.ANYBODY


def _canonical(address: str) -> str:
    """Return an address as `ipaddress` reads it: in a URL, 127.1 and 0x7f000001 are 127.0.0.1 too."""
    return address if ":" in address else socket.inet_ntoa(socket.inet_aton(address))


def may_redirect(sender: str, goal: str) -> bool:
    """Return whether a server at `sender` may send us to `goal`: to anybody, or to where it is itself.

    Both are addresses that a socket is connected to, not names: a name may mean another address at every look-up. Only
    behind a proxy they are hosts as they stand in the URL.
    """
    return reach(goal) in (Reach.ANYBODY, reach(sender))
