"""A DataFetch resource without a cluster: from `datafetch.yaml` to the config that fills a directory.

The data lands directly in the target directory (`spec.target`, `job` and `refresh` mean something only in a cluster).
Reads no Secret: a `secretRef` becomes the directory that holds the Secret's keys as files.
"""

import logging
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import ValidationError

from datafetch.errors import InvalidConfigError
from datafetch_api import API_VERSION, KIND
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.documents import Document, InvalidTextError, Path
from datafetch_api.printable import single_line
from datafetch_api.problems import did_you_mean, problems, sentence
from datafetch_api.rendering import download_item, transfer_settings
from datafetch_api.resource import DataFetch, Source

logger = logging.getLogger(__name__)
_CLUSTER_SUFFIXES = (".svc", ".svc.cluster.local")
_CHAINS = {
    "s3": "environment, ~/.aws, web identity, instance metadata",
    "gcs": "application default credentials",
    "azure-blob": "environment",
    "hf": "HF_TOKEN, or the token of `hf auth login`",
    "lakefs": "LAKECTL_ environment variables, ~/.lakectl.yaml",
    "git": "none",
    "http": "none",
}
"""Where credentials come from without a Secret, by the type of the item."""


def load(documents: Sequence[Document], *, target_dir: str | None, secrets_dir: str | None) -> DownloadConfig:
    """Return the config that the one DataFetch among the documents stands for.

    Raises InvalidTextError whose message names the place in the file, and InvalidConfigError for what the command line
    lacks.
    """
    document = _only_data_fetch(documents)
    resource = _validate(document)
    if target_dir is None:
        raise InvalidConfigError(
            f"{document.name} is a DataFetch: say where its data goes here with --target-dir DIR "
            "(or apply it to a cluster with kubectl)"
        )
    items = tuple(
        _item(document, ("spec", "sources", index), source, secrets_dir)
        for index, source in enumerate(resource.spec.sources)
    )
    return DownloadConfig(
        download_root=target_dir,
        download_items=items,
        transfer=transfer_settings(resource.spec.transfer),
    )


def _only_data_fetch(documents: Sequence[Document]) -> Document:
    found = [document for document in documents if _kind(document) == KIND]
    if not found:
        raise InvalidTextError(_explain_absence(documents[0]))
    if len(found) > 1:
        raise InvalidTextError(
            f"{found[1].place(('kind',))}: a second {KIND} in one file; run them one at a time, each from its own file"
        )
    for document in documents:
        if document is not found[0]:
            logger.info("%s: %s is left out", document.place(()), single_line(str(_kind(document) or "a document")))
    return found[0]


def _kind(document: Document) -> object:
    return document.value.get("kind") if isinstance(document.value, dict) else None


def _explain_absence(document: Document) -> str:
    kind = str(_kind(document))
    if did_you_mean(kind, [KIND]) is not None:
        return sentence(document, ("kind",), f"is {kind!r}; did you mean {KIND!r}?")
    return sentence(document, ("kind",), f"is {kind!r}; this command runs a {KIND} or a config with download_items")


def _validate(document: Document) -> DataFetch:
    value = document.value
    found = []
    if value.get("apiVersion") != API_VERSION:
        written = document.text(("apiVersion",))
        said = f"is {written!r}" if written is not None else "is missing"
        found.append(sentence(document, ("apiVersion",), f"{said}; write {API_VERSION}"))
    # A resource read back from a cluster has a status; what an operator of another version wrote there is not ours.
    value = {key: inner for key, inner in value.items() if key != "status"} | {"apiVersion": API_VERSION}
    try:
        # The models also know their fields by Python's names; an API server does not.
        resource = DataFetch.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidTextError(*found, *problems(error, DataFetch, document)) from None
    if found:
        raise InvalidTextError(*found)
    return resource


def _item(document: Document, path: Path, source: Source, secrets_dir: str | None) -> DownloadItem:
    directory = _credentials_dir(document, path, source, secrets_dir)
    try:
        item = download_item(source, directory)
    except ValueError as error:
        raise InvalidTextError(sentence(document, path, f"cannot be used: {error}")) from None
    _warn_of_cluster_names(item)
    if directory is not None:
        logger.info("source %r: credentials from %s", source.name, directory)
    elif getattr(item, "anonymous", False):
        logger.info("source %r: anonymous, as the resource asks", source.name)
    elif source.secret_ref is not None:
        logger.info(
            "source %r: no --secrets-dir for the Secret %r, so credentials from the SDK's own chain (%s)",
            source.name,
            source.secret_ref.name,
            _CHAINS[item.type],
        )
    elif item.type not in ("git", "http"):
        logger.info("source %r: credentials from the SDK's own chain (%s)", source.name, _CHAINS[item.type])
    return item


def _warn_of_cluster_names(item: DownloadItem) -> None:
    """Say beforehand why a Service's name is not found here."""
    url = _server(item)
    host = urlsplit(url).hostname if url else None
    if host and host.endswith(_CLUSTER_SUFFIXES):
        logger.warning(
            "source %r: %s resolves only inside its cluster; forward its port (kubectl port-forward) or name "
            "another endpoint",
            item.name,
            host,
        )


def _server(item: DownloadItem) -> str | None:
    if item.type == "http":
        return item.index.url if item.index else item.items[0].url
    return item.url if item.type == "git" else item.endpoint_url


def _credentials_dir(document: Document, path: Path, source: Source, secrets_dir: str | None) -> str | None:
    if source.secret_ref is None or secrets_dir is None:
        return None
    directory = os.path.join(secrets_dir, source.secret_ref.name)
    if not os.path.isdir(directory):
        raise InvalidConfigError(
            sentence(
                document,
                (*path, "secretRef", "name"),
                f"names the Secret {source.secret_ref.name!r}, and {directory} is not a directory; "
                "put the Secret's keys there as files, or leave --secrets-dir out",
            )
        )
    return directory
