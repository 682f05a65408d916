"""From a resource or a URI to the downloader's config. Pure; the operator and `datafetch run|get` share it."""

from typing import Any, Literal

from datafetch_api.config import (
    AzureBlobItem,
    BucketItems,
    ContainerItems,
    DownloadItem,
    GCSItem,
    HttpFile,
    HttpItem,
    HuggingFaceItem,
    Match,
    S3Item,
    Selection,
    TransferSettings,
)
from datafetch_api.quantities import parse_bytes, parse_duration
from datafetch_api.resource import (
    AzureBlobSource,
    GCSSource,
    HuggingFaceSource,
    S3Source,
    Source,
    Transfer,
)
from datafetch_api.uris import Location, parse_uri

_ADDRESSING: dict[str, Literal["auto", "path", "virtual"]] = {"Auto": "auto", "Path": "path", "Virtual": "virtual"}
_REPO_TYPES: dict[str, Literal["model", "dataset", "space"]] = {
    "Model": "model",
    "Dataset": "dataset",
    "Space": "space",
}


def transfer_settings(transfer: Transfer) -> TransferSettings:
    """Return the transfer's settings in plain units: bytes per second and seconds."""
    limit = transfer.bandwidth_limit
    return TransferSettings(
        max_concurrency=transfer.max_concurrency,
        bandwidth_limit=max(1, parse_bytes(limit)) if limit else None,
        stall_timeout=max(1, parse_duration(transfer.stall_timeout)),
        verify=transfer.verify,
    )


def download_item(source: Source, credentials_dir: str | None = None) -> DownloadItem:
    """Return the download item that brings what the source describes.

    Raises ValueError with a sentence where the source names no provider or its URI cannot be read.
    """
    location, settings = _locate(source)
    settings |= {"name": source.name, "credentials_dir": credentials_dir}
    directory = f"{source.path or '.'}/"
    if location.scheme == "http":
        return HttpItem(type="http", items=(HttpFile(url=location.container, target_path=directory),), **settings)
    globs = {"include": tuple(source.include), "exclude": tuple(source.exclude)}
    match: Match = "prefix" if location.match == "auto" and any(globs.values()) else location.match
    if location.scheme == "hf":
        return HuggingFaceItem(
            type="hf",
            repo_id=location.container,
            repo_type=location.repo_type,
            revision=location.revision,
            path=location.path or ".",
            files=globs["include"] or None,
            exclude=globs["exclude"],
            match=match,
            target_path=directory,
            **settings,
        )
    selection = Selection(path=location.path or ".", match=match, target_path=directory, **globs)
    if location.scheme == "az":
        containers = (ContainerItems(container=location.container, items=(selection,)),)
        return AzureBlobItem(type="azure-blob", items=containers, **settings)
    buckets = (BucketItems(bucket=location.container, items=(selection,)),)
    if location.scheme == "s3":
        return S3Item(type="s3", items=buckets, **settings)
    return GCSItem(type="gcs", items=buckets, **settings)


def _locate(source: Source) -> tuple[Location, dict[str, Any]]:
    """Return where the source points, and the settings of its item that only this provider has."""
    if source.uri is not None:
        return parse_uri(source.uri), {}
    if source.s3 is not None:
        return _locate_s3(source.s3)
    if source.gcs is not None:
        gcs = source.gcs
        location = Location("gs", gcs.bucket, *_object_or_prefix(gcs))
        return location, {"endpoint_url": gcs.endpoint, "anonymous": gcs.anonymous}
    if source.azure_blob is not None:
        azure = source.azure_blob
        location = Location("az", azure.container, *_object_or_prefix(azure))
        settings = {"account": azure.account, "endpoint_url": azure.endpoint, "anonymous": azure.anonymous}
        return location, settings
    if source.hugging_face is not None:
        hub = source.hugging_face
        path, match = _object_or_prefix(hub)
        location = Location("hf", hub.repo, path, match, hub.revision, _REPO_TYPES[hub.repo_type])
        return location, {"endpoint_url": hub.endpoint}
    if source.http is not None:
        return parse_uri(source.http.url), {}
    raise ValueError(f"source {source.name!r} names no provider; set one of s3, gcs, azureBlob, huggingFace, http, uri")


def _locate_s3(s3: S3Source) -> tuple[Location, dict[str, Any]]:
    settings = {
        "endpoint_url": s3.endpoint,
        "region": s3.region,
        "addressing_style": _ADDRESSING[s3.addressing_style],
        "anonymous": s3.anonymous,
    }
    return Location("s3", s3.bucket, *_object_or_prefix(s3)), settings


def _object_or_prefix(member: S3Source | GCSSource | AzureBlobSource | HuggingFaceSource) -> tuple[str, Match]:
    if member.key is not None:
        return member.key, "object"
    prefix = member.prefix or ""
    return (prefix if not prefix or prefix.endswith("/") else prefix + "/"), "prefix"
