"""The command: what it says and how it ends where it cannot serve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    # Port 9 is closed: nobody answers.
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "u", "user": {}}],
}


def _run(**environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "datafetch_operator"]
    return subprocess.run(command, env=kept | environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_setting_that_cannot_be_used_ends_it_with_code_2() -> None:
    ended = _run(DATAFETCH_WORKERS="8")
    assert ended.returncode == 2
    assert ended.stderr == (
        "datafetch-operator: DATAFETCH_DOWNLOADER_IMAGE is not set; it names the image of the download pods\n"
    )


def test_a_cluster_that_does_not_answer_ends_it_with_code_1_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(KUBECONFIG))
    ended = _run(KUBECONFIG=str(path), DATAFETCH_DOWNLOADER_IMAGE="example.org/df:1")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "127.0.0.1:9" in json.loads(line)["message"]
