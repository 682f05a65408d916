"""How pip on this machine reaches its registry: handed to a build as secrets, so that no layer knows of it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PASSED_ON = ("index-url", "extra-index-url", "trusted-host", "proxy")
_CERTIFICATES_IN_BUILD = "/run/secrets/ca.pem"


@dataclass(frozen=True)
class Secrets:
    """Files for `--secret`: pip's configuration, and the authorities that it trusts."""

    pip_conf: Path
    authorities: Path

    def options(self) -> list[str]:
        """Return the options that docker, podman and buildah all understand."""
        named = {"pip.conf": self.pip_conf, "ca.pem": self.authorities}
        return [part for name, path in named.items() for part in ("--secret", f"id={name},src={path}")]


@contextlib.contextmanager
def secrets() -> Iterator[Secrets]:
    """Write the secrets of a build, and remove them after it."""
    settings = _settings()
    certificate = settings.pop("cert", "")
    with tempfile.TemporaryDirectory() as folder:
        files = Secrets(Path(folder, "pip.conf"), Path(folder, "ca.pem"))
        files.authorities.write_bytes(Path(certificate).read_bytes() if certificate else b"")
        if certificate:
            settings["cert"] = _CERTIFICATES_IN_BUILD
        lines = [f"{name} = {value}" for name, value in settings.items()]
        files.pip_conf.write_text("\n".join(["[global]", "disable-pip-version-check = true", *lines, ""]))
        yield files


def _settings() -> dict[str, str]:
    """Read pip's settings as pip itself does: its files first, then the environment, which wins."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in ("global", "install", ":env:") and option in (*_PASSED_ON, "cert"):
            found[option] = value.strip("'\"").replace("\\n", " ")
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if bundle and "cert" not in found:
        found["cert"] = bundle
    return found
