"""The command `datafetch` as a user runs it: a process, its exit code, its two streams, and the tree that it left."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafetch_api.report import Progress, Result, parse_result

ISOLATED = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_GCE_CHECK": "true",
    "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_XET": "1",
}
"""No SDK asks the cloud's metadata address or phones home."""


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line of standard output; each is JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def progress(self) -> list[Progress]:
        """The progress lines."""
        return [Progress.model_validate(line) for line in self.lines if "stage" in line]

    @property
    def result(self) -> Result:
        """The result, the last line of standard output (`--json`)."""
        result = parse_result(self.stdout.splitlines()[-1])
        assert result is not None, self.stdout
        return result

    @property
    def sentence(self) -> str:
        """The one sentence in which a failed run says why."""
        (line,) = [line for line in self.stderr.splitlines() if " ERROR " in line and " also: " not in line]
        return line.partition(" ERROR ")[2]


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without anything of whoever runs the tests."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), **ISOLATED, **more}


def datafetch(*arguments: str | Path, cwd: Path, stdin: str | None = None, **more: str) -> Run:
    """Run the command in a directory, with more environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "datafetch", *map(str, arguments)],
        cwd=cwd,
        env=environment(cwd, more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def tree(root: Path) -> dict[str, bytes]:
    """Return every file below the root with its content; our own directory left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".datafetch" not in path.relative_to(root).parts
    }
