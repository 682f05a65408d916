"""The Job of a drift check, and its ConfigMap: those of a download, without the claim. Pure.

It is made from what `job` renders, so that it sees the sources as a download would: with the same config, Secrets,
certificates, environment and place. What is different stands here: it lists and reports, and has nowhere to write to.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from datafetch_api.resource import DataFetch
from datafetch_api.spec_hash import spec_hash
from datafetch_operator.observation import Claim
from datafetch_operator.render.config_map import CONFIG_KEY, Attempt, digest, render_config, render_config_map
from datafetch_operator.render.job import CONFIG_PATH, render_job
from datafetch_operator.render.labels import (
    DRIFT_ROLE,
    GENERATION_ANNOTATION,
    ROLE_LABEL,
    SCHEDULED_ANNOTATION,
    Wanted,
    check_name,
)
from datafetch_operator.settings import Settings

MOST_SECONDS = 3600
"""Most seconds that a check may take, where the spec does not say less."""
_RETRIES = 1
_VOLUME = "volume"
_CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the sources of a published fetch: it has one ConfigMap and one Job, which never change."""

    fetch: DataFetch
    claim: Claim
    """Of the fetch; it is not mounted."""
    run: datetime
    """The run of the schedule that it is for."""

    @property
    def name(self) -> str:
        """Name of the Job and the ConfigMap."""
        metadata = self.fetch.metadata
        return check_name(metadata.name, metadata.uid, metadata.generation, self.run)

    @property
    def most_seconds(self) -> int:
        """Most seconds that it may take, waiting for a node and its volumes included."""
        return min(MOST_SECONDS, self.fetch.spec.job.active_deadline_seconds or MOST_SECONDS)


def render_check_config_map(check: Check) -> dict[str, Any]:
    """Return the immutable ConfigMap with the config that a download would have."""
    manifest = render_config_map(_as_attempt(check))
    return {**manifest, "metadata": {**manifest["metadata"], "name": check.name}}


def render_check_job(check: Check, settings: Settings) -> dict[str, Any]:
    """Return the check's Job."""
    attempt = _as_attempt(check)
    manifest = render_job(attempt, settings)
    metadata, spec = manifest["metadata"], manifest["spec"]
    template = spec["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    config = f"{CONFIG_PATH}/{CONFIG_KEY}"
    arguments = ["plan", config, "--digest", "--config-digest", digest(render_config(attempt)), "--progress", "json"]
    return {
        **manifest,
        "metadata": {
            **metadata,
            "name": check.name,
            "labels": {**metadata["labels"], ROLE_LABEL: DRIFT_ROLE},
            "annotations": {
                **check.fetch.spec.job.annotations,
                GENERATION_ANNOTATION: str(check.fetch.metadata.generation),
                SCHEDULED_ANNOTATION: check.run.isoformat(),
            },
        },
        "spec": {
            **spec,
            "backoffLimit": _RETRIES,
            "activeDeadlineSeconds": check.most_seconds,
            "template": {
                "metadata": {
                    **template["metadata"],
                    "labels": {**template["metadata"]["labels"], ROLE_LABEL: DRIFT_ROLE},
                },
                "spec": {
                    **pod,
                    "containers": [
                        {
                            **container,
                            "args": arguments,
                            "volumeMounts": [mount for mount in container["volumeMounts"] if mount["name"] != _VOLUME],
                        }
                    ],
                    "volumes": [
                        {**volume, "configMap": {"name": check.name}} if volume["name"] == _CONFIG else volume
                        for volume in pod["volumes"]
                        if volume["name"] != _VOLUME
                    ],
                },
            },
        },
    }


def _as_attempt(check: Check) -> Attempt:
    """Return a download of the same sources by one pod, which is what can be rendered."""
    spec = check.fetch.spec
    alone = spec.model_copy(update={"job": spec.job.model_copy(update={"shards": None})})
    fetch = check.fetch.model_copy(update={"spec": alone})
    return Attempt(fetch, Wanted(spec_hash(spec.sources), None, check.claim.uid), 1, check.claim)
