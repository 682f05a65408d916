"""Run inside a build: `python3 strip.py VENV` deletes from a virtual environment what no program of ours ever opens."""

import shutil
import sys
from pathlib import Path

_AWS_SERVICES = ("s3", "sts", "sso", "sso-oidc", "signin")
"""The services that the downloader's S3 source and its credential chain call; botocore brings over 400."""

_SOURCES = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h")
_TESTS = ("tests", "test")
_PYTHON_2 = "aenum/_py2.py"
"""Only Python 2 imports it, and Python 3 cannot compile it."""


def main(environment: Path) -> None:
    """Delete tests, sources of compiled modules, and descriptions of AWS services that are never called."""
    for packages in environment.glob("lib/python*/site-packages"):
        _delete_tests(packages)
        (packages / _PYTHON_2).unlink(missing_ok=True)
        for pattern in _SOURCES:
            for source in packages.rglob(pattern):
                source.unlink()
        for library in ("boto3", "botocore"):
            _delete_services(packages / library / "data")


def _delete_tests(packages: Path) -> None:
    for name in _TESTS:
        for folder in [path for path in packages.rglob(name) if path.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)


def _delete_services(data: Path) -> None:
    if not data.is_dir():
        return
    for service in data.iterdir():
        if service.is_dir() and service.name not in _AWS_SERVICES:
            shutil.rmtree(service)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
