"""The webhook's certificates: made, read, and decided on. Pure but for the random numbers in keys; no I/O, no clock.

The API server trusts what the caBundle of the webhook configuration holds; webhook pods serve what the TLS Secret held
when kubelet last brought it. Both see changes late. So a new CA is first added to the bundle, where the old ones stay,
and signs only when every API server must have seen it: `decide` gives one step at a time, from whatever is there, and
after any of them the process may end.

The only module that uses the `cryptography` package. `certificate_keeper.py` reads, asks `decide`, and writes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
TLS_CERTIFICATE, TLS_KEY = "tls.crt", "tls.key"

CLOCK_SKEW = timedelta(minutes=10)
"""How far clocks of the API server and the webhook's clients may be behind ours."""
MOST_TRUSTED = 32
"""Certificates in the bundle at most: a CA Secret that something deletes again and again may not fill it."""

_RENEWAL = 2 / 3
"""Part of its lifetime after which a certificate is renewed."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the certificates are to be like."""

    names: tuple[str, ...]
    """DNS names of the webhook's Service."""
    ca_lifetime: timedelta
    lifetime: timedelta
    """Of a serving certificate; none outlives its CA."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign: its certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is, as bytes: `None` for a Secret that is not there, an empty bundle for none."""

    # Keys stand in them: not to be printed, wherever this turns up.
    ca: Mapping[str, bytes] | None = field(repr=False)
    tls: Mapping[str, bytes] | None = field(repr=False)
    bundle: bytes
    settled: frozenset[bytes] = frozenset()
    """Fingerprints of those in the bundle that every API server must have seen there by now."""


@dataclass(frozen=True, slots=True)
class MakeAuthority:
    """Write a new CA into the CA Secret, whatever it holds."""

    reason: str


@dataclass(frozen=True, slots=True)
class Trust:
    """Write this bundle into the webhook configuration."""

    bundle: bytes


@dataclass(frozen=True, slots=True)
class Issue:
    """Write a new serving certificate by this CA into the TLS Secret."""

    authority: Authority
    reason: str


@dataclass(frozen=True, slots=True)
class AwaitSettling:
    """Do nothing until this CA has been in the bundle for long enough."""

    fingerprint: bytes


Step = MakeAuthority | Trust | Issue | AwaitSettling | None
"""What is to be done next; None: everything is as it should be."""


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """Return the DNS names of a Service; the API server asks for the one that ends in `.svc`."""
    stem = f"{service}.{namespace}"
    return service, stem, f"{stem}.svc", f"{stem}.svc.cluster.local"


def decide(seen: Seen, policy: Policy, now: datetime) -> Step:
    """Return the next step towards a current CA, a bundle that has it, and a serving certificate by it.

    At every moment the bundle holds the CA of each certificate that may be served, and of the next one.
    """
    authority, fault = _usable_authority(seen.ca, policy, now)
    if authority is None:
        return MakeAuthority(fault)
    trusted = [certificate for certificate in read_bundle(seen.bundle) if _is_current(certificate, now)]
    fault = _serving_fault(seen.tls, authority, policy, now)
    if fault and not trusted:
        # Nothing that is served can be verified now: waiting would protect nobody, and pods wait for the Secret.
        return Issue(authority, fault)
    bundle = write_bundle(_to_trust(authority, seen, now))
    if bundle != seen.bundle:
        return Trust(bundle)
    if not fault:
        return None
    fingerprint = fingerprint_of(authority.certificate)
    return Issue(authority, fault) if fingerprint in seen.settled else AwaitSettling(fingerprint)


def make_authority(policy: Policy, now: datetime) -> dict[str, bytes]:
    """Return the data of the CA Secret: a CA that may sign for the policy's names only, and for no other CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own: verifiers look for the issuer by name, and several CAs stand in the bundle.
    name = _name(f"datafetch webhook CA {serial:040x}"[:64])
    usage = _key_usage(digital_signature=False, key_cert_sign=True)
    certificate = (
        _builder(name, name, key, serial, now, now + policy.ca_lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_name_constraints(policy), critical=True)
        .sign(key, hashes.SHA256())
    )
    return {CA_CERTIFICATE: _pem(certificate), CA_KEY: _key_pem(key)}


def issue(authority: Authority, seen: Seen, policy: Policy, now: datetime) -> dict[str, bytes]:
    """Return the data of the TLS Secret: a serving certificate, and all that its bundle should hold."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = authority.certificate
    end = min(now + policy.lifetime, signer.not_valid_after_utc)
    certificate = (
        _builder(_name("datafetch webhook"), signer.subject, key, x509.random_serial_number(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True, key_cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in policy.names]), critical=False)
        .add_extension(_authority_key_identifier(signer), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    # Older CAs too: where the webhook configuration is made anew, pods that are late still serve what those signed.
    trusted = write_bundle(_to_trust(authority, seen, now))
    return {TLS_CERTIFICATE: _pem(certificate), TLS_KEY: _key_pem(key), CA_CERTIFICATE: trusted}


def read_bundle(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in the text; what cannot be read is left out."""
    found = []
    for block in _PEM.findall(pem):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            _renewal_time(certificate)  # Parsed only when asked for, and needed of every one.
        except ValueError:
            continue
        found.append(certificate)
    return found


def write_bundle(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return the certificates as PEM."""
    return b"".join(map(_pem, certificates))


def fingerprint_of(certificate: x509.Certificate) -> bytes:
    """Return what tells certificates apart."""
    return certificate.fingerprint(hashes.SHA256())


def _usable_authority(data: Mapping[str, bytes] | None, policy: Policy, now: datetime) -> tuple[Authority | None, str]:
    """Return the CA that is to sign, or why there is none."""
    if data is None:
        return None, "there is none"
    authority = _read_authority(data)
    if authority is None:
        return None, "what is there is not a CA with its key"
    if not _is_current(authority.certificate, now):
        return None, "the one that is there is not valid now"
    if now >= _renewal_time(authority.certificate):
        return None, "two thirds of its lifetime are over"
    if _permitted(authority.certificate) != set(policy.names):
        return None, "the one that is there is for another Service"
    return authority, ""


def _read_authority(data: Mapping[str, bytes]) -> Authority | None:
    pair = _read_pair(data.get(CA_CERTIFICATE, b""), data.get(CA_KEY, b""))
    if pair is None or not _is_issued_by(pair[0], pair[0]):
        return None
    try:
        constraints = pair[0].extensions.get_extension_for_class(x509.BasicConstraints).value
        pair[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return None
    return Authority(*pair) if constraints.ca else None


def _serving_fault(data: Mapping[str, bytes] | None, authority: Authority, policy: Policy, now: datetime) -> str:
    """Return why another serving certificate is needed; empty where none is."""
    if data is None:
        return "there is none"
    pair = _read_pair(data.get(TLS_CERTIFICATE, b""), data.get(TLS_KEY, b""))
    if pair is None:
        return "what is there is not a certificate with its key"
    certificate = pair[0]
    if not _is_issued_by(certificate, authority.certificate):
        return "it is not by the CA of now"
    if not _is_current(certificate, now):
        return "the one that is there is not valid now"
    if now >= _renewal_time(certificate):
        return "two thirds of its lifetime are over"
    if _served(certificate) != set(policy.names):
        return "the one that is there is for another Service"
    return ""


def _to_trust(authority: Authority, seen: Seen, now: datetime) -> list[x509.Certificate]:
    """Return the CA of now, the one of the serving certificate, and the others that are valid, the newest first."""
    tls = seen.tls or {}
    others = [*read_bundle(tls.get(CA_CERTIFICATE, b"")), *read_bundle(seen.bundle)]
    found = {
        fingerprint_of(certificate): certificate for certificate in others if now < certificate.not_valid_after_utc
    }
    found.pop(fingerprint_of(authority.certificate), None)
    served = read_bundle(tls.get(TLS_CERTIFICATE, b""))[:1]

    def rank(fingerprint: bytes) -> tuple[bool, datetime, bytes]:
        certificate = found[fingerprint]
        in_use = any(_is_issued_by(each, certificate) for each in served)
        # The fingerprint only makes the order the same each time.
        return in_use, certificate.not_valid_before_utc, fingerprint

    return [authority.certificate, *(found[each] for each in sorted(found, key=rank, reverse=True))][:MOST_TRUSTED]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name_constraints(policy: Policy) -> x509.NameConstraints:
    return x509.NameConstraints([x509.DNSName(name) for name in policy.names], None)


def _authority_key_identifier(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _permitted(authority: x509.Certificate) -> set[str]:
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return {name.value for name in constraints.permitted_subtrees or () if isinstance(name, x509.DNSName)}


def _served(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return set(names.get_values_for_type(x509.DNSName))


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_current(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _renewal_time(certificate: x509.Certificate) -> datetime:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * _RENEWAL


def _read_pair(certificate: bytes, key: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Return the certificate and its key, of our kind; None where either cannot be read, or they are no pair."""
    certificates = read_bundle(certificate)
    try:
        private = serialization.load_pem_private_key(key, password=None)
        if not certificates or not isinstance(private, ec.EllipticCurvePrivateKey):
            return None
        is_pair = certificates[0].public_key() == private.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return (certificates[0], private) if is_pair else None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
