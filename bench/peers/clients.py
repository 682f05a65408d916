"""The programs that are compared: the command line of each, and the flags with which each does best.

Builds commands and the files that they read; runs nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage import servers

from . import hub
from .content import Stored
from .install import Programs
from .presign import presigned
from .serving import Endpoint

US = "datafetch"
LIMIT = "limit"
_PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Task:
    """One download: a whole bucket into an empty directory."""

    endpoint: Endpoint
    bucket: str
    stored: list[Stored]
    target: Path
    """Does not exist yet; its parent does."""
    state: Path
    """For config files; the client's HOME."""
    programs: Programs
    protocol: str
    """s3, or hub: the Hugging Face Hub's."""
    link: bool
    """Whether the server is far away."""


@dataclass(frozen=True)
class Client:
    """A program to compare."""

    name: str
    command: Callable[[Task], list[str]]
    flags: str
    """How it is run, for the document."""
    verifies: str
    """As its documents or its source have it; `tampering` tries it."""
    hashes: frozenset[str] = frozenset()
    """The protocols with which it computes MD5 or SHA-256 of what has one."""
    protocols: frozenset[str] = frozenset({"s3"})


def environment(task: Task) -> dict[str, str]:
    """Return what every client gets: credentials, the authority, and nothing of the caller's own settings."""
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(task.state),
        "AWS_ACCESS_KEY_ID": servers.S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": servers.S3_SECRET_KEY,
        "AWS_REGION": servers.S3_REGION,
        "AWS_DEFAULT_REGION": servers.S3_REGION,
        "AWS_CONFIG_FILE": str(task.state / "aws-config"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "RCLONE_CONFIG": "",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if task.endpoint.ca_file is None:
        return variables
    authority = str(task.endpoint.ca_file)
    return {**variables, "SSL_CERT_FILE": authority, "AWS_CA_BUNDLE": authority}


def _datafetch(task: Task) -> list[str]:
    source: dict[str, object] = {"type": "s3", "items": [{"bucket": task.bucket, "items": [{"path": "."}]}]}
    if task.protocol == "hub":
        source = {"type": "hf", "repo_id": hub.REPOSITORY, "target_path": "."}
    item = {**source, "name": "bench", "endpoint_url": task.endpoint.url}
    config = {"download_root": str(task.target), "download_items": [item]}
    path = _write(task.state / "config.yaml", json.dumps(config))
    return [str(task.programs.datafetch), "run", path, "--progress", "none"]


def _s5cmd(task: Task) -> list[str]:
    # 256 workers are its default; 8 ranges of 32 MiB at once of a large object were better here than its 5 of 50 MiB.
    ranges = ["--concurrency", "8", "--part-size", "32"]
    common = [str(task.programs.s5cmd), "--endpoint-url", task.endpoint.url, "--log", "error", "--numworkers", "256"]
    return [*common, "cp", *ranges, f"s3://{task.bucket}/*", f"{task.target}/"]


def _rclone(task: Task) -> list[str]:
    transfers = "64" if task.link else "32"
    return [
        str(task.programs.rclone), "copy", f":s3:{task.bucket}", str(task.target),
        "--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", task.endpoint.url, "--s3-region", servers.S3_REGION,
        "--s3-force-path-style", "--s3-no-check-bucket", "--s3-no-head-object", "--s3-list-version", "2",
        "--fast-list", "--transfers", transfers, "--checkers", "32",
        "--multi-thread-streams", "8", "--multi-thread-cutoff", "256M", "--multi-thread-chunk-size", "64M",
        "--no-traverse", "--no-check-dest",
    ]  # fmt: skip


def _boto3(task: Task) -> list[str]:
    return _python(task, "boto3_download_file.py")


def _obstore(task: Task) -> list[str]:
    return _python(task, "obstore_get.py", "128" if task.link else "32")


def _aws(task: Task) -> list[str]:
    config = "[default]\ns3 =\n  max_concurrent_requests = 20\n  max_queue_size = 10000\n  addressing_style = path\n"
    _write(task.state / "aws-config", config)
    common = ["--recursive", "--only-show-errors", "--endpoint-url", task.endpoint.url]
    return [str(task.programs.aws), "s3", "cp", f"s3://{task.bucket}", str(task.target), *common]


def _huggingface_hub(task: Task) -> list[str]:
    program = str(_PROGRAMS / "snapshot_download.py")
    return [str(task.programs.peers_python), program, task.endpoint.url, hub.REPOSITORY, str(task.target)]


def _limit(task: Task) -> list[str]:
    rows = presigned(task.endpoint.url, task.bucket, task.stored)
    work = _write(task.state / "limit.json", json.dumps({"url": task.endpoint.url, "objects": rows}))
    connections = "64" if task.link else "2"
    # The interpreter of the downloader's environment, without its site-packages: the loop needs the standard library.
    python = str(task.programs.datafetch.with_name("python"))
    return [python, "-I", "-S", str(_PROGRAMS / "limit.py"), work, str(task.target), connections]


def _python(task: Task, program: str, *arguments: str) -> list[str]:
    script = str(_PROGRAMS / program)
    return [str(task.programs.peers_python), script, task.endpoint.url, task.bucket, str(task.target), *arguments]


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            US,
            _datafetch,
            "`datafetch run config.yaml --progress none`",
            verifies="size, identity of every answer (If-Match), MD5 of S3 objects uploaded in one part, on the Hub "
            "SHA-256 of LFS files and the git blob's SHA-1 of the others; flushes before a file gets its name",
            hashes=frozenset({"s3", "hub"}),
            protocols=frozenset({"s3", "hub"}),
        ),
        Client(
            "s5cmd",
            _s5cmd,
            "`--numworkers 256 cp --concurrency 8 --part-size 32`",
            verifies="nothing of a download's content (peak/s5cmd issues 398, 563)",
        ),
        Client(
            "rclone",
            _rclone,
            "`copy --transfers 32 --checkers 32 --multi-thread-streams 8 --multi-thread-cutoff 256M "
            "--multi-thread-chunk-size 64M --fast-list --no-traverse --no-check-dest`; 64 transfers over the link",
            verifies="size, MD5 of objects uploaded in one part",
            hashes=frozenset({"s3"}),
        ),
        Client(
            "obstore",
            _obstore,
            "asyncio, 32 requests at once (128 over the link), ranges of 8 MiB, pwrite: "
            "bench/peers/programs/obstore_get.py",
            verifies="nothing of the content",
        ),
        Client(
            "boto3",
            _boto3,
            "`download_file` with its own settings (10 threads, parts of 8 MiB), 16 files at once",
            verifies="CRC where the answer carries one of all it brings (botocore/httpchecksum.py): not for ranges",
        ),
        Client(
            "aws-cli",
            _aws,
            "`aws s3 cp --recursive`, max_concurrent_requests 20, max_queue_size 10000",
            verifies="as boto3",
        ),
        Client(
            "huggingface_hub",
            _huggingface_hub,
            "`snapshot_download(local_dir=..., max_workers=16)`, without xet",
            verifies="size (huggingface_hub/file_download.py, http_get)",
            protocols=frozenset({"hub"}),
        ),
        Client(
            LIMIT,
            _limit,
            "raw sockets, recv_into 1 MiB, pwrite; 2 threads (64 over the link), ranges of 32 MiB; it does not list",
            verifies="nothing",
            protocols=frozenset({"s3", "hub"}),
        ),
    )
}
