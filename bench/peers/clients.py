"""The programs that are compared: the command line of each, and the flags with which each does best.

Builds commands and the files that they read; runs nothing. What each one verifies, and where that is known from, stands
here too, because the tables say it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage import servers

from .content import Stored
from .install import Programs
from .presign import presigned
from .serving import Endpoint

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
    link: bool
    """Whether the server is far away."""


@dataclass(frozen=True)
class Client:
    """A program to compare."""

    name: str
    command: Callable[[Task], list[str]]
    flags: str
    """How it is run, for the document."""
    verifies_md5: bool
    """Of objects uploaded in one part."""
    verifies: str
    source: str
    """Where that is known from."""


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
    }
    if task.endpoint.ca_file is None:
        return variables
    authority = str(task.endpoint.ca_file)
    return {**variables, "SSL_CERT_FILE": authority, "AWS_CA_BUNDLE": authority}


def _datafetch(task: Task) -> list[str]:
    config = {
        "download_root": str(task.target),
        "download_items": [
            {
                "type": "s3",
                "name": "bench",
                "endpoint_url": task.endpoint.url,
                "items": [{"bucket": task.bucket, "items": [{"path": "."}]}],
            }
        ],
    }
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
        "--s3-force-path-style", "--s3-no-check-bucket", "--s3-no-head-object",
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
            "datafetch",
            _datafetch,
            "`datafetch run config.yaml --progress none`",
            verifies_md5=True,
            verifies="size, MD5 of objects uploaded in one part, If-Match on every request; flushes before naming",
            source="docs/sources.md",
        ),
        Client(
            "s5cmd",
            _s5cmd,
            "`--numworkers 256 cp --concurrency 8 --part-size 32`",
            verifies_md5=False,
            verifies="nothing of the content",
            source="its README and command/cp.go: a download hands the body to the SDK's manager",
        ),
        Client(
            "rclone",
            _rclone,
            "`copy --transfers 32 --checkers 32 --multi-thread-streams 8 --fast-list --no-traverse --no-check-dest`",
            verifies_md5=True,
            verifies="size, MD5 of objects uploaded in one part (in one stream or several)",
            source="rclone's documentation, S3, «Hashes»",
        ),
        Client(
            "obstore",
            _obstore,
            "asyncio, 32 requests at once, ranges of 16 MiB",
            verifies_md5=False,
            verifies="nothing of the content",
            source="object_store's AmazonS3Config: checksums are for uploads",
        ),
        Client(
            "boto3",
            _boto3,
            "`download_file` with its defaults (10 threads, parts of 8 MiB), 16 files at once",
            verifies_md5=False,
            verifies="CRC32 where the answer carries one for the whole body",
            source="botocore's response_checksum_validation",
        ),
        Client(
            "aws-cli",
            _aws,
            "`aws s3 cp --recursive`, max_concurrent_requests 20",
            verifies_md5=False,
            verifies="CRC32 where the answer carries one for the whole body",
            source="botocore's response_checksum_validation",
        ),
        Client(
            "limit",
            _limit,
            "sockets, recv_into 1 MiB, pwrite; 2 threads, ranges of 32 MiB; is told keys and sizes",
            verifies_md5=False,
            verifies="nothing",
            source="bench/peers/programs/limit.py",
        ),
    )
}
