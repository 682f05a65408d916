"""Manifests and what must become of them: rows for the API server, and, without it, for the models.

A row's `refusal` is part of the sentence that the user reads; None means that the manifest is accepted.
"""

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

S3: Spec = {"name": "corpus", "s3": {"bucket": "training"}}
HUB: Spec = {"name": "weights", "huggingFace": {"repo": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}}
CREATE: Spec = {"size": "10Gi", "storageClassName": "fast"}
CLAIM: Spec = {"persistentVolumeClaim": {"claimName": "data", "create": CREATE}}

ONE_PROVIDER = "exactly one of s3, gcs, azureBlob, huggingFace, lakeFS, git, http, uri must be set"
KEY_OR_PREFIX = "give either key or prefix, not both"
SAFE_PATH = "must be a relative path without empty, '.', '..' or '.datafetch' segments"
ONE_FILE = "one HTTP URL is one file: include and exclude cannot choose from it"
NO_USER_INFO = "must not hold a user or password; put them into a Secret and name it in secretRef"


@dataclass(frozen=True)
class Row:
    """A spec, and part of the sentence that refuses it."""

    name: str
    spec: Spec
    refusal: str | None = None
    only_the_server: bool = False
    """The models word this refusal in their own way, or leave it to the API server."""


def sources(*given: Spec) -> Spec:
    return {"sources": list(given)}


def source(**fields: Any) -> Spec:
    return sources({"name": "corpus", **fields})


def target(**fields: Any) -> Spec:
    return {**sources(S3), "target": {**CLAIM, **fields}}


def claim(**create: Any) -> Spec:
    return target(persistentVolumeClaim={"claimName": "data", "create": {"size": "10Gi", **create}})


def job(**fields: Any) -> Spec:
    return {**sources(S3), "job": fields}


def transfer(**fields: Any) -> Spec:
    return {**sources(S3), "transfer": fields}


ROWS = [
    # sources
    Row("one source, no target", sources(S3)),
    Row("two sources and a target", {**sources(S3, HUB), "target": CLAIM}),
    Row("gcs by prefix", source(gcs={"bucket": "b", "prefix": "p/"})),
    Row("azure by key", source(azureBlob={"container": "c", "account": "acct", "key": "k"})),
    Row("http", source(http={"url": "https://host/file?download=1"})),
    *(
        Row(f"uri {uri}", source(uri=uri))
        for uri in (
            "s3://bucket/prefix/",
            "gs://bucket/vocab.txt",
            "az://container/p/",
            "hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0@main/config.json",
            "hf://datasets/org/name@refs/pr/1",
            "https://host:8443/a@b",
        )
    ),
    Row("no source", {"sources": []}, "should have at least 1 items", only_the_server=True),
    Row("no sources at all", {}, "spec.sources: Required value", only_the_server=True),
    Row("17 sources", sources(*({**S3, "name": f"s{i}"} for i in range(17))), "must have at most 16 items", True),
    Row("16 sources with globs", sources(*({**S3, "name": f"s{i}", "include": ["**/*.x"] * 64} for i in range(16)))),
    Row("no provider", source(path="x"), ONE_PROVIDER),
    Row("two providers", source(s3={"bucket": "b"}, http={"url": "https://host/f"}), ONE_PROVIDER),
    Row("a provider and a uri", source(s3={"bucket": "b"}, uri="s3://b/"), ONE_PROVIDER),
    Row("two sources of one name", sources(S3, S3), "Duplicate value", only_the_server=True),
    Row("a name with capitals", sources({**S3, "name": "Corpus"}), "should match '^[a-z0-9]", only_the_server=True),
    Row("key and prefix of s3", source(s3={"bucket": "b", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("key and prefix of gcs", source(gcs={"bucket": "b", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("key and prefix of azure", source(azureBlob={"container": "c", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("key and prefix of the hub", source(huggingFace={"repo": "o/n", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("http with globs", source(http={"url": "https://host/f"}, include=["*"]), ONE_FILE),
    Row("http uri with globs", source(uri="https://host/f", exclude=["*"]), ONE_FILE),
    Row("several http files with globs", source(http={"files": [{"url": "https://host/f"}]}, include=["*"])),
    Row(
        "a url and an index", source(http={"url": "https://h/f", "index": {"url": "https://h/i"}}), "exactly one of url"
    ),
    Row("an empty http source", source(http={}), "exactly one of url, files, index must be set"),
    Row("a sha256 of several files", source(http={"files": [{"url": "https://h/f"}], "sha256": "0" * 64}), "needs url"),
    Row("256 files", source(http={"files": [{"url": f"https://h/{i}", "sha256": "0" * 64} for i in range(256)]})),
    Row("key and prefix of lakeFS", source(lakeFS={"repository": "rep", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("key and prefix of git", source(git={"url": "https://h/r", "key": "k", "prefix": "p/"}), KEY_OR_PREFIX),
    Row("a lakeFS ref that is a path", source(lakeFS={"repository": "rep", "ref": "a/b"}), "should match", True),
    Row("git over ssh", source(git={"url": "git@host.example:group/repo.git", "revision": "v1"})),
    Row(
        "a git revision that is an option", source(git={"url": "https://h/r", "revision": "--x"}), "should match", True
    ),
    Row("a git password in a url", source(git={"url": "https://u:p@h/r"}), "should match", True),
    Row("a git uri over ssh", source(uri="git+ssh://git@host/group/repo.git@main")),
    Row("a git uri with a password", source(uri="git+ssh://git:secret@host/group/repo.git"), NO_USER_INFO),
    Row("a lakeFS uri", source(uri="lakefs://repo/main/p/")),
    Row("a version of a prefix", source(s3={"bucket": "b", "prefix": "p/", "versionId": "v"}), "versionId is of one"),
    Row("a generation of a prefix", source(gcs={"bucket": "b", "generation": 3}), "generation is of one object"),
    Row("a snapshot of a container", source(azureBlob={"container": "c", "snapshot": "s"}), "snapshot is of one"),
    Row(
        "a version and a snapshot",
        source(azureBlob={"container": "c", "key": "k", "snapshot": "s", "versionId": "v"}),
        "either versionId or snapshot",
    ),
    Row("limits without unpack", source(uri="s3://b/p/", unpackLimits={"maxFiles": 3}), "need unpack: true"),
    Row("keep without unpack", source(uri="s3://b/p/", keepArchive=True), "need unpack: true"),
    Row("unpack with limits", source(uri="s3://b/p/", unpack=True, keepArchive=True, unpackLimits={"maxBytes": "1Gi"})),
    Row("a CA bundle", source(uri="s3://b/p/", caBundle={"configMapName": "ca"})),
    Row("s3 uri with globs", source(uri="s3://b/p/", include=["*.json"], exclude=["a*"])),
    Row("user and password in a uri", source(uri="https://user:secret@host/f"), NO_USER_INFO),
    Row("user and password in an s3 uri", source(uri="s3://key:secret@bucket/p/"), NO_USER_INFO),
    Row("user and password in a url", source(http={"url": "https://u:p@host/f"}), "should match", True),
    Row(
        "user and password in an endpoint",
        source(s3={"bucket": "b", "endpoint": "https://u:p@h"}),
        "should match",
        True,
    ),
    Row("a scheme that nobody serves", source(uri="ftp://host/f"), "should match", only_the_server=True),
    Row(
        "an unknown addressing style", source(s3={"bucket": "b", "addressingStyle": "path"}), '"Path", "Virtual"', True
    ),
    Row("no bucket", source(s3={}), "spec.sources[0].s3.bucket: Required value", only_the_server=True),
    Row("an empty glob", source(s3={"bucket": "b"}, include=[""]), "at least 1 chars long", only_the_server=True),
    Row("65 globs", source(s3={"bucket": "b"}, include=["*"] * 65), "must have at most 64 items", only_the_server=True),
    # paths
    *(
        Row(f"path {path!r}", place(path=path), SAFE_PATH)
        for place in (lambda path: source(s3={"bucket": "b"}, path=path), target)
        for path in ("/etc", "../x", "a/../b", "a//b", "a/", ".", "./a", ".datafetch", "a/.datafetch/b")
    ),
    *(Row(f"path {path!r}", target(path=path)) for path in ("a", "a/b/c", "..a", "a..b", ".hidden", "ä ö")),
    Row("the longest path", target(path="a/" * 511 + "ab")),
    Row("a path too long", target(path="a" * 1025), "may not be more than 1024", only_the_server=True),
    Row("a path with a line break", target(path="a\nb"), "should match '^[^", only_the_server=True),
    Row("an empty path", target(path=""), "at least 1 chars long", only_the_server=True),
    # target
    Row("an existing claim", target(persistentVolumeClaim={"claimName": "data"})),
    Row("a created claim", claim(accessModes=["ReadWriteMany"], deletionPolicy="Delete")),
    Row("a size as a plain number", claim(size=10_737_418_240)),
    Row("a size with a fraction", claim(size="1.5Ti")),
    Row("no claim", {**sources(S3), "target": {}}, "persistentVolumeClaim: Required value", only_the_server=True),
    Row("no claim name", target(persistentVolumeClaim={}), "claimName: Required value", only_the_server=True),
    Row("no size", target(persistentVolumeClaim={"claimName": "d", "create": {}}), "size: Required value", True),
    Row("a size that is none", claim(size="ten"), "should match", only_the_server=True),
    Row("a size of nothing", claim(size="0Gi"), "must be more than 0"),
    Row("a size of 0", claim(size=0), "must be more than 0"),
    Row("an unknown access mode", claim(accessModes=["ReadWrite"]), 'supported values: "ReadWriteOnce"', True),
    Row("an unknown policy", claim(deletionPolicy="Keep"), 'supported values: "Retain", "Delete"', True),
    Row("101 revisions", target(keepRevisions=101), "should be less than or equal to 100", only_the_server=True),
    # transfer
    Row("limits", transfer(maxConcurrency=1024, bandwidthLimit="200Mi", stallTimeout="1m30s")),
    Row("a limit as a plain number", transfer(bandwidthLimit=1_000_000)),
    Row("no bandwidth", transfer(bandwidthLimit="0"), "must be more than 0"),
    Row("no concurrency", transfer(maxConcurrency=0), "should be greater than or equal to 1", only_the_server=True),
    Row("no time", transfer(stallTimeout="0s"), "must be longer than 0s"),
    Row("everything read again", transfer(verify="Full")),
    Row("a verification that is none", transfer(verify="Sometimes"), "Unsupported value", only_the_server=True),
    Row("a time without a unit", transfer(stallTimeout="60"), "should match", only_the_server=True),
    # job and the rest
    Row(
        "a whole job",
        job(
            resources={"requests": {"cpu": 1, "memory": "256Mi"}, "limits": {"cpu": "1500m"}},
            nodeSelector={"disk": "ssd"},
            tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 60}],
            affinity={"nodeAffinity": {}},
            serviceAccountName="fetcher",
            priorityClassName="low",
            podSecurityContext={"runAsUser": 1000},
            imagePullSecrets=[{"name": "pull"}],
            env=[
                {"name": "HTTPS_PROXY", "value": "proxy:3128"},
                {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "p"}}},
            ],
            backoffLimit=0,
            activeDeadlineSeconds=3600,
            ttlSecondsAfterFinished=0,
            labels={"team": "ml"},
            annotations={"example.com/why": "because"},
        ),
    ),
    Row("our label", job(labels={"datafetch.io/fetch": "x"}), "keys under datafetch.io/ are reserved", True),
    Row("our annotation", job(annotations={"datafetch.io/x": "y"}), "keys under datafetch.io/ are reserved", True),
    Row("a variable twice", job(env=[{"name": "A"}, {"name": "A"}]), "Duplicate value", only_the_server=True),
    Row(
        "a resource that is no quantity",
        job(resources={"limits": {"cpu": "much"}}),
        "should match",
        only_the_server=True,
    ),
    Row("a trigger", {**sources(S3), "refresh": {"trigger": "2026-01-31"}}),
    Row("a schedule", {**sources(S3), "refresh": {"schedule": "*/30 1-5 * * mon,5L", "timeZone": "Europe/Helsinki"}}),
    Row("a schedule by name", {**sources(S3), "refresh": {"schedule": "@daily"}}),
    Row("a schedule of six fields", {**sources(S3), "refresh": {"schedule": "0 0 3 * * *"}}, "must be minute, hour"),
    Row("a schedule of two lines", {**sources(S3), "refresh": {"schedule": "0 3 * * *\n"}}, "must be minute, hour"),
    Row("an unknown name", {**sources(S3), "refresh": {"schedule": "@reboot"}}, "must be minute, hour"),
    Row(
        "a time zone alone",
        {**sources(S3), "refresh": {"timeZone": "UTC"}},
        "timeZone needs a schedule or a driftCheck",
    ),
    Row(
        "a drift check in a time zone",
        {**sources(S3), "refresh": {"driftCheck": {"schedule": "@hourly"}, "timeZone": "Europe/Helsinki"}},
    ),
    Row(
        "a time zone that is a path",
        {**sources(S3), "refresh": {"schedule": "@daily", "timeZone": "../UTC"}},
        "timeZone in body should match",
        True,
    ),
    Row("a trigger that is no string", {**sources(S3), "refresh": {"trigger": 1}}, "must be of type string", True),
    Row("suspended", {**sources(S3), "suspend": True}),
    # typing errors: kubectl asks for strict decoding
    Row(
        "an unknown field of a source",
        source(s3={"bucket": "b"}, includes=["*"]),
        'unknown field "spec.sources[0].includes"',
        True,
    ),
    Row("an unknown field of the target", target(keepRevision=1), 'unknown field "spec.target.keepRevision"', True),
    Row("an unknown field of the spec", {**sources(S3), "paused": True}, 'unknown field "spec.paused"', True),
]


@dataclass(frozen=True)
class Change:
    """A spec that is there, the one that is to replace it, and part of the sentence that refuses it."""

    name: str
    before: Spec
    after: Spec
    refusal: str | None = None


_MINIMAL = {"persistentVolumeClaim": {"claimName": "data"}}
CHANGES = [
    Change("another source", target(), {**target(), **sources(HUB)}),
    Change("other credentials", source(s3={"bucket": "b"}), source(s3={"bucket": "b"}, secretRef={"name": "s"})),
    Change("a larger claim", target(), claim(size="10.5Gi", storageClassName="fast")),
    Change("the same size in another unit", target(), claim(size="10240Mi", storageClassName="fast")),
    Change("the same size as a number", target(), claim(size=10 * 2**30, storageClassName="fast")),
    Change("a smaller claim", target(), claim(size="9Gi", storageClassName="fast"), "size may only grow"),
    Change("another storage class", target(), claim(storageClassName="slow"), "storageClassName cannot be changed"),
    Change("no storage class", target(), claim(), "storageClassName cannot be changed"),
    Change("a storage class later", claim(), target(), "storageClassName cannot be changed"),
    Change(
        "another access mode",
        target(),
        claim(storageClassName="fast", accessModes=["ReadWriteMany"]),
        "accessModes cannot be changed",
    ),
    Change("another deletion policy", target(), claim(storageClassName="fast", deletionPolicy="Delete")),
    Change(
        "another claim",
        target(),
        target(persistentVolumeClaim={"claimName": "other", "create": CREATE}),
        "claimName cannot be changed",
    ),
    Change("no create", target(), target(**_MINIMAL), "create cannot be added or removed"),
    Change("a create later", target(**_MINIMAL), target(), "create cannot be added or removed"),
    Change("another path", target(path="a"), target(path="b"), "path cannot be changed"),
    Change("no path", target(path="a"), target(), "path cannot be changed"),
    Change("a path later", target(), target(path="a"), "path cannot be changed"),
    Change("other revisions", target(), target(keepRevisions=3)),
    Change("no target", target(), sources(S3), "target cannot be added or removed"),
    Change("a target later", sources(S3), target(), "target cannot be added or removed"),
    Change("suspended", target(), {**target(), "suspend": True}),
]
