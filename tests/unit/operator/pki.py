"""Certificates for tests of the webhook, and a directory that changes as kubelet changes the mount of a Secret."""

import itertools
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from datafetch_operator.certificates import Issue, Policy, Seen, decide, issue, make_authority, service_names

NAME = "df-webhook.datafetch-system.svc"
POLICY = Policy(service_names("df-webhook", "datafetch-system"), timedelta(days=30), timedelta(days=9))
_revisions = itertools.count()


def new_pair() -> Mapping[str, bytes]:
    """Return the data of a TLS Secret by a CA of its own, which is in `ca.crt`."""
    now = datetime.now(UTC)
    seen = Seen(make_authority(POLICY, now), None, b"")
    step = decide(seen, POLICY, now)
    assert isinstance(step, Issue)
    return issue(step.authority, seen, POLICY, now)


def mount(directory: Path, data: Mapping[str, bytes]) -> None:
    """Put the Secret's content into the directory at one blow, as kubelet does: a link to a directory is replaced."""
    revision = directory / f"..revision-{next(_revisions)}"
    revision.mkdir(parents=True)
    for name, content in data.items():
        (revision / name).write_bytes(content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..data_tmp").symlink_to(revision.name)
    (directory / "..data_tmp").rename(directory / "..data")


def trust(*bundles: bytes) -> ssl.SSLContext:
    """Return what a client trusts that has these CAs, and no other."""
    return ssl.create_default_context(cadata=b"".join(bundles).decode())
