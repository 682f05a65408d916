"""What of AWS no server here has: roles, instance and container credentials, requester pays, archives, regions.

    with Aws({"a": b"..."}) as aws:
        keys = aws.issue()                       # who signs with them may read
        aws.archived["a"] = "GLACIER"            # GET: 403 InvalidObjectState

Every S3 request is checked as AWS does: its signature, over the headers that it names, in the bucket's region, by keys
that were issued and with their session token. Answers are those of the API reference
(https://docs.aws.amazon.com/AmazonS3/latest/API/, https://docs.aws.amazon.com/STS/latest/APIReference/).
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from servers.content import content, serve
from servers.serving import Request, Response, Server

BUCKET = "data"
ROLE = "arn:aws:iam::123456789012:role/reader"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Keys:
    """Keys that the server accepts."""

    access_key: str
    secret_key: str
    token: str | None


class Aws(Server):
    """The bucket `data`, and who gives out keys for it."""

    def __init__(self, objects: dict[str, bytes], region: str = "us-east-1") -> None:
        self.objects = objects
        self.region = region
        self.tells_region = True
        """Whether refusals and HEADs of the bucket name its region, as AWS does."""
        self.requester_pays = False
        self.versions: dict[tuple[str, str], bytes] = {}
        """By key and version id."""
        self.deleted: set[tuple[str, str]] = set()
        """Versions that mark a deletion."""
        self.archived: dict[str, str] = {}
        """Storage classes by key; an object that is in `restored` too can be read."""
        self.restored: dict[str, bool] = {}
        """Whether the restore is still going on."""
        self.keeps_archives_away = True
        """False: objects of an archive's class can be read like others, as some compatible servers have it."""
        self.web_identity_tokens: set[str] = set()
        self.container_token = "container-token-0123456789"
        self.lifetime = 3600.0
        self.ahead = 0.0
        """Seconds that the server's clock is ahead of this machine's."""
        self._keys: dict[str, Keys] = {}
        super().__init__(self._page)

    def issue(self, *, temporary: bool = True) -> Keys:
        """Make keys that may read."""
        number = next(_numbers)
        token = f"session-token-{number:08}" if temporary else None
        keys = Keys(f"ASIAKEY{number:08}", f"secret-key-of-a-session-{number:08}", token)
        self._keys[keys.access_key] = keys
        return keys

    def withdraw(self) -> None:
        """Accept no keys that were issued until now."""
        self._keys.clear()

    def _page(self, request: Request) -> Response:
        path = request.exchange.target.partition("?")[0]
        if request.method == "POST" and path == "/":
            return self._token_service(request)
        if path == "/container":
            return self._container(request)
        if path.startswith("/latest/"):
            return self._instance(request, path)
        answer = self._s3(request, unquote(path).removeprefix(f"/{BUCKET}").removeprefix("/"))
        return replace(answer, headers=(*answer.headers, ("Date", formatdate(time.time() + self.ahead, usegmt=True))))

    # --- who gives out keys ---

    def _token_service(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs(b"".join(request.body).decode()).items()}
        if form.get("Action") != "AssumeRoleWithWebIdentity" or form.get("RoleArn") != ROLE:
            return _sts_error(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        if form.get("WebIdentityToken") not in self.web_identity_tokens:
            return _sts_error(400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account")
        keys = self.issue()
        return _xml(
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{keys.access_key}</AccessKeyId>"
            f"<SecretAccessKey>{keys.secret_key}</SecretAccessKey><SessionToken>{keys.token}</SessionToken>"
            f"<Expiration>{self._expiration()}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )

    def _container(self, request: Request) -> Response:
        if request.header("authorization") != self.container_token:
            return _json({"message": "Invalid token"}, 401)
        return _json(self._document())

    def _instance(self, request: Request, path: str) -> Response:
        if path == "/latest/api/token":
            given = request.method == "PUT" and request.header("x-aws-ec2-metadata-token-ttl-seconds")
            return _text("instance-token") if given else _text("", 403)
        if request.header("x-aws-ec2-metadata-token") != "instance-token":
            return _text("", 401)
        roles = "/latest/meta-data/iam/security-credentials/"
        if path == roles:
            return _text("reader")
        return _json({**self._document(), "Code": "Success"}) if path == f"{roles}reader" else _text("", 404)

    def _document(self) -> dict[str, str | None]:
        keys = self.issue()
        return {
            "AccessKeyId": keys.access_key,
            "SecretAccessKey": keys.secret_key,
            "Token": keys.token,
            "Expiration": self._expiration(),
        }

    def _expiration(self) -> str:
        return (datetime.now(UTC) + timedelta(seconds=self.lifetime)).strftime("%Y-%m-%dT%H:%M:%SZ")

    # --- the bucket ---

    def _s3(self, request: Request, key: str) -> Response:
        refused = self._refuse(request)
        if refused is not None:
            return refused
        query = request.exchange.query
        if not key:
            return self._listing(request) if "list-type" in query else _text("")
        version = query.get("versionId")
        if version is not None and (key, version) in self.deleted:
            return _error(405, "MethodNotAllowed", "Not allowed.", ("x-amz-delete-marker", "true"))
        data = self.objects.get(key) if version is None else self.versions.get((key, version))
        if data is None:
            return _error(404, "NoSuchKey" if version is None else "NoSuchVersion", "It does not exist.")
        headers = [("x-amz-version-id", version)] if version else []
        if key in self.archived:
            headers.append(("x-amz-storage-class", self.archived[key]))
        if key in self.restored:
            ongoing = "true" if self.restored[key] else "false"
            headers.append(("x-amz-restore", f'ongoing-request="{ongoing}"'))
        if request.method == "GET" and self._is_out_of_reach(key):
            return _error(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
        return serve(request, content(data), tuple(headers))

    def _is_out_of_reach(self, key: str) -> bool:
        is_archived = self.keeps_archives_away and self.archived.get(key) in ("GLACIER", "DEEP_ARCHIVE")
        return is_archived and self.restored.get(key, True)

    def _listing(self, request: Request) -> Response:
        tells_restored = request.header("x-amz-optional-object-attributes") == "RestoreStatus"
        entries = []
        for key, data in self.objects.items():
            if not key.startswith(request.exchange.query.get("prefix", "")):
                continue
            restored = ""
            if tells_restored and key in self.restored:
                ongoing = "true" if self.restored[key] else "false"
                restored = f"<RestoreStatus><IsRestoreInProgress>{ongoing}</IsRestoreInProgress></RestoreStatus>"
            entries.append(
                f"<Contents><Key>{quote(key)}</Key><Size>{len(data)}</Size><ETag>{escape(etag(data))}</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<StorageClass>{self.archived.get(key, 'STANDARD')}</StorageClass>{restored}</Contents>"
            )
        return _xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            f"{''.join(entries)}</ListBucketResult>"
        )

    def _refuse(self, request: Request) -> Response | None:
        """Refuse as AWS does who does not sign, signs wrongly, or will not pay."""
        authorization = request.header("authorization") or ""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([\w-]+)/s3/aws4_request, ?SignedHeaders=([\w;-]+), ?"
            r"Signature=(\w+)",
            authorization,
        )
        if found is None:
            return self._denied(request, "AccessDenied", "Access Denied")
        access_key, day, region, names, signature = found.groups()
        if region != self.region:
            return self._elsewhere(request, region)
        keys = self._keys.get(access_key)
        if keys is None or keys.token != request.header("x-amz-security-token"):
            return self._denied(request, "InvalidAccessKeyId", "The access key does not exist in our records.")
        signed = datetime.strptime(request.header("x-amz-date") or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(signed.timestamp() - time.time() - self.ahead) > 900:
            return self._denied(request, "RequestTimeTooSkewed", "The difference between the times is too large.")
        if _signature(request, keys.secret_key, day, region, names) != signature:
            return self._denied(request, "SignatureDoesNotMatch", "The signature does not match.")
        pays = request.header("x-amz-request-payer") == "requester" and "x-amz-request-payer" in names.split(";")
        if self.requester_pays and not pays:
            return self._denied(request, "AccessDenied", "Access Denied")
        return None

    def _denied(self, request: Request, code: str, message: str) -> Response:
        return _error(403, code, message)

    def _elsewhere(self, request: Request, region: str) -> Response:
        headers = [("x-amz-bucket-region", self.region)] if self.tells_region else []
        more = f"<Region>{self.region}</Region>"
        message = f"the region '{region}' is wrong; expecting '{self.region}'"
        return _error(400, "AuthorizationHeaderMalformed", message, *headers, more=more)


def etag(data: bytes) -> str:
    """The ETag of an object that was uploaded in one part."""
    return f'"{hashlib.md5(data).hexdigest()}"'


def _signature(request: Request, secret_key: str, day: str, region: str, names: str) -> str:
    """Compute what a request's signature has to be, from what came over the wire."""
    path, _, query = request.exchange.target.partition("?")
    pairs = sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
    headers = "".join(f"{name}:{' '.join((request.header(name) or '').split())}\n" for name in names.split(";"))
    payload = request.header("x-amz-content-sha256") or ""
    canonical = "\n".join([request.method, path, "&".join(pairs), headers, names, payload])
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{request.header('x-amz-date')}\n{scope}\n{digest}"
    key = f"AWS4{secret_key}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def _sts_error(status: int, code: str, message: str) -> Response:
    return _xml(
        f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>", status
    )


def _error(status: int, code: str, message: str, *headers: tuple[str, str], more: str = "") -> Response:
    return _xml(f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}</Error>", status, *headers)


def _xml(text: str, status: int = 200, *headers: tuple[str, str]) -> Response:
    body = text.encode()
    return Response(status, (("Content-Type", "application/xml"), *headers), body, len(body))


def _json(value: object, status: int = 200) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json"),), body, len(body))


def _text(text: str, status: int = 200) -> Response:
    body = text.encode()
    return Response(status, (("Content-Type", "text/plain"),), body, len(body))
