"""Sources that stand in a pod's annotations: from URIs or a whole config to what our container runs. Pure.

An inline config is the pod owner's text: it writes below the mounted volume and reads credentials from the mounted
Secret, and names nothing else of the container.
"""

import posixpath
from collections.abc import Sequence

from pydantic import ValidationError

from datafetch_api.annotations import PodAnnotation
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.config_text import config_of
from datafetch_api.documents import Document, InvalidTextError, read_documents
from datafetch_api.problems import sentence
from datafetch_api.rendering import download_item
from datafetch_api.resource import Source
from datafetch_api.uris import parse_uri
from datafetch_operator.admission.refusal import Refusal
from datafetch_operator.admission.request import InlineUri, PodRequest, check_directory
from datafetch_operator.render.config_map import SECRETS_PATH
from datafetch_operator.render.init_container import LARGEST_CONFIG

SECRET_DIRECTORY = "inline"  # noqa: S105 - the name of a directory
MOUNTED_SECRET = f"{SECRETS_PATH}/{SECRET_DIRECTORY}"
"""Where the Secret of `datafetch.io/secret` is mounted in our container."""
_CREDENTIALS_DIR = "credentials_dir"
_AUTHORITIES = "ca_bundle_file"


def read_inline(request: PodRequest, root: str) -> DownloadConfig:
    """Return the config of what stands in the annotations, below `root`. Raises Refusal."""
    if request.config is not None:
        return _from_config(request.config, root, has_secret=request.secret is not None)
    return _from_uris(request.uris, root, has_secret=request.secret is not None)


def _from_uris(uris: Sequence[InlineUri], root: str, *, has_secret: bool) -> DownloadConfig:
    credentials = MOUNTED_SECRET if has_secret else None
    items = []
    for number, line in enumerate(uris, start=1):
        name = "uri" if len(uris) == 1 else f"uri-{number}"
        try:
            parse_uri(line.uri)
            source = Source.model_validate({"name": name, "uri": line.uri, "path": line.directory})
            items.append(download_item(source, credentials))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
            raise Refusal(f"annotation {PodAnnotation.URI}, line {number}: {problem}") from None
        except ValueError as error:
            raise Refusal(f"annotation {PodAnnotation.URI}, line {number}: {error}") from None
    return DownloadConfig(download_root=root, download_items=tuple(items))


def _from_config(text: str, root: str, *, has_secret: bool) -> DownloadConfig:
    data = text.encode(errors="surrogateescape")
    if len(data) > LARGEST_CONFIG:
        raise Refusal(
            f"annotation {PodAnnotation.CONFIG} has {len(data)} bytes, and a pod can carry {LARGEST_CONFIG}; make it "
            "shorter, or put the sources into a DataFetch"
        )
    try:
        documents = read_documents(data, PodAnnotation.CONFIG)
        config = config_of(documents, PodAnnotation.CONFIG, default_root=".")
        return _confined(config, documents[0], root, has_secret=has_secret)
    except InvalidTextError as error:
        raise Refusal(f"annotation {error}") from None


def _confined(config: DownloadConfig, document: Document, root: str, *, has_secret: bool) -> DownloadConfig:
    """Return the config with its paths where the container has them."""
    if config.managed is not None:
        raise Refusal(
            f"annotation {sentence(document, ('managed',), 'is what the operator writes; use download_root')}"
        )
    items = tuple(
        _with_credentials(item, number, document, has_secret=has_secret)
        for number, item in enumerate(config.download_items)
    )
    return config.model_copy(
        update={"download_root": _below(root, config.download_root or ".", document), "download_items": items}
    )


def _below(root: str, directory: str, document: Document) -> str:
    directory = directory.removeprefix("./").rstrip("/")
    if directory in ("", "."):
        return root
    try:
        return f"{root}/{check_directory(directory)}"
    except ValueError:
        rule = "must be relative to where the data is mounted, without '..'; leave it out for that place itself"
        raise Refusal(f"annotation {sentence(document, ('download_root',), rule)}") from None


def _with_credentials(item: DownloadItem, number: int, document: Document, *, has_secret: bool) -> DownloadItem:
    """Return the item with its credentials' files below the mounted Secret: that, and nothing else, is there."""
    named = {name: getattr(item, name) for name in type(item).model_fields if _names_a_file(name)}
    update: dict[str, str] = {}
    for name, path in named.items():
        if path is None:
            continue
        place = ("download_items", number, name)
        if not has_secret:
            rule = f"names a file, and no Secret is mounted; name it in annotation {PodAnnotation.SECRET}"
            raise Refusal(f"annotation {sentence(document, place, rule)}")
        inside = posixpath.normpath(posixpath.join(MOUNTED_SECRET, path))
        if inside != MOUNTED_SECRET and not inside.startswith(f"{MOUNTED_SECRET}/"):
            rule = f"must be a key of the Secret in {PodAnnotation.SECRET}, such as token: that alone is mounted"
            raise Refusal(f"annotation {sentence(document, place, rule)}")
        update[name] = inside
    if has_secret and not update.keys() - {_AUTHORITIES}:
        update[_CREDENTIALS_DIR] = MOUNTED_SECRET
    return item.model_copy(update=update)


def _names_a_file(field: str) -> bool:
    return field.endswith(("_file", "_credentials_path")) or field == _CREDENTIALS_DIR
