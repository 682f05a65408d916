"""From the argument of `datafetch run` to a `DownloadConfig`: reads the file, and checks its digest.

What is wrong with the text is `datafetch_api.config_text`'s to say; a file that holds a DataFetch resource is
`resource_file`'s; what the values mean to a source is that source's.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from datafetch.errors import InvalidConfigError
from datafetch_api.config import DownloadConfig
from datafetch_api.config_text import config_of, holds_resource
from datafetch_api.documents import LARGEST_TEXT, InvalidTextError, read_documents

CONFIG_VARIABLE = "DATAFETCH_CONFIG"
"""Environment variable with a whole config, for pods that carry theirs with them."""


class InvalidFileError(InvalidConfigError):
    """A file with one or more problems: the first is the message, the others are for the log."""

    def __init__(self, error: InvalidTextError) -> None:
        super().__init__(str(error))
        self.others = error.others


@dataclass(frozen=True)
class ConfigText:
    """The bytes of a config, and what messages call them."""

    name: str
    data: bytes


def read_text(argument: str | None, environment: Mapping[str, str]) -> ConfigText:
    """Return the text of the file that was named, of standard input for `-`, else of `DATAFETCH_CONFIG`.

    Raises InvalidConfigError where there is none or it cannot be read.
    """
    if argument is None:
        return _from_environment(environment)
    if argument == "-":
        return ConfigText("standard input", sys.stdin.buffer.read(LARGEST_TEXT + 1))
    try:
        with open(argument, "rb") as file:
            return ConfigText(argument, file.read(LARGEST_TEXT + 1))
    except FileNotFoundError:
        raise InvalidConfigError(
            f"there is no config file {argument!r} (working directory {os.getcwd()}); check the path"
        ) from None
    except IsADirectoryError:
        raise InvalidConfigError(f"{argument!r} is a directory; name the config file in it") from None
    except OSError as error:
        raise InvalidConfigError(f"cannot read the config file {argument!r}: {error.strerror}") from None


def _from_environment(environment: Mapping[str, str]) -> ConfigText:
    text = environment.get(CONFIG_VARIABLE)
    if text is None:
        raise InvalidConfigError(f"no config: name a file, - for standard input, or set {CONFIG_VARIABLE}")
    return ConfigText(CONFIG_VARIABLE, text.encode(errors="surrogateescape"))


def check_digest(text: ConfigText, expected: str | None) -> None:
    """Raise InvalidConfigError where the text is not the one that `sha256:HEX` was taken of."""
    if expected is None:
        return
    actual = f"sha256:{hashlib.sha256(text.data).hexdigest()}"
    if actual != expected.lower():
        raise InvalidConfigError(
            f"{text.name} has the digest {actual}, and --config-digest asks for {expected}: "
            "the config is another one than this run was made for"
        )


def load(text: ConfigText, *, target_dir: str | None = None, secrets_dir: str | None = None) -> DownloadConfig:
    """Return the config that a text holds, or that its DataFetch resource stands for.

    `target_dir` replaces the config's `download_root`; a resource needs it. `secrets_dir` holds a directory for each
    Secret that a resource names. Raises InvalidConfigError whose message names the place in the file.
    """
    try:
        return _load(text, target_dir, secrets_dir)
    except InvalidTextError as error:
        raise InvalidFileError(error) from None


def _load(text: ConfigText, target_dir: str | None, secrets_dir: str | None) -> DownloadConfig:
    documents = read_documents(text.data, text.name)
    if any(map(holds_resource, documents)):
        from datafetch import resource_file

        return resource_file.load(documents, target_dir=target_dir, secrets_dir=secrets_dir)
    if documents and secrets_dir is not None:
        raise InvalidConfigError(
            f"--secrets-dir is for a DataFetch resource; {text.name} is a config and names its credentials itself, "
            "in *_file and credentials_dir"
        )
    return config_of(documents, text.name, root=target_dir)
