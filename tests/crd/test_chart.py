"""The chart: what it renders, what it refuses, and the rights that it gives.

The golden files hold all but the CRD, which `hack/generate --check` compares. After a change that is meant, write them
again with `UPDATE_GOLDEN=1` and read the difference.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from crd.conftest import ROOT, tool
from crd.fetches import Kubectl
from datafetch_api import GROUP, PLURAL
from datafetch_operator.settings import read_settings

CHART = ROOT / "helm/datafetch"
GOLDEN = Path(__file__).parent / "golden"
FULL = ("-f", str(GOLDEN / "full-values.yaml"))
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    binary = str(tool("helm"))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    def documents(*arguments: str) -> list[dict[str, Any]]:
        common = ("--namespace", "datafetch-system", "--kube-version", "1.30.0")
        done = helm("template", "datafetch", str(CHART), *common, *arguments)
        assert not done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return documents


def _kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def _operator(documents: list[dict[str, Any]]) -> dict[str, Any]:
    [deployment] = _kind(documents, "Deployment")
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(("name", "arguments"), [("default", ()), ("full", FULL)])
def test_it_renders_what_the_golden_file_holds(render: Render, name: str, arguments: tuple[str, ...]) -> None:
    documents = [document for document in render(*arguments) if document["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    golden = GOLDEN / f"chart-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.30.0")
    assert done.returncode == 0, done.stdout
    assert "0 chart(s) failed" in done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("arguments", [(), FULL], ids=["default", "full"])
def test_no_role_reads_secrets_or_takes_all(render: Render, arguments: tuple[str, ...]) -> None:
    documents = render(*arguments)
    rules = [rule for kind in ("Role", "ClusterRole") for role in _kind(documents, kind) for rule in role["rules"]]
    assert rules
    for rule in rules:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert not {"secrets", "pods/exec", "pods/attach", "pods/portforward"} & set(rule["resources"])
        assert not {"impersonate", "escalate", "bind"} & set(rule["verbs"])


def test_the_operator_writes_no_spec_and_no_pod(render: Render) -> None:
    roles = [
        role for role in _kind(render(), "ClusterRole") if role["metadata"]["name"].endswith(("reconcile", "logs"))
    ]
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    written = {
        name for role in roles for rule in role["rules"] if writes & set(rule["verbs"]) for name in rule["resources"]
    }
    assert written == {
        "datafetches/status",
        "jobs",
        "configmaps",
        "persistentvolumeclaims",
        "events",
    }


def test_named_namespaces_need_no_rights_in_any_other(render: Render) -> None:
    documents = render("--set", "watchNamespaces={research,serving}", "--set", "rbac.aggregate=false")
    assert _kind(documents, "ClusterRole") == _kind(documents, "ClusterRoleBinding") == []
    for kind in ("Role", "RoleBinding"):
        assert {object_["metadata"]["namespace"] for object_ in _kind(documents, kind)} == {"research", "serving"}


def test_users_get_rights_by_the_built_in_roles(render: Render) -> None:
    roles = {role["metadata"]["name"]: role for role in _kind(render(), "ClusterRole")}
    label = "rbac.authorization.k8s.io/aggregate-to-"
    edit, view = roles["datafetch-edit"], roles["datafetch-view"]
    assert {name for name in edit["metadata"]["labels"] if name.startswith(label)} == {label + "admin", label + "edit"}
    assert {name for name in view["metadata"]["labels"] if name.startswith(label)} == {label + "view"}
    assert view["rules"][0]["verbs"] == ["get", "list", "watch"]


def test_the_crd_is_installed_and_kept_unless_switched_off(render: Render) -> None:
    [definition] = _kind(render(), "CustomResourceDefinition")
    file = yaml.safe_load((ROOT / f"crds/{GROUP}_{PLURAL}.yaml").read_text())
    assert definition["spec"] == file["spec"]
    assert definition["metadata"]["name"] == file["metadata"]["name"]
    assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    [removable] = _kind(render("--set", "crds.keep=false"), "CustomResourceDefinition")
    assert "annotations" not in removable["metadata"]
    assert _kind(render("--set", "crds.install=false"), "CustomResourceDefinition") == []


class _Recorded(Mapping[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values_, self.asked = values, set[str]()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def test_every_value_reaches_the_operator(render: Render) -> None:
    container = _operator(render(*FULL))
    given = {
        entry["name"]: entry.get("value", "") for entry in container["env"] if entry["name"].startswith("DATAFETCH_")
    }
    environment = _Recorded(given)
    settings = read_settings(environment)
    assert set(given) <= environment.asked
    assert settings.downloader_image == "registry.example:5000/platform/datafetch-downloader:2.0.0"
    assert settings.downloader_pull_policy == "IfNotPresent"
    assert settings.downloader_pull_secrets == ("registry", "mirror")
    assert settings.downloader_resources == {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
    assert settings.pod_security_context == {
        "runAsNonRoot": True,
        "runAsGroup": 65532,
        "fsGroup": 1000,
        "supplementalGroups": [2000],
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert settings.watch_namespaces == ("research", "serving")
    assert (settings.workers, settings.resync_seconds) == (16, 60)
    assert settings.health_port == 9000 == container["ports"][0]["containerPort"]
    assert (settings.log_level, settings.log_format) == ("debug", "text")


def test_the_chart_s_defaults_are_the_operator_s(render: Render) -> None:
    given = {entry["name"]: entry["value"] for entry in _operator(render())["env"]}
    image = given["DATAFETCH_DOWNLOADER_IMAGE"]
    assert read_settings(given) == read_settings({"DATAFETCH_DOWNLOADER_IMAGE": image})


_REFUSED = [
    ("crd.install=false", "additional properties 'crd' not allowed"),
    ("operator.replicas=2", "additional properties 'replicas' not allowed"),
    ("operator.image.tag=1", "at '/operator/image/tag': got number, want string"),
    ("operator.logLevel=loud", "value must be one of 'debug', 'info', 'warning', 'error'"),
    ("operator.workers=0", "minimum: got 0, want 1"),
    ("downloader.resources.request.cpu=1", "additional properties 'request' not allowed"),
    ("downloader.image.repository=datafetch:1", "does not match pattern"),
    ("metrics.port=99999", "maximum: got 99,999, want 65,535"),
    ("watchNamespaces={Research}", "does not match pattern"),
]


@pytest.mark.parametrize(("value", "refusal"), _REFUSED)
def test_a_typing_error_in_a_value_is_refused(helm: Helm, value: str, refusal: str) -> None:
    done = helm("template", "datafetch", str(CHART), "--kube-version", "1.30.0", "--set", value)
    assert done.returncode != 0
    assert refusal in done.stderr


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    done = helm("template", "datafetch", str(CHART), "--kube-version", "1.29.9")
    assert "chart requires kubeVersion: >=1.30-0" in done.stderr


def test_the_api_server_takes_it_in_a_namespace_that_is_restricted(
    helm: Helm, kubectl: Kubectl, namespace: str
) -> None:
    """With warnings as errors: an unknown or deprecated field, or a pod that is not restricted, is one."""
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted", "--overwrite")
    enabled = ("--set", "networkPolicy.enabled=true", "--set", f"watchNamespaces={{{namespace}}}")
    done = helm("template", "x", str(CHART), "--namespace", namespace, "--kube-version", "1.35.4", *enabled)
    apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors")
    applied = kubectl(*apply, "--namespace", namespace, "-f", "-", stdin=done.stdout)
    assert "deployment.apps/x-datafetch-operator serverside-applied" in applied


def test_the_notes_tell_the_next_two_commands(helm: Helm, kubectl: Kubectl, kubeconfig: str, definition: None) -> None:
    common = ("--dry-run=server", "--kubeconfig", kubeconfig, "--set", "crds.install=false")
    done = helm("install", "notes", str(CHART), *common)
    notes = done.stdout.split("NOTES:\n")[1]
    commands = [line.strip() for line in notes.splitlines() if line.strip().startswith("kubectl")]
    assert commands == ["kubectl apply -f - <<EOF", "kubectl get datafetch tiny --namespace default --watch"]
    manifest = notes.split("<<EOF\n")[1].split("  EOF\n")[0]
    assert "datafetch.datafetch.io/tiny created" in kubectl("create", "--dry-run=server", "-f", "-", stdin=manifest)
