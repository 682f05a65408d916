"""The chart, installed with helm as a user does it, with the images that were built here."""

import contextlib
import fcntl
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster import binaries, paths, shell
from cluster.errors import ClusterError
from deploy.kubectl import Kubectl
from images import builder

CHART = Path(__file__).resolve().parents[2] / "helm" / "datafetch"
NAMESPACE = "datafetch-system"
RELEASE = "datafetch"
OWN_WEBHOOK_LABEL = "datafetch.io/own-webhook"
"""Namespaces with this label are left to the webhook of a test; the release's does not look at their pods."""

Values = Mapping[str, Any]


def install_chart(
    kubectl: Kubectl, namespace: str = NAMESPACE, values: Values | None = None, release: str = RELEASE
) -> None:
    """Install or upgrade the release, and wait until operator and webhook are ready; the namespace is `restricted`.

    `values` come on top of those for the images built here (`local_images`).
    """
    kubectl.ensure_namespace(namespace)
    merged = json.dumps(merge(local_images(), values or {}))
    # The crd tests and `kubectl apply -f crds/` leave a CRD that belongs to no release: this one takes it over.
    options = ("--take-ownership", "--values", "-", "--wait", "--timeout", "120s")
    with _alone():
        _forget_interrupted(kubectl, namespace, release)
        _helm(kubectl, namespace, "upgrade", "--install", release, str(CHART), *options, stdin=merged)


def uninstall_chart(kubectl: Kubectl, namespace: str = NAMESPACE, release: str = RELEASE) -> None:
    """Uninstall the release and wait until its pods are gone. The CRD and every DataFetch stay."""
    _helm(kubectl, namespace, "uninstall", release, "--ignore-not-found", "--wait", "--timeout", "120s")


def local_images() -> Values:
    """Return the values that name the images built here.

    Their tag stays the same when their content changes. The pods of operator and webhook carry the id of their image:
    they are replaced by an upgrade to a new image, and by no other.
    """
    operator, downloader = builder.IMAGES
    annotations = {"image-id": _image_id(operator)}
    return {
        "operator": {"image": _image_value(operator), "podAnnotations": annotations},
        "injection": {
            "webhook": {"podAnnotations": annotations},
            "namespaceSelector": {"matchExpressions": [{"key": OWN_WEBHOOK_LABEL, "operator": "DoesNotExist"}]},
        },
        "downloader": {"image": _image_value(downloader)},
    }


def merge(base: Values, over: Values) -> dict[str, Any]:
    """Return `base` with the values of `over` in it, as helm merges value files: maps by key, all else replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Only one installation from this machine at a time: helm refuses a second one, where this lets it wait."""
    with (paths.cache() / "chart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_interrupted(kubectl: Kubectl, namespace: str, release: str) -> None:
    """Remove the record of an installation that was killed: helm takes it for one that goes on, and refuses."""
    pending = "status in (pending-install, pending-upgrade, pending-rollback)"
    kubectl.run("delete", "secret", "--namespace", namespace, "--selector", f"owner=helm,name={release},{pending}")


def _image_value(image: builder.Image) -> dict[str, str]:
    repository, _, tag = image.name.partition(":")
    return {"repository": repository, "tag": tag}


def _image_id(image: builder.Image) -> str:
    """Return the digest of the image's config from the archive that `hack/images load` brings to the nodes."""
    if not image.archive.is_file():
        raise ClusterError(f"{image.name} is not built: run `make images-load` first.")
    with tarfile.open(image.archive) as archive:
        manifest = archive.extractfile("manifest.json")
        if manifest is None:
            raise ClusterError(f"{image.archive} is no docker-archive: run `make images-load` again.")
        config: str = json.load(manifest)[0]["Config"]
    return Path(config).name.removesuffix(".json")


def _helm(kubectl: Kubectl, namespace: str, *arguments: str, stdin: str | None = None) -> str:
    where = ("--kubeconfig", str(kubectl.kubeconfig), "--namespace", namespace)
    return shell.run(binaries.program("helm"), *where, *arguments, stdin=stdin)
