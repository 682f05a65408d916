"""Presigned targets for the row "limit", so that the server checks signatures there too. Pure but for the clock.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from storage import servers

from .content import Stored

_VALID_SECONDS = 86_400


def presigned(url: str, bucket: str, stored: list[Stored]) -> list[tuple[str, str, int]]:
    """Return key, request target and size of each object."""
    now = datetime.now(UTC)
    scope = f"{now:%Y%m%d}/{servers.S3_REGION}/s3/aws4_request"
    signing_key = f"AWS4{servers.S3_SECRET_KEY}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    query = "&".join(
        f"{name}={quote(value, safe='-_.~')}"
        for name, value in (
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{servers.S3_ACCESS_KEY}/{scope}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(_VALID_SECONDS)),
            ("X-Amz-SignedHeaders", "host"),
        )
    )
    head = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n"
    host = urlsplit(url).netloc

    def target(key: str) -> str:
        path = quote(f"/{bucket}/{key}", safe="/-_.~")
        canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        to_sign = head + hashlib.sha256(canonical.encode()).hexdigest()
        return f"{path}?{query}&X-Amz-Signature={hmac.digest(signing_key, to_sign.encode(), 'sha256').hex()}"

    return [(one.key, target(one.key), one.size) for one in stored]
