"""A webhook of the tests' own: an HTTPS server on this machine that the API server asks, and that remembers it."""

import base64
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from crd.fetches import Json

MARK = "marked"
"""Label that the recorder puts on every pod it is asked about."""
_PATCH = base64.b64encode(json.dumps([{"op": "add", "path": "/metadata/labels", "value": {MARK: "yes"}}]).encode())


class Recorder:
    """The requests that came, in their order."""

    def __init__(self) -> None:
        self.requests: list[Json] = []

    def answer(self, review: Json) -> Json:
        """Remember a request, and allow it with a label on the pod."""
        self.requests.append(review["request"])
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": _PATCH.decode(),
        }
        return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Make a certificate for an IP address that is its own CA, and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key))
    subject = ("-days", "2", "-subj", "/CN=webhook", "-addext", f"subjectAltName=IP:{host}")
    command = ["openssl", "req", "-x509", *new, "-out", str(certificate), *subject]
    subprocess.run(command, capture_output=True, check=True)
    return certificate, key


@contextmanager
def serve(recorder: Recorder, host: str, certificate: Path, key: Path) -> Iterator[int]:
    """Answer reviews at an address of this machine; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(recorder.answer(review)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: what came is in the recorder."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((host, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
