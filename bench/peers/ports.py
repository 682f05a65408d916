"""Where the servers of a benchmark listen: loopback, on ports that are free at the moment."""

import socket

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
