"""From a resource or a URI to the downloader's config. Pure; the operator and `datafetch run|get` share it."""

import re
from typing import Any, Literal

from datafetch_api.config import (
    AzureBlobItem,
    BucketItems,
    ContainerItems,
    DownloadItem,
    GCSItem,
    GitItem,
    HttpFile,
    HttpIndex,
    HttpItem,
    HuggingFaceItem,
    LakeFSItem,
    Match,
    S3Item,
    Selection,
    TransferSettings,
    Unpack,
)
from datafetch_api.quantities import parse_bytes, parse_duration
from datafetch_api.resource import (
    AzureBlobSource,
    GCSSource,
    GitSource,
    HttpSource,
    HuggingFaceSource,
    LakeFSSource,
    S3Source,
    Source,
    Transfer,
    UnpackLimits,
)
from datafetch_api.uris import Location, parse_uri

_ADDRESSING: dict[str, Literal["auto", "path", "virtual"]] = {"Auto": "auto", "Path": "path", "Virtual": "virtual"}
_REPO_TYPES: dict[str, Literal["model", "dataset", "space"]] = {
    "Model": "model",
    "Dataset": "dataset",
    "Space": "space",
}
_HUB_LAYOUTS = {"Files": "files", "HubCache": "hub-cache"}
_INDEX_FORMATS: dict[str, Literal["auto", "sha256sum", "json-lines"]] = {
    "Auto": "auto",
    "Sha256Sum": "sha256sum",
    "JsonLines": "json-lines",
}
_VERSIONS = ("version_id", "generation", "snapshot")


def transfer_settings(transfer: Transfer) -> TransferSettings:
    """Return the transfer's settings in plain units: bytes per second and seconds."""
    limit = transfer.bandwidth_limit
    return TransferSettings(
        max_concurrency=transfer.max_concurrency,
        bandwidth_limit=max(1, parse_bytes(limit)) if limit else None,
        stall_timeout=max(1, parse_duration(transfer.stall_timeout)),
        verify=transfer.verify,
    )


def download_item(
    source: Source, credentials_dir: str | None = None, ca_bundle_file: str | None = None
) -> DownloadItem:
    """Return the download item that brings what the source describes.

    Raises ValueError with a sentence where the source names no provider or its URI cannot be read.
    """
    shared = _shared_settings(source) | {"credentials_dir": credentials_dir, "ca_bundle_file": ca_bundle_file}
    if source.http is not None and source.http.url is None:
        return _files_item(source, source.http, shared)
    location, settings = _locate(source)
    settings |= shared
    directory = f"{source.path or '.'}/"
    if location.scheme == "http":
        sha256 = source.http.sha256 if source.http else None
        file = HttpFile(url=location.container, target_path=directory, sha256=sha256)
        return HttpItem(type="http", items=(file,), **settings)
    if location.scheme in ("hf", "lakefs", "git"):
        return _repository_item(source, location, settings | {"target_path": directory})
    globs = {"include": tuple(source.include), "exclude": tuple(source.exclude)}
    versions = {name: settings.pop(name) for name in _VERSIONS if name in settings}
    selection = Selection(
        path=location.path or ".", match=_match(source, location), target_path=directory, **globs, **versions
    )
    if location.scheme == "az":
        containers = (ContainerItems(container=location.container, items=(selection,)),)
        return AzureBlobItem(type="azure-blob", items=containers, **settings)
    buckets = (BucketItems(bucket=location.container, items=(selection,)),)
    if location.scheme == "s3":
        return S3Item(type="s3", items=buckets, **settings)
    return GCSItem(type="gcs", items=buckets, **settings)


def _shared_settings(source: Source) -> dict[str, Any]:
    spread = source.max_timestamp_spread
    return {
        "name": source.name,
        "manifest": source.manifest,
        "max_timestamp_spread": max(1, parse_duration(spread)) if spread else None,
        "unpack": _unpack(source) if source.unpack else None,
    }


def _unpack(source: Source) -> Unpack:
    limits = source.unpack_limits or UnpackLimits()
    return Unpack(
        max_bytes=parse_bytes(limits.max_bytes),
        max_files=limits.max_files,
        max_ratio=limits.max_ratio,
        keep_archive=bool(source.keep_archive),
    )


def _match(source: Source, location: Location) -> Match:
    return "prefix" if location.match == "auto" and (source.include or source.exclude) else location.match


def _files_item(source: Source, http: HttpSource, settings: dict[str, Any]) -> HttpItem:
    """Return the item of several URLs, or of an index of them."""
    settings |= {"include": tuple(source.include), "exclude": tuple(source.exclude)}
    if http.index is not None:
        index = HttpIndex(
            url=http.index.url, format=_INDEX_FORMATS[http.index.format], target_path=f"{source.path or '.'}/"
        )
        return HttpItem(type="http", index=index, **settings)
    prefix = f"{source.path}/" if source.path else ""
    # In a config, globs are held against the whole paths of files.
    settings |= {name: tuple(_spelled(prefix) + glob for glob in settings[name]) for name in ("include", "exclude")}
    files = tuple(
        HttpFile(url=file.url, target_path=f"{prefix}{file.path or ''}" or "./", sha256=file.sha256)
        for file in http.files or ()
    )
    return HttpItem(type="http", items=files, **settings)


def _spelled(path: str) -> str:
    """Return the glob that matches a path alone."""
    return re.sub(r"[*?\[{]", lambda special: f"[{special[0]}]", path)


def _repository_item(source: Source, location: Location, settings: dict[str, Any]) -> DownloadItem:
    """Return the item of a repository, whose files are of one commit."""
    settings |= {
        "path": location.path or ".",
        "files": tuple(source.include) or None,
        "exclude": tuple(source.exclude),
        "match": _match(source, location),
    }
    if location.scheme == "lakefs":
        return LakeFSItem(type="lakefs", repository=location.container, ref=location.revision, **settings)
    if location.scheme == "git":
        return GitItem(type="git", url=location.container, revision=location.revision, **settings)
    return HuggingFaceItem(
        type="hf",
        repo_id=location.container,
        repo_type=location.repo_type,
        revision=location.revision,
        **settings,
    )


def _locate(source: Source) -> tuple[Location, dict[str, Any]]:
    """Return where the source points, and the settings of its item that only this provider has."""
    if source.uri is not None:
        return parse_uri(source.uri), {}
    if source.s3 is not None:
        return _locate_s3(source.s3)
    if source.gcs is not None:
        return _locate_gcs(source.gcs)
    if source.azure_blob is not None:
        return _locate_azure(source.azure_blob)
    if source.hugging_face is not None:
        return _locate_hub(source.hugging_face)
    if source.lake_fs is not None:
        lake = source.lake_fs
        return Location("lakefs", lake.repository, *_object_or_prefix(lake), lake.ref), {"endpoint_url": lake.endpoint}
    if source.git is not None:
        git = source.git
        location = Location("git", git.url, *_object_or_prefix(git), git.revision)
        return location, {"submodules": git.submodules, "lfs": git.lfs}
    if source.http is not None and source.http.url is not None:
        return parse_uri(source.http.url), {}
    raise ValueError(
        f"source {source.name!r} names no provider; set one of s3, gcs, azureBlob, huggingFace, lakeFS, git, http, uri"
    )


def _locate_s3(s3: S3Source) -> tuple[Location, dict[str, Any]]:
    settings = {
        "endpoint_url": s3.endpoint,
        "region": s3.region,
        "addressing_style": _ADDRESSING[s3.addressing_style],
        "anonymous": s3.anonymous,
        "requester_pays": bool(s3.requester_pays),
        "profile": s3.profile,
        "version_id": s3.version_id,
    }
    return Location("s3", s3.bucket, *_object_or_prefix(s3)), settings


def _locate_gcs(gcs: GCSSource) -> tuple[Location, dict[str, Any]]:
    settings = {
        "endpoint_url": gcs.endpoint,
        "anonymous": gcs.anonymous,
        "user_project": gcs.user_project,
        "generation": gcs.generation,
    }
    return Location("gs", gcs.bucket, *_object_or_prefix(gcs)), settings


def _locate_azure(azure: AzureBlobSource) -> tuple[Location, dict[str, Any]]:
    settings = {
        "account": azure.account,
        "endpoint_url": azure.endpoint,
        "anonymous": azure.anonymous,
        "version_id": azure.version_id,
        "snapshot": azure.snapshot,
    }
    return Location("az", azure.container, *_object_or_prefix(azure)), settings


def _locate_hub(hub: HuggingFaceSource) -> tuple[Location, dict[str, Any]]:
    settings = {
        "endpoint_url": hub.endpoint,
        "layout": _HUB_LAYOUTS[hub.layout or "Files"],
        "formats": (hub.formats or "All").lower(),
    }
    path, match = _object_or_prefix(hub)
    return Location("hf", hub.repo, path, match, hub.revision, _REPO_TYPES[hub.repo_type]), settings


def _object_or_prefix(
    member: S3Source | GCSSource | AzureBlobSource | HuggingFaceSource | LakeFSSource | GitSource,
) -> tuple[str, Match]:
    if member.key is not None:
        return member.key, "object"
    prefix = member.prefix or ""
    return (prefix if not prefix or prefix.endswith("/") else prefix + "/"), "prefix"
