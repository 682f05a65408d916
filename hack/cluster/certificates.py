"""The cluster's certificate authority, its client certificates, and the kubeconfigs made of them (by openssl)."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from cluster import paths, shell

_DAYS = "365"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: Path
    key: Path


def folder() -> Path:
    """Where keys and certificates lie."""
    return paths.state() / "pki"


def pair(name: str) -> Pair:
    """Return the paths of a named certificate and key."""
    return Pair(folder() / f"{name}.crt", folder() / f"{name}.key")


def make_authority() -> None:
    """Make a new certificate authority and the key that signs service account tokens."""
    folder().mkdir(parents=True, mode=0o700)
    _request("ca", "/CN=datafetch", "-addext", "basicConstraints=critical,CA:TRUE")
    shell.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder() / "sa.key")
    shell.run("openssl", "ec", "-in", folder() / "sa.key", "-pubout", "-out", folder() / "sa.pub")


def sign(name: str, common_name: str, group: str = "", hosts: tuple[str, ...] = ()) -> Pair:
    """Sign a certificate for a client, or with `hosts` (DNS:..., IP:...) for a server too."""
    subject = f"/O={group}/CN={common_name}" if group else f"/CN={common_name}"
    authority = pair("ca")
    alternatives = ("-addext", f"subjectAltName={','.join(hosts)}") if hosts else ()
    usage = "serverAuth,clientAuth" if hosts else "clientAuth"
    signing = ("-CA", authority.certificate, "-CAkey", authority.key)
    _request(name, subject, *signing, "-addext", f"extendedKeyUsage={usage}", *alternatives)
    return pair(name)


def write_kubeconfig(target: Path, server: str, client: Pair) -> Path:
    """Write a kubeconfig with everything inside, so that it may be copied; JSON is YAML."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "datafetch",
        "contexts": [{"name": "datafetch", "context": {"cluster": "datafetch", "user": "datafetch"}}],
        "clusters": [
            {
                "name": "datafetch",
                "cluster": {"server": server, "certificate-authority-data": _inline(pair("ca").certificate)},
            }
        ],
        "users": [
            {
                "name": "datafetch",
                "user": {
                    "client-certificate-data": _inline(client.certificate),
                    "client-key-data": _inline(client.key),
                },
            }
        ],
    }
    target.touch(mode=0o600)
    target.write_text(json.dumps(config, indent=2))
    return target


def _request(name: str, subject: str, *options: str | Path) -> None:
    made = pair(name)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", made.key)
    end = ("-out", made.certificate, "-days", _DAYS, "-subj", subject)
    shell.run("openssl", "req", "-x509", *key, *end, *options)


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
