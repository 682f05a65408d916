"""The download Job of one attempt. Pure.

Its pods fit the `restricted` Pod Security Standard, carry no token of a service account, and mount Secrets as files.
"""

from typing import Any

from datafetch_api.exit_codes import non_retryable
from datafetch_api.resource import JobTemplate, Source
from datafetch_api.sources import CaBundle
from datafetch_operator.budget import source_hosts
from datafetch_operator.observation import Mount
from datafetch_operator.render.config_map import (
    AUTHORITIES_PATH,
    CONFIG_KEY,
    SECRETS_PATH,
    VOLUME_PATH,
    Attempt,
    digest,
    render_config,
)
from datafetch_operator.render.container import RESTRICTED_CONTAINER, SCRATCH_ENV, SCRATCH_PATH, as_json, authorities
from datafetch_operator.render.labels import (
    ATTEMPT_ANNOTATION,
    CLAIM_CAPACITY_ANNOTATION,
    CLAIM_UID_ANNOTATION,
    CONTAINER,
    DOWNLOAD_ROLE,
    GENERATION_ANNOTATION,
    HOSTS_ANNOTATION,
    NODE_ANNOTATION,
    PUBLISHES_ANNOTATION,
    ROLE_LABEL,
    SCHEDULED_ANNOTATION,
    SHARDS_ANNOTATION,
    SPEC_HASH_ANNOTATION,
    TRIGGER_ANNOTATION,
    labels,
)
from datafetch_operator.render.metadata import object_metadata
from datafetch_operator.settings import Settings

CONFIG_PATH = "/etc/datafetch/config"
GRACE_SECONDS = 30
"""What a pod gets to keep its state after SIGTERM."""


def render_job(attempt: Attempt, settings: Settings) -> dict[str, Any]:
    """Return the attempt's Job."""
    template = attempt.fetch.spec.job
    spec: dict[str, Any] = {
        **_completion(attempt),
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"metadata": _pod_metadata(attempt), "spec": _pod_spec(attempt, settings)},
    }
    if template.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = template.active_deadline_seconds
    # No ttlSecondsAfterFinished: the TTL controller could remove the Job before its result was read. The operator
    # removes it itself, when the time is over and the result stands in the status.
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": object_metadata(
            attempt.fetch,
            attempt.name,
            owned=True,
            more_labels=template.labels,
            annotations={**template.annotations, **_attempt_annotations(attempt)},
        ),
        "spec": spec,
    }


def _completion(attempt: Attempt) -> dict[str, Any]:
    """Return how often it is tried, and, of several shards, that each has an index and is tried again alone.

    The first one that fails for good ends the Job: without its part nothing can be published. Kubernetes knows all this
    since 1.29.
    """
    limit = attempt.fetch.spec.job.backoff_limit
    if attempt.publishes or attempt.shards == 1:
        return {"backoffLimit": limit}
    return {
        "completionMode": "Indexed",
        "completions": attempt.shards,
        "parallelism": attempt.shards,
        "backoffLimitPerIndex": limit,
        "maxFailedIndexes": 0,
    }


def _attempt_annotations(attempt: Attempt) -> dict[str, str]:
    wanted = attempt.wanted
    annotations = {
        ATTEMPT_ANNOTATION: str(attempt.number),
        CLAIM_CAPACITY_ANNOTATION: attempt.claim.capacity or attempt.claim.requested or "",
        CLAIM_UID_ANNOTATION: wanted.claim_uid,
        GENERATION_ANNOTATION: str(attempt.fetch.metadata.generation),
        HOSTS_ANNOTATION: ",".join(source_hosts(attempt.fetch.spec.sources)),
        SPEC_HASH_ANNOTATION: wanted.spec_hash,
    }
    if attempt.beside is not None and attempt.beside.node is not None:
        annotations[NODE_ANNOTATION] = attempt.beside.node
    if attempt.publishes:
        annotations[PUBLISHES_ANNOTATION] = attempt.plan
    elif attempt.shards > 1:
        annotations[SHARDS_ANNOTATION] = str(attempt.shards)
    if wanted.scheduled is not None:
        annotations[SCHEDULED_ANNOTATION] = wanted.scheduled.isoformat()
    return annotations | ({} if wanted.trigger is None else {TRIGGER_ANNOTATION: wanted.trigger})


def _failure_rules() -> list[dict[str, Any]]:
    """Return the pod failure policy: a disruption counts for nothing, and what no retry can mend ends the Job."""
    codes = {"containerName": CONTAINER, "operator": "In", "values": [int(code) for code in non_retryable()]}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": codes},
    ]


def _pod_metadata(attempt: Attempt) -> dict[str, Any]:
    template, metadata = attempt.fetch.spec.job, attempt.fetch.metadata
    ours = {**labels(metadata.name, metadata.uid), ROLE_LABEL: DOWNLOAD_ROLE}
    rendered: dict[str, Any] = {"labels": {**template.labels, **ours}}
    if template.annotations:
        rendered["annotations"] = dict(template.annotations)
    return rendered


def _pod_spec(attempt: Attempt, settings: Settings) -> dict[str, Any]:
    template = attempt.fetch.spec.job
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": _pod_security(template, settings),
        "containers": [_container(attempt, settings)],
        "volumes": _volumes(attempt),
    }
    return spec | _scheduling(template, attempt.beside) | _pull_secrets(template, settings)


def _pod_security(template: JobTemplate, settings: Settings) -> dict[str, Any]:
    return dict(
        settings.pod_security_context if template.pod_security_context is None else template.pod_security_context
    )


def _scheduling(template: JobTemplate, beside: Mount | None) -> dict[str, Any]:
    tolerations = [as_json(toleration) for toleration in template.tolerations]
    affinity = template.affinity
    if beside is not None and beside.node is not None:
        # Only that node can have the volume: whatever let the other pod go there must let ours.
        tolerations += [dict(toleration) for toleration in beside.tolerations if dict(toleration) not in tolerations]
        affinity = _on_node(affinity or {}, beside.node)
    fields: dict[str, Any] = {
        "nodeSelector": dict(template.node_selector),
        "tolerations": tolerations,
        "affinity": affinity,
        "serviceAccountName": template.service_account_name,
        "priorityClassName": template.priority_class_name,
    }
    return {name: value for name, value in fields.items() if value}


def _on_node(affinity: dict[str, Any], node: str) -> dict[str, Any]:
    """Return the affinity with the node required as well: terms are alternatives, so it goes into each of them."""
    of_nodes = affinity.get("nodeAffinity") or {}
    required = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        # A term without requirements matches no node, and is to go on doing so.
        {**term, "matchFields": [*(term.get("matchFields") or ()), _named(node)]} if any(term.values()) else term
        for term in required.get("nodeSelectorTerms") or ()
    ]
    required = {**required, "nodeSelectorTerms": terms or [{"matchFields": [_named(node)]}]}
    return {**affinity, "nodeAffinity": {**of_nodes, "requiredDuringSchedulingIgnoredDuringExecution": required}}


def _named(node: str) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": "In", "values": [node]}


def _pull_secrets(template: JobTemplate, settings: Settings) -> dict[str, Any]:
    names = [*(secret.name for secret in template.image_pull_secrets), *settings.downloader_pull_secrets]
    return {"imagePullSecrets": [{"name": name} for name in dict.fromkeys(names)]} if names else {}


def _container(attempt: Attempt, settings: Settings) -> dict[str, Any]:
    template = attempt.fetch.spec.job
    env = [{"name": name, "value": value} for name, value in SCRATCH_ENV.items()]
    return {
        "name": CONTAINER,
        "image": settings.downloader_image,
        "imagePullPolicy": settings.downloader_pull_policy,
        "args": _arguments(attempt),
        "env": [*env, *(as_json(variable) for variable in template.env if variable.name not in SCRATCH_ENV)],
        "resources": settings.downloader_resources if template.resources is None else as_json(template.resources),
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": _mounts(attempt),
    }


def _arguments(attempt: Attempt) -> list[str]:
    arguments = ["run", f"{CONFIG_PATH}/{CONFIG_KEY}", "--config-digest", digest(render_config(attempt))]
    return [*arguments, "--publish-shards"] if attempt.publishes else arguments


def _mounts(attempt: Attempt) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "volume", "mountPath": VOLUME_PATH},
        {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH_PATH},
    ]
    secrets = [
        {"name": volume, "mountPath": f"{SECRETS_PATH}/{source.name}", "readOnly": True}
        for volume, source in _secret_sources(attempt)
    ]
    certificates = [
        {"name": volume, "mountPath": f"{AUTHORITIES_PATH}/{source.name}", "readOnly": True}
        for volume, source, _ in _bundle_sources(attempt)
    ]
    return mounts + secrets + certificates


def _volumes(attempt: Attempt) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "volume", "persistentVolumeClaim": {"claimName": attempt.claim.name}},
        {"name": "config", "configMap": {"name": attempt.name}},
        {"name": "scratch", "emptyDir": {}},
    ]
    # 0440: the files belong to root, and the pod reads them by its fsGroup.
    secrets = [
        {"name": volume, "secret": {"secretName": source.secret_ref.name, "defaultMode": 0o440}}
        for volume, source in _secret_sources(attempt)
        if source.secret_ref is not None
    ]
    return volumes + secrets + [authorities(volume, bundle) for volume, _, bundle in _bundle_sources(attempt)]


def _bundle_sources(attempt: Attempt) -> list[tuple[str, Source, CaBundle]]:
    """Return the sources with certificates of their own, each with the name of its volume; as for Secrets."""
    if attempt.publishes:
        return []
    return [
        (f"authorities-{number}", source, source.ca_bundle)
        for number, source in enumerate(attempt.fetch.spec.sources)
        if source.ca_bundle is not None
    ]


def _secret_sources(attempt: Attempt) -> list[tuple[str, Source]]:
    """Return the sources with a Secret, each with the name of its volume; who only publishes needs none."""
    if attempt.publishes:
        return []
    sources = attempt.fetch.spec.sources
    return [(f"secret-{number}", source) for number, source in enumerate(sources) if source.secret_ref is not None]
