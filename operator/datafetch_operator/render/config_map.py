"""The downloader's config of one attempt, in an immutable ConfigMap. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from datafetch_api.config import DownloadConfig, DownloadItem, Managed, Shards, TransferSettings
from datafetch_api.quantities import parse_bytes
from datafetch_api.rendering import download_item, transfer_settings
from datafetch_api.resource import DataFetch, Source
from datafetch_operator.observation import Claim, Mount
from datafetch_operator.render.labels import Wanted, object_name, publisher_name
from datafetch_operator.render.metadata import object_metadata

CONFIG_KEY = "config.yaml"
VOLUME_PATH = "/volume"
"""Where the root of the claim is mounted."""
SECRETS_PATH = "/etc/datafetch/secrets"
"""Where each source's Secret is mounted, in a directory by the source's name."""
AUTHORITIES_PATH = "/etc/datafetch/authorities"
"""Where each source's certificates are mounted, in a directory by the source's name."""
AUTHORITIES_FILE = "ca.crt"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a fetch: it has one ConfigMap and one Job, which never change."""

    fetch: DataFetch
    wanted: Wanted
    number: int
    claim: Claim
    prune_replaced_before: datetime | None = None
    """Revisions that were replaced before this time are used by no running pod."""
    beside: Mount | None = None
    """A running pod whose node has the volume, where only one node can have it."""
    publishes: int = 0
    """How many shards have brought what this is only to publish; 0 where it fetches."""

    @property
    def name(self) -> str:
        """Name of the Job and the ConfigMap."""
        if self.publishes:
            return publisher_name(self.fetch.metadata.name, self.plan)
        return self.plan

    @property
    def plan(self) -> str:
        """Name of the Job that fetches, and of the plan that its shards share."""
        return object_name(self.fetch.metadata.name, self.fetch.metadata.uid, self.wanted, self.number)

    @property
    def shards(self) -> int:
        """How many pods share the download."""
        return self.publishes or self.fetch.spec.job.shards or 1


def download_items(sources: Sequence[Source]) -> tuple[DownloadItem, ...]:
    """Return the download items of the sources, with credentials and certificates where the pod mounts them.

    Raises ValueError with a sentence where a source cannot be used.
    """
    return tuple(
        download_item(
            source,
            f"{SECRETS_PATH}/{source.name}" if source.secret_ref else None,
            f"{AUTHORITIES_PATH}/{source.name}/{AUTHORITIES_FILE}" if source.ca_bundle else None,
        )
        for source in sources
    )


def render_config(attempt: Attempt) -> str:
    """Return the downloader's config file."""
    fetch, spec = attempt.fetch, attempt.fetch.spec
    if spec.target is None:
        raise ValueError("a recipe has no Job")
    config = DownloadConfig(
        managed=Managed(
            volume=VOLUME_PATH,
            path=spec.target.path or fetch.metadata.name,
            namespace=fetch.metadata.namespace,
            name=fetch.metadata.name,
            uid=fetch.metadata.uid,
            spec_hash=attempt.wanted.spec_hash,
            keep_revisions=spec.target.keep_revisions,
            prune_replaced_before=attempt.prune_replaced_before,
            shards=Shards(count=attempt.shards, plan=attempt.plan) if attempt.shards > 1 else None,
        ),
        download_items=download_items(spec.sources),
        transfer=_transfer(attempt),
        capacity_bytes=claim_capacity(attempt.claim),
    )
    return to_yaml(config)


def _transfer(attempt: Attempt) -> TransferSettings:
    """Return the transfer's settings; the bandwidth is the whole fetch's, and its shards share it."""
    settings = transfer_settings(attempt.fetch.spec.transfer)
    if settings.bandwidth_limit is None or attempt.shards == 1:
        return settings
    return settings.model_copy(update={"bandwidth_limit": max(1, settings.bandwidth_limit // attempt.shards)})


def to_yaml(config: DownloadConfig) -> str:
    """Return a config as the text of a config file."""
    # Defaults are part of the contract and change with it, so what equals its default is left out, for who reads it.
    content = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def digest(config: str) -> str:
    """Return what `--config-digest` says of a config file."""
    return f"sha256:{hashlib.sha256(config.encode()).hexdigest()}"


def render_config_map(attempt: Attempt) -> dict[str, Any]:
    """Return the immutable ConfigMap with the attempt's config."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(attempt.fetch, attempt.name, owned=True),
        "immutable": True,
        "data": {CONFIG_KEY: render_config(attempt)},
    }


def claim_capacity(claim: Claim) -> int | None:
    """Return the bytes that a claim has, or asks for; None where that cannot be told."""
    size = claim.capacity or claim.requested
    if size is None:
        return None
    try:
        return parse_bytes(size)
    except ValueError:
        return None  # A quantity in a form that sizes are rarely written in (`1e9`): the file system's word must do.
