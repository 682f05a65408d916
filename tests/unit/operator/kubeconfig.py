"""A kubeconfig for a server on loopback, for tests that start the program as it is."""

from pathlib import Path

import yaml


def write_kubeconfig(path: Path, server: str) -> None:
    """Write one that names this server, without credentials."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
    }
    path.write_text(yaml.safe_dump(content))
