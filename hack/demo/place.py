"""Names and places of the demonstration."""

from pathlib import Path

from cluster import paths

PROJECT = Path(__file__).resolve().parents[2]
MANIFEST = PROJECT / "examples" / "datafetch.yaml"
CONSUMER = PROJECT / "examples" / "kubernetes" / "consumer-pod.yaml"
DEPLOYMENT = PROJECT / "examples" / "kubernetes" / "deployment.yaml"
FETCH = "training"
"""Name of the DataFetch in the manifest, of its claim, and of its directory on it."""
NAMESPACE = "demo"


def servers_state() -> Path:
    """Where the storage servers keep data, logs and pid files: in the cache, so that cleaning the work tree is safe."""
    return paths.cache() / "demo" / "storage"
