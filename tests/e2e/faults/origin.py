"""An S3 server of one test's own, which can go away, come back at the same address, and take other keys."""

import hashlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from deploy import storage
from deploy.kubectl import Kubectl
from e2e.faults.content import Content
from e2e.faults.faulting import until
from e2e.tenant import Json
from storage import fill, processes, servers
from storage.install import VERSITYGW, install

BUCKET = "models"


@dataclass
class Origin:
    """A versitygw whose root keys are those of its start: a new start with others is a rotation."""

    state: Path
    host: str
    port: int
    endpoint: str
    _running: processes.Process | None = field(default=None)

    @classmethod
    def begin(cls, kubectl: Kubectl, namespace: str, state: Path, host: str, port: int) -> "Origin":
        """Start it, and give it a name in the cluster."""
        (state / "s3").mkdir()
        made = cls(state, host, port, storage.publish(kubectl, "s3", host, port, namespace))
        try:
            made.start()
            fill.S3(f"http://{host}:{port}").create(BUCKET)
        except BaseException:
            made.stop()
            raise
        return made

    def start(self, access_key: str = servers.S3_ACCESS_KEY, secret_key: str = servers.S3_SECRET_KEY) -> None:
        """Start it with these keys and no others; what it stores is still there."""
        listening = ("--port", f"{self.host}:{self.port}", "--region", servers.S3_REGION)
        command = (str(install(VERSITYGW)), "--keep-alive", "--quiet", *listening, "posix", str(self.state / "s3"))
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.state),
            "ROOT_ACCESS_KEY": access_key,
            "ROOT_SECRET_KEY": secret_key,
        }
        self._running = processes.start(
            command, log=self.state / "s3.log", pid_file=self.state / "s3.pid", environment=environment
        )
        until(self._listens, 30, f"the S3 server listens on port {self.port}", 0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def stop(self) -> None:
        """End it: nobody listens at its address."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def put(self, contents: dict[str, bytes]) -> Content:
        """Store objects."""
        store = fill.S3(f"http://{self.host}:{self.port}")
        for key, value in contents.items():
            store.put(BUCKET, key, value)
        digests = {key: hashlib.sha256(value).hexdigest() for key, value in contents.items()}
        return Content(digests, sum(map(len, contents.values())))

    def source(self, secret: str) -> Json:
        """Return a source of all that it stores."""
        return {"name": "objects", "secretRef": {"name": secret}, "s3": {"bucket": BUCKET, "endpoint": self.endpoint}}
