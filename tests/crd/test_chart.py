"""The chart: what it renders, and what it refuses. Which rights it gives is asked of the API server: `test_rights.py`.

The golden files hold all but the CRD, which `hack/generate --check` compares; those of a variant only what differs from
the default. After a change that is meant, write them again with `UPDATE_GOLDEN=1` and read the difference.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from crd.conftest import CHART, ROOT, SYSTEM, Helm, Render
from crd.fetches import Json, Kubectl
from datafetch_api import GROUP, PLURAL
from datafetch_api.annotations import PodAnnotation
from datafetch_operator.settings import Certificates, Election, Injection, read_settings

GOLDEN = Path(__file__).parent / "golden"
FULL = ("-f", str(GOLDEN / "full-values.yaml"))
VARIANTS = {
    "injection-off": ("--set", "injection.enabled=false"),
    "gates-off": ("--set", "injection.gates.enabled=false"),
    "cert-manager": ("--set", "injection.certManager.enabled=true"),
    "watch-namespaces": ("--set", "watchNamespaces={research}"),
}


def _kind(documents: list[Json], kind: str) -> list[Json]:
    return [document for document in documents if document["kind"] == kind]


def _container(documents: list[Json], name: str) -> Json:
    containers = [
        container
        for deployment in _kind(documents, "Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
    ]
    [found] = [container for container in containers if container["name"] == name]
    return dict(found)


def _named(documents: list[Json]) -> dict[str, Json]:
    def name(document: Json) -> str:
        metadata = document["metadata"]
        return "/".join(filter(None, (document["kind"], metadata.get("namespace"), metadata["name"])))

    named = {name(document): document for document in documents if document["kind"] != "CustomResourceDefinition"}
    assert len(named) == sum(document["kind"] != "CustomResourceDefinition" for document in documents)
    return named


def _compare(name: str, documents: list[Json]) -> None:
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120)
    golden = GOLDEN / f"chart-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize(("name", "arguments"), [("default", ()), ("full", FULL)])
def test_it_renders_what_the_golden_file_holds(render: Render, name: str, arguments: tuple[str, ...]) -> None:
    _compare(name, list(_named(render(*arguments)).values()))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_the_default_in_what_its_golden_file_holds(render: Render, name: str) -> None:
    default, variant = _named(render()), _named(render(*VARIANTS[name]))
    other = [document for key, document in variant.items() if default.get(key) != document]
    _compare(name, [{"missing": sorted(default.keys() - variant.keys())}, *other])


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.30.0")
    assert done.returncode == 0, done.stdout
    assert "0 chart(s) failed" in done.stdout
    assert "WARNING" not in done.stdout


def test_without_injection_nothing_of_it_is_there(render: Render) -> None:
    documents = render(*VARIANTS["injection-off"])
    assert [name for name in _named(documents) if "webhook" in name.lower() or "certificate" in name.lower()] == []
    given = {entry["name"]: entry["value"] for entry in _container(documents, "operator")["env"]}
    assert given["DATAFETCH_WEBHOOK_CONFIGURATION"] == ""
    settings = read_settings(given)
    assert settings.certificates is None
    assert not settings.injection.gates


def test_an_issuer_of_the_cluster_signs_for_cert_manager(render: Render) -> None:
    issuer = "injection.certManager.issuerRef"
    documents = render(*VARIANTS["cert-manager"], "--set", f"{issuer}.name=platform,{issuer}.kind=ClusterIssuer")
    [certificate] = _kind(documents, "Certificate")
    assert _kind(documents, "Issuer") == []
    spec = certificate["spec"]
    assert spec["issuerRef"] == {"name": "platform", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    assert spec["dnsNames"][0] == f"datafetch-webhook.{SYSTEM}.svc"


@pytest.mark.parametrize("arguments", [(), VARIANTS["cert-manager"]], ids=["own", "cert-manager"])
def test_the_certificate_is_mounted_without_the_ca_s_key(render: Render, arguments: tuple[str, ...]) -> None:
    documents = render(*arguments)
    [webhook] = [found for found in _kind(documents, "Deployment") if found["metadata"]["name"].endswith("-webhook")]
    [secret] = [volume["secret"] for volume in webhook["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    assert secret["secretName"] == "datafetch-webhook-tls"
    assert {item["key"] for item in secret["items"]} == {"tls.crt", "tls.key"}
    made = [certificate["spec"] for certificate in _kind(documents, "Certificate")]
    assert not made or {spec["secretName"] for spec in made if not spec.get("isCA")} == {"datafetch-webhook-tls"}
    own = read_settings(
        {entry["name"]: entry["value"] for entry in _container(documents, "operator")["env"]}
    ).certificates
    assert own is None or own.tls_secret == "datafetch-webhook-tls" != own.ca_secret


def test_a_single_webhook_pod_does_not_hold_its_node(render: Render) -> None:
    assert len(_kind(render(), "PodDisruptionBudget")) == 1
    assert _kind(render("--set", "injection.replicas=1"), "PodDisruptionBudget") == []


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
    container = _container(render(*FULL), "operator")
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
    assert (settings.most_active, settings.most_active_per_host) == (100000, 4)
    assert settings.health_port == 9000 == container["ports"][0]["containerPort"]
    assert (settings.log_level, settings.log_format) == ("debug", "text")
    assert settings.certificates == Certificates(
        configuration="fetcher-webhook",
        namespace=SYSTEM,
        service="fetcher-webhook",
        ca_secret="fetcher-webhook-ca",
        tls_secret="fetcher-webhook-tls",
        ca_days=730,
        certificate_days=30,
    )
    assert not settings.injection.gates


def test_every_value_reaches_the_webhook(render: Render) -> None:
    container = _container(render(*FULL), "webhook")
    given = {
        entry["name"]: entry.get("value", "") for entry in container["env"] if entry["name"].startswith("DATAFETCH_")
    }
    environment = _Recorded(given)
    settings = read_settings(environment)
    assert set(given) <= environment.asked
    assert settings.downloader_image == "registry.example:5000/platform/datafetch-downloader:2.0.0"
    assert settings.downloader_pull_secrets == ("registry", "mirror")
    assert settings.injection == Injection(
        resources={"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        most_resources={"cpu": "8", "memory": "16Gi"},
        size="20Gi",
        most_size="1Ti",
        gates=False,
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhook": 10250, "metrics": 9000}
    assert (settings.webhook.port, settings.health_port) == (10250, 9000)
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "certificates"]
    assert mount == {"name": "certificates", "mountPath": str(settings.webhook.certificates), "readOnly": True}
    assert (settings.log_level, settings.log_format) == ("debug", "text")


@pytest.mark.parametrize("role", ["operator", "webhook"])
def test_the_chart_s_defaults_are_those_of_the_settings(render: Render, role: str) -> None:
    given = {entry["name"]: entry["value"] for entry in _container(render(), role)["env"]}
    settings = read_settings(given)
    default = read_settings({"DATAFETCH_DOWNLOADER_IMAGE": given["DATAFETCH_DOWNLOADER_IMAGE"]})
    if role == "operator":
        default = replace(default, election=Election(SYSTEM, "datafetch-operator", pod="datafetch-operator"))
    if settings.certificates is not None:
        webhook = "datafetch-webhook"
        default = replace(
            default, certificates=Certificates(webhook, SYSTEM, webhook, f"{webhook}-ca", f"{webhook}-tls")
        )
    assert settings == default


_REFUSED = [
    ("crd.install=false", "additional properties 'crd' not allowed"),
    ("operator.replicaCount=2", "additional properties 'replicaCount' not allowed"),
    ("operator.replicas=0", "minimum: got 0, want 1"),
    ("operator.image.tag=1", "at '/operator/image/tag': got number, want string"),
    ("operator.logLevel=loud", "value must be one of 'debug', 'info', 'warning', 'error'"),
    ("operator.workers=0", "minimum: got 0, want 1"),
    ("downloader.resources.request.cpu=1", "additional properties 'request' not allowed"),
    ("downloader.image.repository=datafetch:1", "does not match pattern"),
    ("metrics.port=99999", "maximum: got 99,999, want 65,535"),
    ("watchNamespaces={Research}", "does not match pattern"),
    ("injection.enable=false", "additional properties 'enable' not allowed"),
    ("injection.replicas=0", "minimum: got 0, want 1"),
    ("injection.gates=false", "at '/injection/gates': got boolean, want object"),
    ("injection.size=10GB", "does not match pattern"),
    ("injection.mostResources.cpu=4", "at '/injection/mostResources/cpu': got number, want string"),
    ("injection.certManager.issuer.name=x", "additional properties 'issuer' not allowed"),
    ("injection.webhook.port=443", "minimum: got 443, want 1,024"),
    ("injection.webhook.timeoutSeconds=4", "minimum: got 4, want 5"),
    ("injection.certificates.days=366", "injection.certificates.days is 366; it may be at most caDays, which is 365"),
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
    for name in ("operator", "webhook"):
        assert f"deployment.apps/x-datafetch-{name} serverside-applied" in applied
    assert "mutatingwebhookconfiguration.admissionregistration.k8s.io/x-datafetch-webhook" in applied


def test_the_notes_tell_the_next_two_commands(helm: Helm, kubectl: Kubectl, kubeconfig: str, definition: None) -> None:
    common = ("--dry-run=server", "--kubeconfig", kubeconfig, "--set", "crds.install=false")
    done = helm("install", "notes", str(CHART), *common)
    notes = done.stdout.split("NOTES:\n")[1]
    commands = [line.strip() for line in notes.splitlines() if line.strip().startswith("kubectl")]
    assert commands == ["kubectl apply -f - <<EOF", "kubectl get datafetch tiny --namespace default --watch"]
    manifest = notes.split("<<EOF\n")[1].split("  EOF\n")[0]
    assert "datafetch.datafetch.io/tiny created" in kubectl("create", "--dry-run=server", "-f", "-", stdin=manifest)


def test_the_notes_show_how_a_pod_asks(helm: Helm, kubeconfig: str) -> None:
    common = ("--dry-run=server", "--kubeconfig", kubeconfig, "--set", "crds.install=false", "--namespace", "default")
    notes = helm("install", "notes", str(CHART), *common).stdout.split("NOTES:\n")[1]
    asked = {line.split(":")[0] for line in map(str.strip, notes.splitlines()) if line.startswith("datafetch.io/")}
    assert asked == {PodAnnotation.FETCH, PodAnnotation.MOUNT_PATH, PodAnnotation.URI}
    assert "WARNING" not in notes
    own = helm("install", "notes", str(CHART), *common, "--set", "watchNamespaces={research,default}").stdout
    assert "WARNING: pods in default get no data by annotation" in own
    off = helm("install", "notes", str(CHART), *common, "--set", "injection.enabled=false").stdout
    assert "annotation" not in off.split("NOTES:\n")[1]
