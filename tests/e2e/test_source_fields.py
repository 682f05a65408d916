"""What a resource says of its sources reaches the pods that download: archives, indexes, manifests, layouts, trust.

What each field does in depth is the component tests' matter.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from e2e.conftest import Bucket, Publish, random_bytes
from e2e.tenant import SECRET, Json, Tenant, condition
from e2e.workloads import checksums, container, finish, pod, template
from servers.emulators import Certificates, make_certificates
from servers.faults import FaultProxy
from servers.git import GitServer
from servers.http import StaticServer
from servers.hub import Hub
from servers.lakefs import LakeFS

WEIGHTS = random_bytes(200_000, 1)
MEMBERS = {"n01/1.jpg": random_bytes(50_000, 2), "n01/deep/2.jpg": b"2", "labels.csv": b"a,b\n"}
ZIPPED = {"zipped/note.txt": b"from a zip\n"}
FILE = b"a file\n"
LAKE = {"name": "lakefs"}
LAKE_KEY = ("AKIAe2e", "of-the-lake")
BUNDLE = {"configMapName": "corp-ca"}


def digests_of(files: Mapping[str, bytes], directory: str = "") -> dict[str, str]:
    """Return the sha256 of each file by its path below the target."""
    return {f"{directory}{path}": hashlib.sha256(content).hexdigest() for path, content in files.items()}


def tar_gz(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def zip_file(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


def archives(bucket: Bucket) -> tuple[Json, dict[str, str]]:
    """Fill the bucket with two archives and a file; return a source that unpacks them, and what comes of it."""
    stored = {"train.tar.gz": tar_gz(MEMBERS), "sub/more.zip": zip_file(ZIPPED), "README.md": b"# plain\n"}
    bucket.put({f"archives/{key}": content for key, content in stored.items()})
    source = bucket.source("archives", prefix="archives/", path="archives")
    limits = {"maxBytes": "1Mi", "maxFiles": 100}
    files = MEMBERS | {f"sub/{path}": content for path, content in ZIPPED.items()} | {"README.md": b"# plain\n"}
    return {**source, "unpack": True, "unpackLimits": limits}, digests_of(files, "archives/")


def listed(bucket: Bucket) -> tuple[Json, dict[str, str]]:
    """Fill the bucket with more than a manifest lists; return a source of what it lists, and that."""
    files = {"a.parquet": b"a" * 1000, "sub/b.parquet": b"b" * 1000}
    manifest = {"files": ["a.parquet", {"path": "sub/b.parquet", "size": 1000}]}
    stored = {**files, "half-an-upload.parquet": b"?", "manifest.json": json.dumps(manifest).encode()}
    bucket.put({f"listed/{key}": content for key, content in stored.items()})
    source = bucket.source("listed", prefix="listed/", path="listed")
    return {**source, "manifest": "manifest.json"}, digests_of(files, "listed/")


def indexed(server: StaticServer, url: str) -> tuple[Json, dict[str, str]]:
    """Serve an index and its files; return a source of them, and what comes of it."""
    files = {"data/part 1.bin": WEIGHTS, "notes.txt": b"n\n"}
    for path, content in files.items():
        server.put(f"/v3/{path}", content)
    lines = "".join(f"{digest}  {path}\n" for path, digest in digests_of(files).items())
    server.put("/v3/SHA256SUMS", lines.encode())
    index = {"url": f"{url}/v3/SHA256SUMS", "format": "Sha256Sum"}
    return {"name": "release", "path": "release", "http": {"index": index}}, digests_of(files, "release/")


def committed(lake: LakeFS, url: str) -> tuple[Json, dict[str, str], str]:
    """Commit files; return a source of them, what comes of it, and the commit."""
    files = {"v3/a.parquet": b"a" * 5000, "v3/deep/b.parquet": b"b"}
    repository = lake.create("corpus", {**files, "v2/old.parquet": b"old"})
    repository.stage({"v3/draft.parquet": b"?"})
    member = {"repository": "corpus", "prefix": "v3/", "endpoint": url}
    source = {"name": "lake", "path": "lake", "secretRef": LAKE, "lakeFS": member}
    return source, digests_of({path[3:]: content for path, content in files.items()}, "lake/"), repository.head


def cached(hub: Hub, url: str) -> tuple[Json, dict[str, str], str]:
    """Put a model with weights of two formats on the Hub; return a source of a cache of it, that, and the commit."""
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS}
    commit = hub.create("org/model", {**files, "pytorch_model.bin": b"a pickle"}).head
    member = {"repo": "org/model", "endpoint": url, "layout": "HubCache", "formats": "Safetensors"}
    folder = "models--org--model"
    found = digests_of(files, f"hub/{folder}/snapshots/{commit}/")
    found |= digests_of({"main": commit.encode()}, f"hub/{folder}/refs/")
    return {"name": "hub", "path": "hub", "huggingFace": member}, found, commit


def versioned(server: GitServer, url: str) -> tuple[Json, dict[str, str], str]:
    """Commit files to git; return a source of a directory of them, what comes of it, and the commit."""
    server.users["x-access-token"] = "a-token-of-git"
    files = {"train.py": b"print('hello')\n", "conf/deep.yaml": b"a: 1\n"}
    repository = server.create("code", {**{f"src/{path}": data for path, data in files.items()}, "README.md": b"#\n"})
    member = {"url": f"{url}/code.git", "prefix": "src/"}
    source = {"name": "code", "path": "code", "secretRef": {"name": "git"}, "git": member}
    return source, digests_of(files, "code/"), repository.head


def lake_secret(tenant: Tenant) -> None:
    """Create the Secret with the server's key, as lakectl names its parts."""
    names = ("LAKECTL_CREDENTIALS_ACCESS_KEY_ID", "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY")
    tenant.secret(LAKE["name"], **dict(zip(names, LAKE_KEY, strict=True)))


def trust(tenant: Tenant, certificates: Certificates) -> None:
    """Create the ConfigMap of the authority."""
    data = {"ca.crt": certificates.ca_file.read_text()}
    tenant.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": BUNDLE["configMapName"]}, "data": data})


def test_sources_of_every_kind_bring_what_their_fields_say(
    tenant: Tenant, bucket: Bucket, publish: Publish, host: str, tmp_path: Path
) -> None:
    with (
        StaticServer(host) as web,
        LakeFS(host) as lake,
        Hub(host, cdn_host=host) as hub,
        GitServer(tmp_path, host=host) as git,
    ):
        lake.add_key(*LAKE_KEY)
        lake_secret(tenant)
        unpacked, expected = archives(bucket)
        by_manifest, more = listed(bucket)
        by_index, found = indexed(web, publish("web", web.url))
        lake_source, of_lake, lake_commit = committed(lake, publish("lake", lake.url))
        hub_source, of_hub, hub_commit = cached(hub, publish("hub", hub.url))
        git_source, of_git, git_commit = versioned(git, publish("git", git.url))
        tenant.secret("git", token="a-token-of-git")
        tenant.claim("data")
        tenant.fetch("model", unpacked, by_manifest, by_index, lake_source, hub_source, git_source)
        status = tenant.wait_for_phase("model", "Ready")
        assert tenant.consume("data", "model") == expected | more | found | of_lake | of_hub | of_git
    sources = {source["name"]: source for source in status["sources"]}
    files = {name: source["files"] for name, source in sources.items()}
    assert files == {"archives": 3, "listed": 2, "release": 2, "lake": 2, "hub": 3, "code": 2}
    assert sources["release"]["resolvedRevision"].startswith("sha256:")
    assert sources["lake"]["resolvedRevision"] == lake_commit
    assert sources["hub"]["resolvedRevision"] == hub_commit
    assert sources["code"]["resolvedRevision"] == git_commit
    assert status["artifact"]["files"] == len(expected | more | found | of_lake | of_hub | of_git)
    assert condition(status, "Ready")["status"] == "True"


@contextmanager
def private_servers(bucket: Bucket, host: str, certificates: Certificates) -> Iterator[list[Json]]:
    """Run servers with a certificate of the authority; each source of theirs brings `FILE`, and trusts `BUNDLE`."""
    pair = (certificates.certificate, certificates.key)
    bucket.put({"corpus/file.txt": FILE})
    with (
        FaultProxy(host, bucket.proxy.port, host, certificate=pair) as s3,
        StaticServer(host, certificate=pair) as web,
        LakeFS(host) as lake,
        FaultProxy(host, lake.port, host, certificate=pair) as lake_front,
        Hub(host) as hub,
        FaultProxy(host, hub.port, host, certificate=pair) as hub_front,
    ):
        web.put("/file.txt", FILE)
        lake.add_key(*LAKE_KEY)
        lake.create("corpus", {"file.txt": FILE})
        hub.create("org/model", {"file.txt": FILE})
        object_store = {"bucket": bucket.name, "prefix": "corpus/", "endpoint": s3.url}
        repository = {"repository": "corpus", "endpoint": lake_front.url}
        model = {"repo": "org/model", "endpoint": hub_front.url}
        yield [
            {"name": "s3", "path": "s3", "secretRef": {"name": SECRET}, "caBundle": BUNDLE, "s3": object_store},
            {"name": "web", "path": "web", "caBundle": BUNDLE, "http": {"url": f"{web.url}/file.txt"}},
            {"name": "lake", "path": "lake", "secretRef": LAKE, "caBundle": BUNDLE, "lakeFS": repository},
            {"name": "hub", "path": "hub", "caBundle": BUNDLE, "huggingFace": model},
        ]


def test_a_private_authority_is_trusted_once_its_config_map_is_there(
    tenant: Tenant, bucket: Bucket, host: str, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path, host)
    with private_servers(bucket, host, certificates) as sources:
        lake_secret(tenant)
        tenant.claim("data")
        tenant.fetch("model", *sources)
        status = tenant.wait("model", lambda seen: seen.get("reason") == "ConfigMapNotFound", 30)
        assert status["phase"] == "Pending"
        said = condition(status, "Progressing")["message"]
        assert said.startswith("ConfigMap 'corp-ca' of source 's3' does not exist in namespace")
        assert "create it, and the fetch goes on by itself" in said
        assert "corp-ca" in tenant.describe("model")
        trust(tenant, certificates)
        status = tenant.wait_for_phase("model", "Ready")
        assert status["attempts"] == 1
        found = {source["name"]: source["bytes"] for source in status["sources"]}
        assert found == dict.fromkeys(("s3", "web", "lake", "hub"), len(FILE))


def test_a_pod_that_downloads_for_itself_trusts_and_unpacks_as_a_fetch_does(
    tenant: Tenant, bucket: Bucket, host: str, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path, host)
    pair = (certificates.certificate, certificates.key)
    unpacked, expected = archives(bucket)
    trust(tenant, certificates)
    tenant.secret("authority", **{"corp.pem": certificates.ca_file.read_text()})
    with StaticServer(host, certificate=pair) as web:
        web.put("/file.txt", FILE)
        web.put("/more.zip", zip_file(ZIPPED))
        by_url = {"name": "web", "path": "web", "caBundle": BUNDLE, "http": {"url": f"{web.url}/file.txt"}}
        tenant.recipe("model", unpacked, by_url)
        requests = {"fetch": "model=/model", "config": inline(web), "secret": "authority"}
        command = f"{checksums('/data/inline')}; {checksums('/model')}"
        tenant.apply(pod("reader", template(requests, container(command))))
        expected |= digests_of({"web/file.txt": FILE}) | digests_of(ZIPPED, "inline/")
        assert finish(tenant, "reader", 60) == expected


def inline(server: StaticServer) -> str:
    """Return a downloader config as it stands in an annotation."""
    return f"""
download_items:
  - type: http
    name: more
    ca_bundle_file: corp.pem
    unpack: {{max_files: 10}}
    items:
      - url: {server.url}/more.zip
        target_path: inline/more.zip
"""
