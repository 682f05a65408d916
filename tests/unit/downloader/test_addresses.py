"""Where a redirect may lead."""

import pytest

from datafetch.transport.addresses import may_redirect

PUBLIC, PRIVATE, LOOPBACK, METADATA = "198.51.100.7", "10.9.8.7", "127.0.0.1", "169.254.169.254"


@pytest.mark.parametrize(
    "goal",
    [
        LOOPBACK, "127.1.2.3", "::1", "[::1]", "0.0.0.0", "::", "::ffff:127.0.0.1", "2002:7f00:1::", METADATA,
        "::ffff:169.254.169.254", "169.254.170.2", "fe80::1%eth0", "fd00:ec2::254", "168.63.129.16", "100.100.100.200",
        "127.1", "2130706433", "0x7f000001", "0251.0376.0251.0376", "localhost", "LocalHost.", "a.localhost",
    ],
)  # fmt: skip
@pytest.mark.parametrize("sender", [PUBLIC, PRIVATE, "2001:db8::1"])
def test_a_stranger_may_not_send_us_to_this_machine_or_its_cloud(sender: str, goal: str) -> None:
    assert not may_redirect(sender, goal)


@pytest.mark.parametrize(
    ("sender", "goal"),
    [
        (PUBLIC, PRIVATE),
        (PRIVATE, PUBLIC),
        (LOOPBACK, "::1"),
        (LOOPBACK, PUBLIC),
        (METADATA, METADATA),
        (PUBLIC, PUBLIC),
    ],
)
def test_whoever_is_there_already_and_private_addresses_are_allowed(sender: str, goal: str) -> None:
    assert may_redirect(sender, goal)


def test_what_runs_on_this_machine_may_not_send_us_to_its_cloud() -> None:
    assert not may_redirect(LOOPBACK, METADATA)
