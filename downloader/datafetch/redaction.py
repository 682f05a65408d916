"""What no output may show: the secrets in use, and what looks like one. Touches nothing but its own register.

Messages are built all over the downloader, from texts of servers and SDKs. Each source hides its own secrets where such
a text enters (`credentials`); this module is what every error, log line and result passes through besides, whatever a
caller forgot.

Hidden are, of every secret: the value as it is, percent-encoded, as JSON and HTML escape it, in base64 (also where it
stands inside something longer that was encoded, as in `Authorization: Basic`), and where a text was cut short, every
beginning of one of these of eight characters or more.
"""

import base64
import html
import json
import os
import re
import string
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote

from datafetch_api.uris import redact_uri

HIDDEN = "***"
_LONGEST_TEXT = 1 << 16
"""Characters that are looked through; of a longer text the middle is cut out first."""
_PREFIX = 8
"""Characters of a secret's beginning that give it away."""
_MOST_REMEMBERED = 4096
"""Values that the register keeps; the oldest go first. Only a process that runs for weeks has that many."""
_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
"""Environment variables that SDKs take secrets from, possibly before we have seen them."""
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_FIELDS = (  # in URLs, connection strings and JSON files of credentials
    "x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|signature|sig|"
    "awsaccesskeyid|googleaccessid|accountkey|sharedaccesssignature|access_token|refresh_token|client_secret|"
    "private_key|id_token|token|password"
)
# The scheme's length is bounded, or a long key would be searched in quadratic time.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s'\"<>]+")
_PLACEHOLDER = re.compile(r"[a-z]+://[A-Z]+(?::PORT)?(?:/[A-Z/]*)?[.,;)]?")
"""Our own sentences on how to write a URL."""
_PARAMETER = re.compile(rf"(?i)\b({_FIELDS})=(?!\*\*\*)[^&\s;\"'<>]+")
_HEADER = re.compile(
    r"(?i)\b((?:proxy-authorization|set-cookie|cookie|x-amz-security-token|x-auth-token|x-goog-iam-authorization-token)"
    r"[\"']?\s*:\s*[\"']?)(?!\*\*\*)[^\r\n\"']+"
)
_AUTHORIZATION = re.compile(
    r"(?i)\b(authorization\s*[:=]\s*|bearer\s+|basic\s+|sharedkey\s+)(?!\w+ |tokens?\b|auth|\*\*\*)[^\s,;\"'<>]+"
)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_lock = threading.Lock()
_remembered: dict[str, tuple[str, ...]] = {}


def remember(value: str) -> tuple[str, ...]:
    """Hide a secret from now on in everything that this process says; return its forms.

    Values of fewer than eight characters are left out: they would blot out ordinary words everywhere.
    """
    found = _remembered.get(value) or forms(value)
    if len(value) < _PREFIX:
        return found
    with _lock:
        while len(_remembered) >= _MOST_REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[value] = found
    return found


def forms(value: str) -> tuple[str, ...]:
    """Return the forms in which a secret may stand in a text, the longest first.

    A connection string, a SAS token and a JSON file of credentials also hide the secrets that they hold.
    """
    found: set[str] = set()
    for secret in (value, *_parts(value)):
        found.update(_spellings(secret))
    return tuple(sorted(found, key=len, reverse=True))


def remember_parts(value: str) -> None:
    """Hide the secrets inside a text that may show otherwise: a JSON file of credentials, say."""
    for part in _parts(value):
        remember(part)


def hide(text: str, secret_forms: Iterable[str]) -> str:
    """Return the text with the forms of a secret, and their beginnings of eight characters and more, hidden."""
    by_head: dict[str, list[str]] = {}
    for form in secret_forms:
        by_head.setdefault(form[:_PREFIX].translate(_LOWER), []).append(form)
    for head, alike in by_head.items():
        text = _hide(text, head, alike)
    return text


def redacted(text: str) -> str:
    """Return the text without secrets.

    Those are: the values in use; user-info, query and fragment of URLs; what parameters and headers for credentials
    hold.
    """
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        # The end begins anew at a space: nothing shows the half of a secret that the cut went through.
        text = f"{text[:half]}... {text[-half:].partition(' ')[2]}"
    with _lock:
        known = list(_remembered.values())
    for secret_forms in (*known, *_environment_forms()):
        text = hide(text, secret_forms)
    text = _URL.sub(lambda url: _redact_url(url[0]), text)
    text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)


def shortened(text: str, characters: int) -> str:
    """Return the text with its middle left out where it is longer than `characters`."""
    if len(text) <= characters:
        return text
    half = (characters - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _redact_url(url: str) -> str:
    if _PLACEHOLDER.fullmatch(url):
        return url
    head = redact_uri(url)
    return f"{head}?..." if re.search(r"[?#]", url) and not head.endswith("...") else head


def _hide(text: str, head: str, alike: list[str]) -> str:
    """Return the text without what begins with `head` and goes on as one of the forms does, as far as it does.

    Letter case does not count: that of percent-encoding is free.
    """
    start = text.translate(_LOWER).find(head)
    while start >= 0:
        end, form = max((start + _length_in_common(form, text[start : start + len(form)]), form) for form in alike)
        if _gives_away(form, text[start:end], text[end : end + 1]):
            text = text[:start] + HIDDEN + text[end:]
            end = start + len(HIDDEN)
        start = text.translate(_LOWER).find(head, end)
    return text


def _gives_away(form: str, found: str, following: str) -> bool:
    """Return whether what was found is the secret, or its beginning in a text that was cut short.

    It is neither where a short one goes on in another way, nor where it is the first word of a secret of several: the
    password `datafetch-development` must not hide the name of this program.
    """
    if len(found) == len(form) or len(found) >= 2 * _PREFIX:
        return True
    is_first_word = found.isalpha() and not form[len(found)].isalnum()
    return not following.isalnum() and not is_first_word


def _length_in_common(form: str, text: str) -> int:
    pairs = enumerate(zip(form.translate(_LOWER), text.translate(_LOWER), strict=False))
    return next((length for length, pair in pairs if pair[0] != pair[1]), len(text))


def _parts(value: str) -> Iterator[str]:
    """Yield the secrets inside a structured one."""
    for match in re.finditer(rf"(?i)(?:^|[;&?])(?:{_FIELDS})=([^;&]*)", value):
        secret = match[1]
        yield from (part for part in {secret, unquote(secret)} if len(part) >= _PREFIX)
    if value.lstrip().startswith("{"):
        yield from _json_parts(value)


def _json_parts(value: str) -> Iterator[str]:
    try:
        document = json.loads(value)
    except ValueError:
        return
    pending = [document]
    while pending:
        found = pending.pop()
        if not isinstance(found, dict):
            continue
        for key, inner in found.items():
            if isinstance(inner, str) and len(inner) >= _PREFIX and re.fullmatch(rf"(?i){_FIELDS}", key):
                yield inner
                # The lines of a PEM block say nothing alone but at its beginning and end.
                yield from (line for line in inner.splitlines() if len(line) > 2 * _PREFIX and "-----" not in line)
            pending.append(inner)


def _spellings(secret: str) -> Iterator[str]:
    plain = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), quote(quote(secret, safe=""), safe="")}
    plain.add(json.dumps(secret, ensure_ascii=False)[1:-1])
    plain |= {html.escape(secret), html.escape(secret, quote=False), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    yield from plain
    data = secret.encode(errors="surrogateescape")
    for shift in range(3):
        # What stands before the secret shifts it against the groups of three bytes that base64 encodes.
        encoded = base64.b64encode(b"\0" * shift + data).decode()
        core = encoded[(0, 2, 3)[shift] : (len(data) + shift) * 8 // 6]
        if len(core) >= _PREFIX:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _environment_forms() -> tuple[tuple[str, ...], ...]:
    secrets = tuple(value for name in _VARIABLES if len(value := os.environ.get(name, "")) >= _PREFIX)
    proxies = tuple(value for name in _PROXY_VARIABLES if "@" in (value := os.environ.get(name, "")))
    return _forms_of(secrets, proxies)


@lru_cache(maxsize=8)
def _forms_of(secrets: tuple[str, ...], proxies: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    passwords = {password for proxy in proxies for password in _proxy_passwords(proxy) if len(password) >= _PREFIX}
    return tuple(forms(secret) for secret in (*secrets, *sorted(passwords)))


def _proxy_passwords(proxy: str) -> Iterator[str]:
    user, _, password = proxy.rpartition("@")[0].rpartition("//")[2].partition(":")
    yield from {password, unquote(password)}
    yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
