"""Settings come from the environment, and a wrong one is named."""

from pathlib import Path

import pytest

from datafetch_operator.errors import SettingsError
from datafetch_operator.settings import RESTRICTED_POD, Certificates, Election, Injection, Webhook, read_settings

CERTIFICATES = {
    "DATAFETCH_WEBHOOK_CONFIGURATION": "df.example",
    "DATAFETCH_NAMESPACE": "datafetch-system",
    "DATAFETCH_WEBHOOK_SERVICE": "df-webhook",
    "DATAFETCH_WEBHOOK_CA_SECRET": "df-webhook-ca",
    "DATAFETCH_WEBHOOK_TLS_SECRET": "df-webhook-tls",
}
IMAGE = {"DATAFETCH_DOWNLOADER_IMAGE": "example.org/df:1"}


def test_only_the_image_is_required() -> None:
    settings = read_settings(IMAGE)
    assert settings.downloader_image == "example.org/df:1"
    assert (settings.workers, settings.resync_seconds, settings.watch_namespaces) == (8, 300, ())
    assert (settings.most_active, settings.most_active_per_host) == (None, None)
    assert (settings.health_host, settings.health_port) == ("0.0.0.0", 8080)
    assert settings.pod_security_context == RESTRICTED_POD
    assert (settings.injection, settings.webhook, settings.certificates) == (Injection(), Webhook(), None)


def test_a_limit_of_zero_is_none() -> None:
    settings = read_settings(IMAGE | {"DATAFETCH_MAX_ACTIVE": "0", "DATAFETCH_MAX_ACTIVE_PER_HOST": ""})
    assert (settings.most_active, settings.most_active_per_host) == (None, None)


def test_everything_can_be_set() -> None:
    settings = read_settings(
        IMAGE
        | {
            "DATAFETCH_DOWNLOADER_PULL_POLICY": "Never",
            "DATAFETCH_DOWNLOADER_PULL_SECRETS": "one, two",
            "DATAFETCH_DOWNLOADER_RESOURCES": '{"limits": {"memory": "2Gi"}}',
            "DATAFETCH_POD_SECURITY_CONTEXT": "{}",
            "DATAFETCH_WATCH_NAMESPACES": "a,b,",
            "DATAFETCH_WORKERS": "3",
            "DATAFETCH_MAX_ACTIVE": "20",
            "DATAFETCH_MAX_ACTIVE_PER_HOST": "4",
            "DATAFETCH_RESYNC_SECONDS": "60",
            "DATAFETCH_HEALTH_ADDRESS": "[::]:9090",
            "DATAFETCH_LOG_LEVEL": "debug",
            "DATAFETCH_LOG_FORMAT": "text",
        }
    )
    assert settings.downloader_pull_secrets == ("one", "two")
    assert settings.downloader_resources == {"limits": {"memory": "2Gi"}}
    assert settings.pod_security_context == {}
    assert settings.watch_namespaces == ("a", "b")
    assert (settings.workers, settings.resync_seconds) == (3, 60)
    assert (settings.most_active, settings.most_active_per_host) == (20, 4)
    assert (settings.health_host, settings.health_port) == ("::", 9090)


def test_injection_and_the_webhook_can_be_set() -> None:
    settings = read_settings(
        IMAGE
        | {
            "DATAFETCH_INJECTION_RESOURCES": '{"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}}',
            "DATAFETCH_INJECTION_MOST_RESOURCES": '{"cpu": 1.5, "memory": "2Gi"}',
            "DATAFETCH_INJECTION_SIZE": "20Gi",
            "DATAFETCH_INJECTION_MOST_SIZE": "1Ti",
            "DATAFETCH_GATES": "false",
            "DATAFETCH_WEBHOOK_ADDRESS": "[::]:8443",
            "DATAFETCH_WEBHOOK_CERTIFICATES": "/certificates",
        }
    )
    assert settings.injection == Injection(
        resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        most_resources={"cpu": "1.5", "memory": "2Gi"},
        size="20Gi",
        most_size="1Ti",
        gates=False,
    )
    assert settings.webhook == Webhook("::", 8443, Path("/certificates"))


def test_certificates_are_kept_where_the_configuration_is_named() -> None:
    settings = read_settings(IMAGE | CERTIFICATES | {"DATAFETCH_CA_DAYS": "30", "DATAFETCH_CERTIFICATE_DAYS": "10"})
    assert settings.certificates == Certificates(
        configuration="df.example",
        namespace="datafetch-system",
        service="df-webhook",
        ca_secret="df-webhook-ca",
        tls_secret="df-webhook-tls",
        ca_days=30,
        certificate_days=10,
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATAFETCH_NAMESPACE", "", "is not set"),
        ("DATAFETCH_WEBHOOK_SERVICE", "a/b", "no name of an object"),
        ("DATAFETCH_WEBHOOK_CONFIGURATION", "A", "no name of an object"),
        ("DATAFETCH_WEBHOOK_TLS_SECRET", "df-webhook-ca", "name two Secrets"),
        ("DATAFETCH_CA_DAYS", "0", "from 1 to 3650"),
        ("DATAFETCH_CERTIFICATE_DAYS", "366", "no certificate outlives its CA"),
    ],
)
def test_a_setting_of_certificates_that_cannot_be_used_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        read_settings(IMAGE | CERTIFICATES | {name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATAFETCH_DOWNLOADER_IMAGE", " ", "names the image"),
        ("DATAFETCH_DOWNLOADER_PULL_POLICY", "Sometimes", "Always, IfNotPresent, Never"),
        ("DATAFETCH_DOWNLOADER_RESOURCES", "{", "not JSON"),
        ("DATAFETCH_POD_SECURITY_CONTEXT", "[]", "not a JSON object"),
        ("DATAFETCH_WORKERS", "0", "from 1 to 64"),
        ("DATAFETCH_MAX_ACTIVE", "-1", "from 0 to 100000"),
        ("DATAFETCH_MAX_ACTIVE_PER_HOST", "many", "from 0 to 100000"),
        ("DATAFETCH_RESYNC_SECONDS", "5m", "whole number"),
        ("DATAFETCH_HEALTH_ADDRESS", "8080:", "HOST:PORT"),
        ("DATAFETCH_HEALTH_ADDRESS", "0.0.0.0:65536", "HOST:PORT"),
        ("DATAFETCH_WEBHOOK_ADDRESS", "webhook", "HOST:PORT"),
        ("DATAFETCH_INJECTION_RESOURCES", '{"cpu": "1"}', "has 'cpu'; it may have requests and limits"),
        ("DATAFETCH_INJECTION_RESOURCES", '{"limits": 1}', "limits is not a JSON object"),
        ("DATAFETCH_INJECTION_RESOURCES", '{"limits": {"cpu": true}}', "limits.cpu is no quantity"),
        ("DATAFETCH_INJECTION_RESOURCES", '{"limits": {"cpu": "1Gi"}}', "limits.cpu: '1Gi' is not an amount of CPU"),
        ("DATAFETCH_INJECTION_RESOURCES", '{"limits": {"memory": "1Gib"}}', "limits.memory: '1Gib' is not a size"),
        (
            "DATAFETCH_INJECTION_RESOURCES",
            '{"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}',
            "requests.memory is 2Gi, more than 1Gi of its limit",
        ),
        ("DATAFETCH_INJECTION_RESOURCES", '{"limits": {"cpu": "8"}}', "limits.cpu is 8, more than 4"),
        ("DATAFETCH_INJECTION_MOST_RESOURCES", '{"disk": "1"}', "has 'disk'; it may have cpu and memory"),
        ("DATAFETCH_INJECTION_MOST_RESOURCES", '{"cpu": "much"}', "not an amount of CPU"),
        ("DATAFETCH_INJECTION_SIZE", "ten", "'ten' is not a size"),
        ("DATAFETCH_INJECTION_MOST_SIZE", "1Gi", "INJECTION_SIZE is 10Gi, more than 1Gi"),
        ("DATAFETCH_GATES", "yes", "true, false"),
        ("DATAFETCH_LOG_LEVEL", "loud", "debug, info, warning, error"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        read_settings(IMAGE | {name: value})
    assert name in str(caught.value)


def test_a_lease_is_held_where_one_is_named() -> None:
    assert read_settings(IMAGE).election is None
    named = {"DATAFETCH_LEASE": "datafetch-operator", "DATAFETCH_NAMESPACE": "system", "HOSTNAME": "operator-x7"}
    assert read_settings(IMAGE | named).election == Election("system", "datafetch-operator", pod="operator-x7")
    with pytest.raises(SettingsError, match=r"DATAFETCH_NAMESPACE is not set; without it no Lease .* DATAFETCH_LEASE"):
        read_settings(IMAGE | {"DATAFETCH_LEASE": "datafetch-operator"})
    with pytest.raises(SettingsError, match="DATAFETCH_LEASE is 'Operator'"):
        read_settings(IMAGE | named | {"DATAFETCH_LEASE": "Operator"})
