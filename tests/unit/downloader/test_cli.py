import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import datafetch
from datafetch import cli
from datafetch.api import config_for
from datafetch.cli import CommandLineError, parse
from datafetch.commands.display import fetch_display
from datafetch.commands.options import with_transfer
from datafetch.errors import InvalidConfigError
from datafetch_api.config import AzureBlobItem, GCSItem, HttpItem, HuggingFaceItem, S3Item
from datafetch_api.exit_codes import ExitCode


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandLineError) as caught:
        parse(arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no command: write 'datafetch run CONFIG'"),
        ("--json", "no command"),
        ("rnu c.yaml", "'rnu' is not a command; did you mean 'run'?"),
        ("config.yaml", "did you mean 'datafetch run config.yaml'?"),
        ("s3://b/p ./d", "did you mean 'datafetch get URI DEST'?"),
        ("run c.yaml --max-worker 3", "datafetch run has no option '--max-worker'; did you mean '--max-workers'?"),
        ("run c.yaml --loglevel=DEBUG", "did you mean '--log-level'?"),
        ("run c.yaml --zzz", "datafetch run has no option '--zzz'; see --help"),
        ("run c.yaml d.yaml", "one argument too many: 'd.yaml'"),
        ("run c.yaml --max-workers 0", "'0' is not a number from 1 to 1024"),
        ("run c.yaml --max-workers many", "'many' is not a number"),
        ("run c.yaml --log-level loud", "'loud' is not one of DEBUG, INFO, WARNING, ERROR"),
        ("run c.yaml --config-digest abc", "'abc' is not a digest; write sha256:"),
        ("run c.yaml --progress bars", "'bars'"),
        ("get s3://b/p", "DEST"),
        ("run c.yaml --verify sometimes", "'sometimes' (choose from"),
        ("run c.yaml --termination-limit 9000", "'9000' is not a number from 200 to 4096"),
        ("verify", "DIR"),
        ("verfy d", "did you mean 'verify'?"),
        ("completion tcsh", "'tcsh'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(line: str, said: str) -> None:
    sentence = refusal(*line.split())

    assert said in sentence
    assert "\n" not in sentence


def test_the_flags_of_the_kaiwo_downloader_work_as_there() -> None:
    options = parse(["run", "task.yaml", "--max-workers", "8", "--log-level", "debug"])

    assert (options.config, options.max_workers, options.log_level) == ("task.yaml", 8, "DEBUG")


def test_the_config_may_be_left_out() -> None:
    assert parse(["run"]).config is None
    assert parse(["run", "-"]).config == "-"


def test_globs_may_be_repeated() -> None:
    options = parse(["get", "s3://b/", "d", "--include", "*.a", "--include", "*.b", "--exclude", "c"])

    assert (options.include, options.exclude) == (["*.a", "*.b"], ["c"])


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in cli.COMMANDS)], ids=" ".join)
def test_help_fits_a_terminal_and_has_examples(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        parse(arguments)

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_every_exit_code_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])

    shown = set(re.findall(r"(?<!\S)\d+(?= \w)", capsys.readouterr().out))
    assert shown == {str(code.value) for code in ExitCode}


def test_the_parser_lists_the_commands_that_there_are() -> None:
    for command in cli.COMMANDS:
        with pytest.raises((SystemExit, CommandLineError)):
            parse([command, "--help"])


# --- datafetch get ---------------------------------------------------------------------------------------------------


def test_a_uri_becomes_an_item_of_its_provider() -> None:
    kinds = {
        "s3://b/p/": S3Item,
        "gs://b/p": GCSItem,
        "az://c/p": AzureBlobItem,
        "hf://o/n": HuggingFaceItem,
        "https://h/f": HttpItem,
    }
    for uri, kind in kinds.items():
        (item,) = config_for(uri, "d").download_items
        assert type(item) is kind


def test_a_repository_lands_in_the_directory_itself() -> None:
    (item,) = config_for("hf://org/name@v2/sub/", "d", include=["*.json"]).download_items

    assert isinstance(item, HuggingFaceItem)
    assert (item.repo_id, item.revision, item.path) == ("org/name", "v2", "sub/")
    assert (item.selection.target_path, item.files) == ("./", ("*.json",))


def test_the_options_reach_the_item() -> None:
    config = config_for("s3://b/p", "d", endpoint_url="http://h:1", region="eu-north-1", anonymous=True)

    (item,) = config.download_items
    assert isinstance(item, S3Item)
    assert (item.endpoint_url, item.region, item.anonymous) == ("http://h:1", "eu-north-1", True)
    assert config.download_root == "d"


def test_messages_name_the_source_by_its_uri_without_a_token() -> None:
    (item,) = config_for("https://host/file.bin?sig=secret", "d").download_items

    assert item.name == "https://host/file.bin"


@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("gs://b/p", {"region": "eu"}, "region means nothing to a gs:// source"),
        ("hf://o/n", {"anonymous": True}, "anonymous means nothing to a hf:// source"),
        ("https://h/f", {"include": ["*"]}, "is one file"),
        ("ftp://h/f", {}, "is not a source; write s3://"),
        ("s3://", {}, "names no bucket"),
        ("hf://name", {}, "names no repository"),
        ("https://user:secret@h/f", {}, "holds a user or password"),
    ],
)
def test_what_cannot_work_is_refused(uri: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=re.escape(said)) as caught:
        config_for(uri, "d", **options)  # type: ignore[arg-type]  # the table's values are of several types

    assert "secret" not in str(caught.value)


# --- the process -----------------------------------------------------------------------------------------------------


def datafetch_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key != "DATAFETCH_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "datafetch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=kept | environment,
        check=False,
    )


def test_the_version_is_printed_without_importing_anything_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "datafetch", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, f"datafetch {datafetch.__version__}\n")
    assert "pydantic" not in done.stderr
    assert "argparse" not in done.stderr


def test_the_version_is_the_distribution_s() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]

    assert datafetch.__version__ == project["version"]


def test_parsing_imports_neither_pydantic_nor_a_provider_s_sdk() -> None:
    code = "import sys; from datafetch import cli; cli.parse(['run', 'x']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"pydantic", "yaml", "rich", "boto3", "google", "azure", "huggingface_hub"} & set(done.stdout.split())


def test_importing_the_package_is_cheap_and_its_api_is_there() -> None:
    code = "import sys, datafetch; assert 'pydantic' not in sys.modules; datafetch.fetch; print(*datafetch.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == datafetch.__all__


def test_a_mistake_on_the_command_line_exits_2_with_one_line_and_a_result(tmp_path: Path) -> None:
    message = tmp_path / "message"
    done = datafetch_command("run", "nope.yaml", "--json", "--termination-log", str(message))

    assert done.returncode == 2
    assert re.fullmatch(r"\S+ ERROR InvalidConfig: there is no config file 'nope.yaml' .*\n", done.stderr)
    assert done.stdout == message.read_text() + "\n"
    assert '"reason":"InvalidConfig"' in done.stdout


def test_every_problem_of_a_file_is_a_line_of_its_own() -> None:
    config = "download_root: d\ndownload_items:\n- {type: hf, name: x, repo: a/b, revsion: v}\n"
    done = datafetch_command("run", DATAFETCH_CONFIG=config)

    assert done.returncode == 2
    lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    assert lines == [
        (
            "ERROR InvalidConfig: DATAFETCH_CONFIG:3:23: download_items[0].repo is not a known key; "
            "did you mean 'repo_id'? (and 1 more problem)"
        ),
        "ERROR also: DATAFETCH_CONFIG:3:34: download_items[0].revsion is not a known key; did you mean 'revision'?",
    ]


def test_a_reader_that_goes_away_is_no_error() -> None:
    line = f"{sys.executable} -m datafetch --help | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert done.stdout.endswith("\n0\n")


def test_the_progress_is_lines_where_standard_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from datafetch.progress import ProgressTracker

    shown = io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    with fetch_display("auto", ProgressTracker()):
        pass

    assert shown.getvalue().startswith('{"completedBytes":0,')


def test_the_command_line_wins_over_the_file() -> None:
    config = config_for("s3://b/p", "d")

    options = parse(["get", "s3://b/p", "d", "--verify", "full", "--max-workers", "3"])
    transfer = with_transfer(config, options).transfer

    assert (transfer.verify, transfer.max_concurrency) == ("Full", 3)
    assert with_transfer(config, parse(["get", "s3://b/p", "d"])) == config
