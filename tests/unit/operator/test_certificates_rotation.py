"""The rotation against a model of the world: crashes, deletions, and everybody sees changes late.

At every moment after the first start, every API server accepts the certificate that any webhook pod serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datafetch_operator.certificate_keeper import Settling
from datafetch_operator.certificates import (
    AwaitSettling,
    Issue,
    MakeAuthority,
    Policy,
    Seen,
    Trust,
    decide,
    fingerprint_of,
    issue,
    make_authority,
    read_bundle,
    service_names,
)

DAY = 86_400.0
SETTLE = 30.0
"""Seconds after which an API server has seen a bundle."""
LATE = 120.0
"""Seconds after which a pod serves what is in the Secret."""
NAMES = service_names("df-webhook", "datafetch-system")
POLICY = Policy(NAMES, ca_lifetime=timedelta(days=30), lifetime=timedelta(days=9))
START = datetime(2026, 1, 31, tzinfo=UTC)

Crash = Literal["no", "before the write", "after the write"]


@dataclass
class Late:
    """Somebody who sees the versions of something in their order, each at most so many seconds late."""

    delay: float
    versions: list[tuple[float, bytes]] = field(default_factory=list)
    at: int = 0

    def write(self, now: float, content: bytes) -> None:
        self.versions.append((now, content))

    def catch_up(self, now: float) -> None:
        """See what has to be seen by now."""
        due = [place for place, (written, _) in enumerate(self.versions) if written + self.delay <= now]
        self.at = max([self.at, *due])

    def deadlines(self) -> list[float]:
        return [written + self.delay for written, _ in self.versions[self.at + 1 :]]

    @property
    def sees(self) -> bytes:
        return self.versions[self.at][1]


class Rotation(RuleBasedStateMachine):
    """The keeper's steps, one at a time, between everything that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ca: Mapping[str, bytes] | None = None
        self.tls: Mapping[str, bytes] | None = None
        self.published = b""
        self.memory = Settling(SETTLE)
        self.api_servers = [Late(SETTLE), Late(SETTLE)]
        self.pods = [Late(LATE), Late(LATE)]

    @initialize()
    def first_start(self) -> None:
        self._run_keeper()
        for late in (*self.api_servers, *self.pods):
            late.at = len(late.versions) - 1

    @rule(crash=st.sampled_from(["no", "no", "before the write", "after the write"]))
    def keeper_looks(self, crash: Crash) -> None:
        self._step(crash)

    @rule(seconds=st.sampled_from([1, 10, 29, 31, 90]))
    def seconds_pass(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(days=st.sampled_from([0.5, 2, 2.9]))
    def days_pass_while_the_keeper_works(self, days: float) -> None:
        self._run_keeper()
        self._pass(days * DAY)

    @rule(who=st.integers(0, 1))
    def an_api_server_sees_the_next_bundle(self, who: int) -> None:
        late = self.api_servers[who]
        late.at = min(late.at + 1, len(late.versions) - 1)

    @rule(who=st.integers(0, 1))
    def a_pod_is_brought_the_secret(self, who: int) -> None:
        late = self.pods[who]
        late.at = len(late.versions) - 1  # kubelet brings the newest; what was between is never served.

    @rule()
    def the_ca_secret_is_deleted(self) -> None:
        self.ca = None

    @rule()
    def the_tls_secret_is_deleted(self) -> None:
        self.tls = None  # Pods keep what they have: kubelet changes nothing then.

    @rule()
    def the_ca_secret_is_spoiled(self) -> None:
        if self.ca is not None:
            self.ca = {**self.ca, "ca.key": b"spoiled"}

    @rule()
    def the_tls_secret_is_spoiled(self) -> None:
        if self.tls is not None:
            self.tls = {**self.tls, "tls.crt": b"spoiled"}  # Pods refuse that pair and keep theirs.

    @invariant()
    def every_handshake_verifies(self) -> None:
        moment = START + timedelta(seconds=self.now)
        for bundle in {late.sees for late in self.api_servers if late.versions}:
            policy = PolicyBuilder().store(Store(read_bundle(bundle))).time(moment)
            for pem in {late.sees for late in self.pods if late.versions}:
                policy.build_server_verifier(x509.DNSName(NAMES[2])).verify(read_bundle(pem)[0], [])

    def _run_keeper(self) -> None:
        for _ in range(20):
            if not self._step("no"):
                return
            if self.api_servers[0].versions:
                self._pass(SETTLE / 2)
        raise AssertionError("the keeper does not come to rest")

    def _step(self, crash: Crash) -> bool:
        """Let the keeper take one step; return whether there was one."""
        fingerprints = [fingerprint_of(each) for each in read_bundle(self.published)]
        seen = Seen(self.ca, self.tls, self.published, self.memory.observe(fingerprints, self.now))
        moment = START + timedelta(seconds=self.now)
        step = decide(seen, POLICY, moment)
        if crash != "before the write":
            match step:
                case MakeAuthority():
                    self.ca = make_authority(POLICY, moment)
                case Issue():
                    self.tls = issue(step.authority, seen, POLICY, moment)
                    for pod in self.pods:
                        pod.write(self.now, self.tls["tls.crt"])
                case Trust():
                    self.published = step.bundle
                    for api_server in self.api_servers:
                        api_server.write(self.now, step.bundle)
                case AwaitSettling() | None:
                    pass
        if crash != "no":
            self.memory = Settling(SETTLE)
        return step is not None

    def _pass(self, seconds: float) -> None:
        """Let time pass, and everybody see what they have to see by then, one after the other."""
        end = self.now + seconds
        everybody = (*self.api_servers, *self.pods)
        while moments := [each for late in everybody for each in late.deadlines() if each <= end]:
            self.now = max(self.now, min(moments))
            for late in everybody:
                late.catch_up(self.now)
                self.every_handshake_verifies()
        self.now = end


TestRotation = Rotation.TestCase
TestRotation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
