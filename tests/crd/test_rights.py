"""Who may do what, asked of the API server after the chart's roles were applied to it: the operator and the webhook.

What may be done is listed completely, by the API server's own rules review; what may not be done, and matters most, is
also asked one by one, as `kubectl auth can-i` does for the service account itself.
"""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from crd.conftest import Helm, tool
from crd.fetches import Json, Kubectl
from crd.served import rights

RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"


@dataclass(frozen=True)
class Release:
    """Roles and accounts of a release that is not installed otherwise."""

    name: str
    namespace: str
    watched: str
    """A namespace that it serves."""
    other: str
    """One that it serves only where it serves all."""
    run: Callable[..., str]
    """kubectl; its exit code is not looked at."""

    def can(self, who: str, verb: str, what: str, where: str = "", subresource: str = "") -> bool:
        """Whether the account of `operator` or `webhook` may: `what` is RESOURCE[/NAME]."""
        options = (f"--as={self._account(who)}", f"--subresource={subresource}", *(("-n", where) if where else ()))
        said = self.run("auth", "can-i", verb, what, *options).strip()
        assert said in ("yes", "no")
        return said == "yes"

    def rights(self, who: str, where: str) -> set[tuple[str, str, str]]:
        """Return all that the account may do there and others may not: verb, resource and name (* for all)."""
        return self._rules(self._account(who), where) - self._rules(f"{self._account(who)}-nobody", where)

    def _rules(self, account: str, where: str) -> set[tuple[str, str, str]]:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": where},
        }
        said = self.run("create", "--raw", RULES, "-f", "-", f"--as={account}", stdin=json.dumps(review))
        return {
            (verb, resource, name)
            for rule in json.loads(said)["status"]["resourceRules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", ["*"])
        }

    def _account(self, who: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}-{who}"


def _review(where: str) -> Json:
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": where}}


Apply = Callable[..., Release]


@pytest.fixture(scope="module")
def namespaces(kubectl: Kubectl) -> Iterator[tuple[str, str, str]]:
    run = uuid.uuid4().hex[:8]
    names = (f"crd-rights-{run}-own", f"crd-rights-{run}-watched", f"crd-rights-{run}-other")
    for name in names:
        kubectl("create", "namespace", name)
    yield names
    kubectl("delete", "namespace", *names, "--wait=false")


@pytest.fixture(scope="module")
def apply_rights(
    helm: Helm, kubectl: Kubectl, kubeconfig: str, namespaces: tuple[str, str, str], definition: None
) -> Iterator[Apply]:
    binary = str(tool("kubectl"))
    own, watched, other = namespaces

    def run(*arguments: str, stdin: str = "") -> str:
        command = [binary, "--kubeconfig", kubeconfig, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False).stdout

    with ExitStack() as applied:

        def apply(*values: str) -> Release:
            name = f"crd-rights-{uuid.uuid4().hex[:8]}"
            applied.enter_context(rights(helm, kubectl, own, name, *values))
            return Release(name, own, watched, other, run)

        yield apply


@pytest.fixture(scope="module")
def everywhere(apply_rights: Apply) -> Release:
    return apply_rights()


@pytest.fixture(scope="module")
def somewhere(apply_rights: Apply, namespaces: tuple[str, str, str]) -> Release:
    return apply_rights("--set", f"watchNamespaces={{{namespaces[1]}}}", "--set", "injection.gates.enabled=false")


CONFIGURATIONS = "mutatingwebhookconfigurations"


def _rights(rules: dict[str, str], name: str = "*") -> set[tuple[str, str, str]]:
    return {(verb, resource, name) for resource, verbs in rules.items() for verb in verbs.split()}


WEBHOOK = _rights({"datafetches": "get list", "persistentvolumeclaims": "get"})
OPERATOR = _rights(
    {
        "datafetches": "get list watch",
        "datafetches/status": "patch",
        "jobs": "get list watch create delete",
        "configmaps": "get create delete",
        "persistentvolumeclaims": "get list watch create patch",
        "pods": "get list watch",
        "pods/log": "get",
        "events": "list create",
    }
)
GATES = _rights({"pods": "patch"})


def _lease(release: Release) -> set[tuple[str, str, str]]:
    return _rights({"leases": "create"}) | _rights({"leases": "get update"}, f"{release.name}-operator")


def _bundle(release: Release) -> set[tuple[str, str, str]]:
    return _rights({CONFIGURATIONS: "get patch"}, f"{release.name}-webhook")


def test_the_webhook_reads_fetches_and_claims_and_does_nothing_else(everywhere: Release) -> None:
    for where in (everywhere.namespace, everywhere.other, "kube-system"):
        assert everywhere.rights("webhook", where) == WEBHOOK


def test_the_operator_does_only_what_its_roles_are_for(everywhere: Release) -> None:
    for where in (everywhere.other, "kube-system"):
        assert everywhere.rights("operator", where) == OPERATOR | GATES | _bundle(everywhere)


def test_the_operator_keeps_two_secrets_and_a_lease_of_its_own_namespace(everywhere: Release) -> None:
    secrets = [_rights({"secrets": "get update"}, f"{everywhere.name}-webhook-{name}") for name in ("ca", "tls")]
    own = everywhere.rights("operator", everywhere.namespace) - everywhere.rights("operator", everywhere.other)
    assert own == _rights({"secrets": "create"}).union(_lease(everywhere), *secrets)
    assert not everywhere.can("operator", "update", "leases/another", everywhere.namespace)


def test_without_gates_the_operator_patches_no_pod(somewhere: Release) -> None:
    assert somewhere.rights("operator", somewhere.watched) == OPERATOR | _bundle(somewhere)


def test_named_namespaces_give_no_rights_in_any_other(somewhere: Release) -> None:
    assert somewhere.rights("webhook", somewhere.watched) == WEBHOOK
    assert somewhere.rights("webhook", somewhere.other) == set()
    assert somewhere.rights("operator", somewhere.other) == _bundle(somewhere)


def test_with_cert_manager_the_operator_has_no_right_on_secrets_or_configurations(apply_rights: Apply) -> None:
    release = apply_rights("--set", "injection.certManager.enabled=true")
    assert release.rights("operator", release.namespace) == OPERATOR | GATES | _lease(release)
    assert release.rights("webhook", release.namespace) == WEBHOOK


def test_without_injection_there_is_no_right_for_it(apply_rights: Apply) -> None:
    release = apply_rights("--set", "injection.enabled=false")
    assert release.rights("operator", release.namespace) == OPERATOR | _lease(release)
    assert release.rights("webhook", release.namespace) == set()


def test_no_secret_is_read_but_the_operator_s_own_two(everywhere: Release) -> None:
    own = f"secrets/{everywhere.name}-webhook-ca"
    assert everywhere.can("operator", "get", own, everywhere.namespace)
    for where in (everywhere.namespace, everywhere.other):
        for who in ("operator", "webhook"):
            assert not everywhere.can(who, "get", "secrets/another", where)
            assert not everywhere.can(who, "list", "secrets", where)
    assert not everywhere.can("operator", "get", own, everywhere.other)
    assert not everywhere.can("webhook", "get", own, everywhere.namespace)


def test_no_other_webhook_configuration_is_changed(everywhere: Release) -> None:
    assert everywhere.can("operator", "patch", f"{CONFIGURATIONS}/{everywhere.name}-webhook")
    for configuration in (f"{CONFIGURATIONS}/another", f"validatingwebhookconfigurations/{everywhere.name}-webhook"):
        assert not everywhere.can("operator", "patch", configuration)


def test_pods_are_patched_only_with_gates_and_never_run_a_command(everywhere: Release, somewhere: Release) -> None:
    assert everywhere.can("operator", "patch", "pods", everywhere.watched)
    assert not somewhere.can("operator", "patch", "pods", somewhere.watched)
    for subresource in ("exec", "ephemeralcontainers"):
        assert not everywhere.can("operator", "create", "pods", everywhere.watched, subresource=subresource)
        assert not everywhere.can("operator", "patch", "pods", everywhere.watched, subresource=subresource)
