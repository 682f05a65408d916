"""Certificates that verifiers accept, and one step at a time from whatever is there."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_operator.certificates import (
    CLOCK_SKEW,
    MOST_TRUSTED,
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
    write_bundle,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = service_names("df-webhook", "datafetch-system")
POLICY = Policy(NAMES, ca_lifetime=30 * DAY, lifetime=9 * DAY)
Data = dict[str, bytes]


def _finish(seen: Seen, now: datetime = NOW, policy: Policy = POLICY) -> tuple[Seen, list[str]]:
    """Take steps until nothing is left to do, with everything settling at once; return what there is, and the steps."""
    taken = []
    while (step := decide(seen, policy, now)) is not None:
        taken.append(type(step).__name__)
        assert len(taken) < 10, taken
        ca, tls, bundle, settled = seen.ca, seen.tls, seen.bundle, seen.settled
        match step:
            case MakeAuthority():
                ca = make_authority(policy, now)
            case Issue():
                tls = issue(step.authority, seen, policy, now)
            case Trust():
                bundle = step.bundle
            case AwaitSettling():
                settled = frozenset([step.fingerprint])
        seen = Seen(ca, tls, bundle, settled)
    return seen, taken


@pytest.fixture(scope="module")
def kept() -> Seen:
    return _finish(Seen(None, None, b""))[0]


def _tls(seen: Seen) -> Data:
    assert seen.tls is not None
    return dict(seen.tls)


def _ca(seen: Seen) -> Data:
    assert seen.ca is not None
    return dict(seen.ca)


def _served(seen: Seen) -> x509.Certificate:
    return read_bundle(_tls(seen)["tls.crt"])[0]


def _verify(certificate: x509.Certificate, bundle: bytes, now: datetime = NOW, name: str = NAMES[2]) -> None:
    policy = PolicyBuilder().store(Store(read_bundle(bundle))).time(now)
    policy.build_server_verifier(x509.DNSName(name)).verify(certificate, [])


def test_the_first_start_makes_everything_at_once_because_nothing_can_be_refused_yet() -> None:
    seen, taken = _finish(Seen(None, None, b""))
    assert taken == ["MakeAuthority", "Issue", "Trust"]
    assert seen.bundle == _ca(seen)["ca.crt"] == _tls(seen)["ca.crt"]
    for name in NAMES:
        _verify(_served(seen), seen.bundle, name=name)


def test_a_certificate_is_good_for_nothing_but_the_service(kept: Seen) -> None:
    with pytest.raises(VerificationError):
        _verify(_served(kept), kept.bundle, name="df-webhook.other.svc")
    (authority,) = read_bundle(kept.bundle)
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


def test_a_ca_cannot_vouch_for_another_service(kept: Seen) -> None:
    step = decide(Seen(kept.ca, None, b""), POLICY, NOW)
    assert isinstance(step, Issue)
    elsewhere = Policy(("victim.default.svc",), POLICY.ca_lifetime, POLICY.lifetime)
    forged = issue(step.authority, kept, elsewhere, NOW)
    with pytest.raises(VerificationError):
        _verify(read_bundle(forged["tls.crt"])[0], kept.bundle, name="victim.default.svc")


def test_openssl_accepts_the_pair_and_the_chain(tmp_path: Path) -> None:
    """By the names that clients use, and by no other; with the rules that Python 3.13 makes the default."""
    now = datetime.now(UTC)
    seen, _ = _finish(Seen(None, None, b""), now)
    for name, content in _tls(seen).items():
        (tmp_path / name).write_bytes(content)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    def greet(name: str) -> str:
        ours, theirs = socket.socketpair()
        client = ssl.create_default_context(cadata=seen.bundle.decode())
        client.verify_flags |= ssl.VERIFY_X509_STRICT

        def serve() -> None:
            with ours, serving.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as secured:
                try:
                    secured.do_handshake()
                    secured.sendall(b"hello")
                except OSError:
                    return  # The client did not like the certificate; it says so itself.

        server = threading.Thread(target=serve)
        server.start()
        try:
            with theirs, client.wrap_socket(theirs, server_hostname=name) as secured:
                return secured.recv(5).decode()
        finally:
            server.join()

    assert [greet(name) for name in NAMES] == ["hello"] * 4
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        greet("df-webhook.other.svc")


def test_clocks_that_are_behind_accept_it_at_once(kept: Seen) -> None:
    _verify(_served(kept), kept.bundle, NOW - CLOCK_SKEW)


def test_nothing_is_done_while_everything_is_current(kept: Seen) -> None:
    for days in range(6):
        assert decide(kept, POLICY, NOW + days * DAY) is None


def test_a_certificate_is_renewed_at_two_thirds_of_its_lifetime_by_the_same_ca(kept: Seen) -> None:
    now = NOW + 6 * DAY
    seen, taken = _finish(kept, now)
    assert taken == ["AwaitSettling", "Issue"]  # It settled long ago, but this process has not seen that.
    assert (seen.ca, seen.bundle) == (kept.ca, kept.bundle)
    assert _served(seen).not_valid_after_utc == now + POLICY.lifetime
    _verify(_served(seen), kept.bundle, now)


def test_a_ca_is_renewed_at_two_thirds_and_the_old_one_stays_until_it_expires(kept: Seen) -> None:
    now = NOW + 20 * DAY
    seen, taken = _finish(kept, now)
    assert taken == ["MakeAuthority", "Trust", "AwaitSettling", "Issue"]
    assert len(read_bundle(seen.bundle)) == 2
    assert seen.bundle.endswith(kept.bundle)
    later, taken = _finish(seen, NOW + 30 * DAY)
    assert len(read_bundle(later.bundle)) == 1
    assert "MakeAuthority" not in taken


def test_no_certificate_outlives_its_ca() -> None:
    policy = Policy(NAMES, ca_lifetime=9 * DAY, lifetime=9 * DAY)
    seen, _ = _finish(Seen(None, None, b""), policy=policy)
    step = decide(Seen(seen.ca, None, b""), policy, NOW + 5 * DAY)
    assert isinstance(step, Issue)
    data = issue(step.authority, seen, policy, NOW + 5 * DAY)
    assert read_bundle(data["tls.crt"])[0].not_valid_after_utc == NOW + 9 * DAY


def test_the_new_ca_signs_only_when_every_api_server_knows_it(kept: Seen) -> None:
    unsettled = Seen(make_authority(POLICY, NOW), kept.tls, kept.bundle, frozenset())
    step = decide(unsettled, POLICY, NOW)
    assert isinstance(step, Trust)
    step = decide(Seen(unsettled.ca, unsettled.tls, step.bundle, frozenset()), POLICY, NOW)
    assert isinstance(step, AwaitSettling)


def test_a_deleted_ca_secret_rotates_and_what_is_served_stays_trusted(kept: Seen) -> None:
    seen, taken = _finish(Seen(None, kept.tls, kept.bundle))
    assert taken == ["MakeAuthority", "Trust", "AwaitSettling", "Issue"]
    _verify(_served(kept), seen.bundle)
    _verify(_served(seen), seen.bundle)


def test_a_deleted_tls_secret_is_issued_anew_by_the_same_ca(kept: Seen) -> None:
    seen, taken = _finish(Seen(kept.ca, None, kept.bundle))
    assert taken == ["AwaitSettling", "Issue"]
    assert seen.bundle == kept.bundle


def test_a_bundle_that_is_lost_is_made_again_with_the_old_cas(kept: Seen) -> None:
    rotated, _ = _finish(Seen(None, kept.tls, kept.bundle))
    seen, taken = _finish(Seen(rotated.ca, rotated.tls, b""))
    assert taken == ["Trust"]
    assert seen.bundle == rotated.bundle


def test_what_others_put_into_the_bundle_stays_while_it_is_valid(kept: Seen) -> None:
    """For example the CA of cert-manager, by which pods still serve."""
    foreign = make_authority(Policy(("other",), 3 * DAY, DAY), NOW)["ca.crt"]
    seen, taken = _finish(Seen(kept.ca, kept.tls, foreign + b"# a comment\n" + kept.bundle))
    assert taken == ["Trust"]
    assert set(map(fingerprint_of, read_bundle(seen.bundle))) == {
        fingerprint_of(each) for each in read_bundle(foreign + kept.bundle)
    }
    assert _finish(seen, NOW + 4 * DAY)[0].bundle == kept.bundle


def test_the_bundle_is_bounded_and_keeps_what_is_in_use(kept: Seen) -> None:
    seen = kept
    for minute in range(MOST_TRUSTED + 3):
        # Deleted again before it settles, again and again: the old certificate is served all the time.
        now = NOW + timedelta(minutes=minute)
        step = decide(Seen(make_authority(POLICY, now), seen.tls, seen.bundle, frozenset()), POLICY, now)
        assert isinstance(step, Trust)
        seen = Seen(None, seen.tls, step.bundle)
    assert len(read_bundle(seen.bundle)) == MOST_TRUSTED
    _verify(_served(kept), seen.bundle)


def test_another_service_gets_a_ca_and_a_certificate_of_its_own(kept: Seen) -> None:
    renamed = Policy(service_names("other", "datafetch-system"), POLICY.ca_lifetime, POLICY.lifetime)
    seen, taken = _finish(kept, policy=renamed)
    assert taken == ["MakeAuthority", "Trust", "AwaitSettling", "Issue"]
    _verify(_served(seen), seen.bundle, name="other.datafetch-system.svc")


def test_what_is_only_valid_in_the_future_is_replaced(kept: Seen) -> None:
    """Made by a clock that was ahead."""
    _, taken = _finish(kept, NOW - DAY)
    assert taken == ["MakeAuthority", "Issue", "Trust"]


def test_after_an_absence_that_outlasted_everything_nothing_is_waited_for(kept: Seen) -> None:
    seen, taken = _finish(kept, NOW + 60 * DAY)
    assert taken == ["MakeAuthority", "Issue", "Trust"]
    assert len(read_bundle(seen.bundle)) == 1


def _other_key(kind: str) -> bytes:
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"x") if kind == "locked" else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


@pytest.mark.parametrize("kind", ["another", "rsa", "locked"])
def test_a_key_of_another_certificate_is_replaced(kept: Seen, kind: str) -> None:
    _, taken = _finish(Seen({**_ca(kept), "ca.key": _other_key(kind)}, kept.tls, kept.bundle))
    assert taken == ["MakeAuthority", "Trust", "AwaitSettling", "Issue"]
    _, taken = _finish(Seen(kept.ca, {**_tls(kept), "tls.key": _other_key(kind)}, kept.bundle))
    assert taken == ["AwaitSettling", "Issue"]


def test_a_serving_certificate_in_the_place_of_the_ca_is_replaced(kept: Seen) -> None:
    leaf = {"ca.crt": _tls(kept)["tls.crt"], "ca.key": _tls(kept)["tls.key"]}
    assert isinstance(decide(Seen(leaf, kept.tls, kept.bundle), POLICY, NOW), MakeAuthority)


def test_a_certificate_without_extensions_is_no_ca(kept: Seen) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
    plain = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority = {"ca.crt": write_bundle([plain]), "ca.key": pem}
    assert isinstance(decide(Seen(authority, kept.tls, kept.bundle), POLICY, NOW), MakeAuthority)
    served = {"tls.crt": write_bundle([plain]), "tls.key": pem}
    assert isinstance(decide(Seen(kept.ca, served, kept.bundle), POLICY, NOW), AwaitSettling)


def test_no_key_is_printed(kept: Seen) -> None:
    step = decide(Seen(kept.ca, None, kept.bundle), POLICY, NOW)
    assert "PRIVATE" not in repr(kept) + repr(step)


@settings(deadline=None)
@given(data=st.data())
def test_whatever_is_there_ends_in_a_pair_that_verifies(kept: Seen, data: st.DataObject) -> None:
    def spoil(content: bytes) -> bytes:
        if data.draw(st.booleans()):
            return content
        place = data.draw(st.integers(0, len(content)))
        return (
            content[:place] + data.draw(st.binary(max_size=3)) + content[data.draw(st.integers(place, len(content))) :]
        )

    ca = {name: spoil(content) for name, content in _ca(kept).items()}
    tls = {name: spoil(content) for name, content in _tls(kept).items()}
    seen, _ = _finish(Seen(ca, tls, spoil(kept.bundle)))
    _verify(_served(seen), seen.bundle)
