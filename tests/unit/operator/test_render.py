"""What is made for a DataFetch, against golden files: `UPDATE_GOLDEN=1` writes them anew, to be reviewed."""

import os
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from datafetch_api.config import DownloadConfig
from datafetch_api.exit_codes import ExitCode
from datafetch_api.spec_hash import spec_hash
from datafetch_operator.observation import Mount, read_job
from datafetch_operator.render.claim import render_claim
from datafetch_operator.render.config_map import Attempt, digest, render_config, render_config_map
from datafetch_operator.render.job import render_job
from datafetch_operator.render.labels import Wanted
from datafetch_operator.settings import Settings
from unit.operator.world import SETTINGS, START, bound_claim, fetch, pending_claim

GOLDEN = Path(__file__).parent / "golden"

SOURCES: list[dict[str, Any]] = [
    {
        "name": "weights",
        "path": "model",
        "include": ["*.json", "*.safetensors"],
        "exclude": ["**/*.bin"],
        "secretRef": {"name": "hf"},
        "huggingFace": {"repo": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"},
    },
    {
        "name": "corpus",
        "path": "corpus",
        "secretRef": {"name": "minio"},
        "s3": {"bucket": "training", "prefix": "corpus/v3/", "endpoint": "https://minio.data.svc"},
    },
    {"name": "vocab", "uri": "gs://bucket/vocab.txt"},
]
JOB = {
    "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    "serviceAccountName": "reader",
    "priorityClassName": "low",
    "podSecurityContext": {"fsGroup": 1000},
    "imagePullSecrets": [{"name": "registry"}],
    "env": [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "HOME", "value": "/elsewhere"},
        {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "region"}}},
    ],
    "backoffLimit": 2,
    "activeDeadlineSeconds": 3600,
    "ttlSecondsAfterFinished": 60,
    "labels": {"team": "nlp", "app.kubernetes.io/managed-by": "somebody"},
    "annotations": {"sidecar.istio.io/inject": "false"},
}
ZONES: list[dict[str, Any]] = [{"key": "zone", "operator": "In", "values": ["a"]}]
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": ZONES},
                {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node8"]}]},
                {},
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": deepcopy(ZONES)}}
        ],
    },
    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
}
CREATE = {
    "persistentVolumeClaim": {
        "claimName": "data",
        "create": {
            "size": "200Gi",
            "storageClassName": "fast",
            "accessModes": ["ReadWriteMany"],
            "deletionPolicy": "Delete",
        },
    },
    "path": "models/tinyllama",
    "keepRevisions": 3,
}


def _attempt(number: int = 1, trigger: str | None = None, **spec: Any) -> Attempt:
    made = fetch(**spec)
    return Attempt(made, Wanted(spec_hash(made.spec.sources), trigger, "claim-1"), number, bound_claim())


def _plain() -> Attempt:
    return _attempt()


def _full() -> Attempt:
    transfer = {"maxConcurrency": 16, "bandwidthLimit": "200Mi", "stallTimeout": "90s"}
    attempt = _attempt(3, "2026-01-31", sources=SOURCES, target=CREATE, job=JOB, transfer=transfer)
    return replace(attempt, prune_replaced_before=START - timedelta(hours=1))


def _with_authorities() -> Attempt:
    """Return an attempt whose sources have certificates of their own, two of them from one ConfigMap."""
    corpus = dict(SOURCES[1], caBundle={"configMapName": "corp-ca"})
    lake = {
        "name": "lake",
        "caBundle": {"configMapName": "corp-ca", "key": "lake.pem"},
        "lakeFS": {"repository": "lake"},
    }
    return _attempt(sources=[corpus, SOURCES[2], lake])


def _beside() -> Attempt:
    """Return an attempt whose claim is on the node of a running pod, which tolerates that node's taints."""
    taints = ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, {"key": "spot", "operator": "Exists"})
    job = {"affinity": AFFINITY, "tolerations": [taints[0]]}
    return replace(_attempt(job=job), beside=Mount("trainer-0", START, "node7", tolerations=taints))


RENDERED = {
    "plain-config-map": lambda: render_config_map(_plain()),
    "plain-job": lambda: render_job(_plain(), SETTINGS),
    "full-config-map": lambda: render_config_map(_full()),
    "full-job": lambda: render_job(_full(), SETTINGS),
    "config-map-with-authorities": lambda: render_config_map(_with_authorities()),
    "job-with-authorities": lambda: render_job(_with_authorities(), SETTINGS),
    "job-beside-a-pod": lambda: render_job(_beside(), SETTINGS),
    "claim-deleted-with-its-fetch": lambda: render_claim(fetch(target=CREATE)),
    "claim-retained": lambda: render_claim(
        fetch(target={"persistentVolumeClaim": {"claimName": "data", "create": {"size": "10Gi"}}})
    ),
}


@pytest.mark.parametrize("name", RENDERED)
def test_rendered_objects_are_as_reviewed(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(RENDERED[name](), sort_keys=False, width=120)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_is_of_a_rendered_object() -> None:
    elsewhere = ("injected-", "sharded-", "publishing-")  # test_admission and test_sharding compare these
    made = [path.stem for path in GOLDEN.iterdir() if not path.stem.startswith(elsewhere)]
    assert sorted(made) == sorted(RENDERED)


@pytest.mark.parametrize("make", [_plain, _full])
def test_the_downloader_reads_its_config_and_finds_the_digest(make: Any) -> None:
    attempt = make()
    text = render_config_map(attempt)["data"]["config.yaml"]
    config = DownloadConfig.model_validate(yaml.safe_load(text))
    assert config.managed is not None
    assert (config.managed.namespace, config.managed.name, config.managed.uid) == (
        attempt.fetch.metadata.namespace,
        attempt.fetch.metadata.name,
        attempt.fetch.metadata.uid,
    )
    assert config.managed.spec_hash == attempt.wanted.spec_hash
    (container,) = render_job(attempt, SETTINGS)["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["run", "/etc/datafetch/config/config.yaml", "--config-digest", digest(text)]


def test_credentials_are_read_where_they_are_mounted() -> None:
    attempt = _full()
    config = DownloadConfig.model_validate(yaml.safe_load(render_config(attempt)))
    pod = render_job(attempt, SETTINGS)["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    found = {
        item.name: volumes[mounts[item.credentials_dir]]["secret"]["secretName"]
        for item in config.download_items
        if item.credentials_dir is not None
    }
    assert found == {"weights": "hf", "corpus": "minio"}


def test_a_claim_without_capacity_is_planned_with_what_was_asked_for() -> None:
    attempt = replace(_plain(), claim=pending_claim())
    config = DownloadConfig.model_validate(yaml.safe_load(render_config(attempt)))
    assert config.capacity_bytes == 10 * 2**30


def test_disruptions_come_first_in_the_failure_policy_and_count_for_nothing() -> None:
    rules = render_job(_plain(), SETTINGS)["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]
    fatal = rules[1]["onExitCodes"]["values"]
    assert ExitCode.SOURCE_NOT_FOUND in fatal
    assert not {0, 1, 137, ExitCode.SOURCE_UNAVAILABLE, ExitCode.INTERRUPTED} & set(fatal)


def test_the_settings_of_the_installation_show_in_the_pod() -> None:
    settings = Settings(
        downloader_image="registry.example.org/df:2",
        downloader_pull_policy="Always",
        downloader_pull_secrets=("registry", "second"),
        downloader_resources={"limits": {"memory": "3Gi"}},
        pod_security_context={"runAsNonRoot": True},
    )
    pod = render_job(_attempt(job={"imagePullSecrets": [{"name": "registry"}]}), settings)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example.org/df:2", "Always")
    assert container["resources"] == {"limits": {"memory": "3Gi"}}
    assert pod["securityContext"] == {"runAsNonRoot": True}
    assert pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "second"}]


def _terms(attempt: Attempt) -> list[dict[str, Any]]:
    pod = render_job(attempt, SETTINGS)["spec"]["template"]["spec"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return list(required["nodeSelectorTerms"])


def test_a_job_beside_a_pod_goes_to_its_node_and_nowhere_else() -> None:
    here = {"key": "metadata.name", "operator": "In", "values": ["node7"]}
    assert _terms(replace(_plain(), beside=Mount("p", START, "node7"))) == [{"matchFields": [here]}]
    of_users, with_fields, of_nothing = _terms(_beside())
    assert of_users == {"matchExpressions": ZONES, "matchFields": [here]}, "the user's alternatives stay, each with it"
    assert with_fields["matchFields"][1:] == [here]
    assert of_nothing == {}, "a term that matches no node goes on matching none"


def test_a_job_says_which_node_it_is_bound_to() -> None:
    job = {**render_job(_beside(), SETTINGS)}
    job["metadata"] = {**job["metadata"], "uid": "j"}
    assert read_job(job).node == "node7"
    job = render_job(_plain(), SETTINGS)
    job["metadata"] = {**job["metadata"], "uid": "j"}
    assert read_job(job).node is None


def test_a_pod_that_is_not_scheduled_yet_binds_nobody() -> None:
    assert render_job(replace(_plain(), beside=Mount("p", START)), SETTINGS) == render_job(_plain(), SETTINGS)


def test_pods_carry_no_annotation_that_would_ask_the_webhook() -> None:
    template = render_job(_full(), SETTINGS)["spec"]["template"]
    assert not [key for key in template["metadata"]["annotations"] if key.startswith("datafetch.io/")]
