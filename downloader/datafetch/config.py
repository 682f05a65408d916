"""From the text of `datafetch run` to a `DownloadConfig`: reads the file, checks its digest, and says what is wrong.

A file that holds a DataFetch resource is `resource_file`'s; what the values mean to a source is that source's.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from datafetch.documents import LARGEST_TEXT, Document, read_documents
from datafetch.errors import InvalidConfigError
from datafetch.problems import InvalidFileError, problems, sentence
from datafetch_api.config import DownloadConfig

CONFIG_VARIABLE = "DATAFETCH_CONFIG"
"""Environment variable with a whole config, for pods that carry theirs with them."""


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
    documents = read_documents(text.data, text.name)
    if not documents:
        raise InvalidConfigError(f"{text.name} is empty; write download_root and download_items")
    if any(isinstance(document.value, dict) and "kind" in document.value for document in documents):
        from datafetch import resource_file

        return resource_file.load(documents, target_dir=target_dir, secrets_dir=secrets_dir)
    if len(documents) > 1:
        raise InvalidConfigError(
            f"{documents[1].place(())}: {text.name} holds {len(documents)} documents; a config is one, so remove '---'"
        )
    if secrets_dir is not None:
        raise InvalidConfigError(
            f"--secrets-dir is for a DataFetch resource; {text.name} is a config and names its credentials itself, "
            "in *_file and credentials_dir"
        )
    return _validate(documents[0], target_dir)


def _validate(document: Document, target_dir: str | None) -> DownloadConfig:
    value = document.value
    if not isinstance(value, dict):
        raise InvalidConfigError(
            f"{document.place(())}: a config is a mapping with download_root and download_items, not this"
        )
    found = []
    if target_dir is not None:
        value = {key: inner for key, inner in value.items() if key != "managed"} | {"download_root": target_dir}
    elif "download_root" not in value and "managed" not in value:
        found.append(sentence(document, ("download_root",), "is missing; name the directory that the data goes to"))
        value = value | {"download_root": "."}
    try:
        config = DownloadConfig.model_validate(value)
    except ValidationError as error:
        raise InvalidFileError(found + problems(error, DownloadConfig, document)) from None
    if found:
        raise InvalidFileError(found)
    return config
