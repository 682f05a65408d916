"""Names, labels and annotations of the objects that the operator makes. Pure.

Pods carry labels only: a pod annotation under `datafetch.io/` is a request to the webhook. Every pod that concerns us,
ours and those that ask for data, has the label `datafetch.io/role`: the operator watches pods by it.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from datafetch_api import GROUP

FIELD_MANAGER = "datafetch-operator"

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAME_LABEL = f"{GROUP}/name"
UID_LABEL = f"{GROUP}/uid"
ROLE_LABEL = f"{GROUP}/role"
DOWNLOAD_ROLE = "download"
"""Role of the pods of our Jobs."""
DRIFT_ROLE = "drift"
"""Role of the Jobs that only look whether sources have changed, and of their pods."""
CONSUMER_ROLE = "consumer"
"""Role of users' pods that ask for data by annotation."""
FETCH_LABEL_PREFIX = f"fetch.{GROUP}/"
GATE = f"{GROUP}/data"
"""Name of the scheduling gate by which a pod waits for its data."""

ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
CLAIM_CAPACITY_ANNOTATION = f"{GROUP}/claim-capacity"
CLAIM_UID_ANNOTATION = f"{GROUP}/claim-uid"
GENERATION_ANNOTATION = f"{GROUP}/generation"
HOSTS_ANNOTATION = f"{GROUP}/hosts"
NODE_ANNOTATION = f"{GROUP}/node"
PUBLISHES_ANNOTATION = f"{GROUP}/publishes"
SHARDS_ANNOTATION = f"{GROUP}/shards"
SPEC_HASH_ANNOTATION = f"{GROUP}/spec-hash"
TRIGGER_ANNOTATION = f"{GROUP}/trigger"
SCHEDULED_ANNOTATION = f"{GROUP}/scheduled"

COMPLETION_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
"""Kubernetes puts it on each pod of an Indexed Job."""

CONTAINER = "datafetch"
"""Name of the download container."""

OURS = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
"""Label selector of everything that the operator makes."""

CONSUMERS = f"{ROLE_LABEL}={CONSUMER_ROLE}"
"""Label selector of users' pods that ask for data."""

_LABEL_LENGTH = 63
_STEM_LENGTH = 40
_DIGEST_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an attempt is for. As long as this stays the same, attempts are counted on."""

    spec_hash: str
    trigger: str | None
    """The trigger that waits to be handled; None where none does."""
    claim_uid: str
    scheduled: datetime | None = None
    """The run of the schedule that waits to be handled; None where none does."""


def object_name(fetch_name: str, uid: str, wanted: Wanted, attempt: int) -> str:
    """Return the name of an attempt's Job and ConfigMap.

    It is derived from all that the attempt is for, so that two operators can only make the same object twice, and an
    old object never stands in the way of a new one. Never change what goes into the hash: Jobs in flight would be
    replaced by an upgrade.
    """
    parts = [1, uid, wanted.spec_hash, wanted.trigger, wanted.claim_uid, attempt]
    text = json.dumps(parts if wanted.scheduled is None else [*parts, wanted.scheduled.isoformat()])
    stem = fetch_name[:_STEM_LENGTH].replace(".", "-").rstrip("-")
    return f"{stem}-{_digest(text)}"


def check_name(fetch_name: str, uid: str, generation: int, run: datetime) -> str:
    """Return the name of a drift check's Job and ConfigMap, derived in the same way from all that the check is for."""
    stem = fetch_name[:_STEM_LENGTH].replace(".", "-").rstrip("-")
    return f"{stem}-{_digest(json.dumps([1, uid, 'drift', generation, run.isoformat()]))}"


def publisher_name(fetch_name: str, job_name: str) -> str:
    """Return the name of the Job and ConfigMap that publish what the shards of a Job have brought."""
    stem = fetch_name[:_STEM_LENGTH].replace(".", "-").rstrip("-")
    return f"{stem}-{_digest(json.dumps(['publish', job_name]))}"


def labels(fetch_name: str, uid: str) -> dict[str, str]:
    """Return the labels of everything that is made for a DataFetch."""
    return {
        MANAGED_BY_LABEL: FIELD_MANAGER,
        "app.kubernetes.io/name": "datafetch",
        NAME_LABEL: _label_value(fetch_name),
        UID_LABEL: uid,
    }


def of_fetch(uid: str) -> str:
    """Return the label selector of what was made for one DataFetch."""
    return f"{OURS},{UID_LABEL}={uid}"


def fetch_label(fetch_name: str) -> str:
    """Return the key of the label that a pod has for each DataFetch it asks for; its value is the uid seen then."""
    return f"{FETCH_LABEL_PREFIX}{_label_value(fetch_name)}"


def _label_value(name: str) -> str:
    if len(name) <= _LABEL_LENGTH:
        return name
    stem = name[: _LABEL_LENGTH - _DIGEST_LENGTH - 1].rstrip("-.")
    return f"{stem}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
