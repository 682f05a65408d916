"""From the text of a downloader config to a `DownloadConfig`, or to sentences that name the places in it. Pure.

`datafetch run` reads its file with it, the webhook the config that a pod carries: both say the same to a mistake.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from datafetch_api.config import DownloadConfig
from datafetch_api.documents import Document, InvalidTextError, read_documents
from datafetch_api.problems import problems, sentence


def read_config(data: bytes, name: str, *, default_root: str | None = None) -> DownloadConfig:
    """Return the config that a text holds; `name` is what messages call the text.

    `default_root` is the `download_root` where the text names none; without it the text must name one.
    Raises InvalidTextError.
    """
    documents = read_documents(data, name)
    resource = next(filter(holds_resource, documents), None)
    if resource is not None:
        what = f"is {str(resource.value['kind'])!r}: a config has no kind, only download_items and what goes with them"
        raise InvalidTextError(sentence(resource, ("kind",), what))
    return config_of(documents, name, default_root=default_root)


def holds_resource(document: Document) -> bool:
    """Say whether a document is a resource of Kubernetes, not a config."""
    return isinstance(document.value, dict) and "kind" in document.value


def config_of(
    documents: Sequence[Document], name: str, *, root: str | None = None, default_root: str | None = None
) -> DownloadConfig:
    """Return the config that the one document of a text holds.

    `root` replaces what it says of its place (`download_root`, `managed`); `default_root` stands where it says nothing.
    Raises InvalidTextError.
    """
    if not documents:
        raise InvalidTextError(f"{name} is empty; write {_required(root or default_root)}")
    if len(documents) > 1:
        raise InvalidTextError(
            f"{documents[1].place(())}: {name} holds {len(documents)} documents; a config is one, so remove '---'"
        )
    document = documents[0]
    if not isinstance(document.value, dict):
        raise InvalidTextError(
            f"{document.place(())}: a config is a mapping with {_required(root or default_root)}, not this"
        )
    return _validate(document, root, default_root)


def _required(root: str | None) -> str:
    return "download_items" if root else "download_root and download_items"


def _validate(document: Document, root: str | None, default_root: str | None) -> DownloadConfig:
    value, found = document.value, []
    if root is not None:
        value = {key: inner for key, inner in value.items() if key != "managed"} | {"download_root": root}
    elif "download_root" not in value and "managed" not in value:
        if default_root is None:
            found.append(sentence(document, ("download_root",), "is missing; name the directory that the data goes to"))
        value = value | {"download_root": default_root or "."}
    try:
        config = DownloadConfig.model_validate(value)
    except ValidationError as error:
        raise InvalidTextError(*found, *problems(error, DownloadConfig, document)) from None
    if found:
        raise InvalidTextError(*found)
    return config
