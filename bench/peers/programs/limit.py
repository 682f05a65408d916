"""The limit: read the bytes from raw sockets into one buffer a thread and pwrite them; nothing else.

    python -I -S limit.py WORK.json TARGET CONNECTIONS

Is told keys, targets and sizes (no listing), verifies and flushes nothing, keeps no state.
"""

import json
import os
import socket
import ssl
import sys
import threading
from collections import deque
from urllib.parse import urlsplit

RANGE_BYTES = 32 << 20
BUFFER_BYTES = 1 << 20


class Connection:
    """One connection and its buffer."""

    def __init__(self, host: str, port: int, *, tls: bool) -> None:
        self._host = f"{host}:{port}".encode()
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def fetch(self, target: str, start: int, length: int, size: int, descriptor: int) -> None:
        """Bring bytes of an object to their place in a file."""
        ranged = "" if length == size else f"Range: bytes={start}-{start + length - 1}\r\n"
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: {self._host.decode()}\r\n{ranged}\r\n".encode())
        filled, body = self._head()
        begin = body
        while True:
            start += os.pwrite(descriptor, self._buffer[begin:filled], start)
            length -= filled - begin
            if length <= 0:
                return
            filled, begin = self._socket.recv_into(self._buffer), 0
            if not filled:
                raise ConnectionError(f"{target}: {length} bytes are missing")

    def _head(self) -> tuple[int, int]:
        """Return how much of the buffer is filled and where the body begins."""
        filled = 0
        while True:
            count = self._socket.recv_into(self._buffer[filled:])
            filled += count
            head = bytes(self._buffer[: min(filled, 4096)])
            end = head.find(b"\r\n\r\n")
            if end >= 0:
                break
            if not count:
                raise ConnectionError("the server said nothing")
        if head[9:12] not in (b"200", b"206"):
            raise ConnectionError(head.decode(errors="replace"))
        return filled, end + 4


def main() -> None:
    """Share the ranges among the connections, each with a thread of its own."""
    work, target, connections = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(work, encoding="utf-8") as file:
        plan = json.load(file)
    url = urlsplit(plan["url"])
    ranges = deque(
        (key, path, start, min(RANGE_BYTES, size - start), size)
        for key, path, size in plan["objects"]
        for start in range(0, max(size, 1), RANGE_BYTES)
    )
    for directory in {os.path.dirname(key) for key, _, _ in plan["objects"]}:
        os.makedirs(os.path.join(target, directory), exist_ok=True)
    failures: list[BaseException] = []

    def work_off() -> None:
        try:
            connection = Connection(str(url.hostname), int(url.port or 0), tls=url.scheme == "https")
            while True:
                try:
                    key, path, start, length, size = ranges.popleft()
                except IndexError:
                    return
                descriptor = os.open(os.path.join(target, key), os.O_WRONLY | os.O_CREAT, 0o644)
                connection.fetch(path, start, length, size, descriptor)
                os.close(descriptor)
        except BaseException as error:  # noqa: BLE001 - said below, in the main thread
            failures.append(error)

    threads = [threading.Thread(target=work_off) for _ in range(min(connections, len(ranges)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"limit: {failures[0]}")


if __name__ == "__main__":
    main()
