"""Settings come from the environment, and a wrong one is named."""

import pytest

from datafetch_operator.errors import SettingsError
from datafetch_operator.settings import RESTRICTED_POD, read_settings

IMAGE = {"DATAFETCH_DOWNLOADER_IMAGE": "example.org/df:1"}


def test_only_the_image_is_required() -> None:
    settings = read_settings(IMAGE)
    assert settings.downloader_image == "example.org/df:1"
    assert (settings.workers, settings.resync_seconds, settings.watch_namespaces) == (8, 300, ())
    assert (settings.health_host, settings.health_port) == ("0.0.0.0", 8080)
    assert settings.pod_security_context == RESTRICTED_POD


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
    assert (settings.health_host, settings.health_port) == ("::", 9090)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATAFETCH_DOWNLOADER_IMAGE", " ", "names the image"),
        ("DATAFETCH_DOWNLOADER_PULL_POLICY", "Sometimes", "Always, IfNotPresent, Never"),
        ("DATAFETCH_DOWNLOADER_RESOURCES", "{", "not JSON"),
        ("DATAFETCH_POD_SECURITY_CONTEXT", "[]", "not a JSON object"),
        ("DATAFETCH_WORKERS", "0", "from 1 to 64"),
        ("DATAFETCH_RESYNC_SECONDS", "5m", "whole number"),
        ("DATAFETCH_HEALTH_ADDRESS", "8080:", "HOST:PORT"),
        ("DATAFETCH_LOG_LEVEL", "loud", "debug, info, warning, error"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        read_settings(IMAGE | {name: value})
    assert name in str(caught.value)
