"""From a pod's annotations to what it asks for. Pure; no pod is looked at here, and no cluster."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar, cast

from datafetch_api.annotations import PREFIX, FetchRequest, PodAnnotation, parse_fetches
from datafetch_api.quantities import parse_bytes
from datafetch_operator.admission.refusal import Refusal, suggest

Wait = Literal["init", "gate", "none"]
DEFAULT_MOUNT_PATH = "/data"
LAST = "*"
"""Value of `datafetch.io/after` for the end of the list."""
_REQUESTS = (PodAnnotation.FETCH, PodAnnotation.URI, PodAnnotation.CONFIG)
_WAITS = ("init", "gate", "none")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_CPU = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m?)")
_LONGEST_MOUNT_PATH = 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class InlineUri:
    """One line of `datafetch.io/uri`."""

    uri: str
    directory: str | None = None
    """Where it goes below the mount path; None for the mount path itself."""


@dataclass(frozen=True, slots=True)
class PodRequest:
    """What a pod asks for. Paths are checked; names are those of the pod's own namespace."""

    fetches: tuple[FetchRequest, ...] = ()
    uris: tuple[InlineUri, ...] = ()
    config: str | None = None
    mount_path: str | None = None
    """None where the pod says nothing: then what mounts a volume already keeps its own mount."""
    containers: tuple[str, ...] = ()
    """Empty for all containers of the pod."""
    wait: Wait | None = None
    volume: str | None = None
    path: str | None = None
    size: str | None = None
    read_only: bool | None = None
    secret: str | None = None
    after: str | None = None
    run_as_user: int | None = None
    requests: Mapping[str, str] | None = None
    """Of cpu and memory; None where the pod asks for neither."""
    limits: Mapping[str, str] | None = None

    @property
    def has_inline(self) -> bool:
        """Whether sources stand in the annotations themselves."""
        return bool(self.uris) or self.config is not None

    @property
    def several(self) -> bool:
        """Whether more than one thing is asked for, so that each needs a directory of its own."""
        return len(self.fetches) + self.has_inline > 1


def read_request(annotations: Mapping[str, str]) -> PodRequest | None:
    """Return what the annotations ask for, or None where none of them is ours. Raises Refusal."""
    ours = {key: value for key, value in annotations.items() if key.startswith(PREFIX)}
    if not ours:
        return None
    _refuse_unknown(ours)
    if not any(key in ours for key in _REQUESTS):
        raise Refusal(
            f"annotation {min(ours)} says how, but nothing asks for data; add {PodAnnotation.FETCH}, "
            f"{PodAnnotation.URI} or {PodAnnotation.CONFIG}, or remove it"
        )
    reader = _Reader(ours)
    request = PodRequest(
        fetches=reader.read(PodAnnotation.FETCH, parse_fetches) or (),
        uris=reader.read(PodAnnotation.URI, _parse_uris) or (),
        config=ours.get(PodAnnotation.CONFIG),
        mount_path=reader.read(PodAnnotation.MOUNT_PATH, check_mount_path),
        containers=reader.read(PodAnnotation.CONTAINERS, _parse_names) or (),
        wait=reader.read(PodAnnotation.WAIT, _parse_wait),
        volume=reader.read(PodAnnotation.VOLUME, _parse_object_name),
        path=reader.read(PodAnnotation.PATH, check_directory),
        size=reader.read(PodAnnotation.SIZE, _parse_size),
        read_only=reader.read(PodAnnotation.READ_ONLY, _parse_truth),
        secret=reader.read(PodAnnotation.SECRET, _parse_object_name),
        after=reader.read(PodAnnotation.AFTER, _parse_after),
        run_as_user=reader.read(PodAnnotation.RUN_AS_USER, _parse_user),
        requests=reader.quantities(cpu=PodAnnotation.CPU, memory=PodAnnotation.MEMORY),
        limits=reader.quantities(cpu=PodAnnotation.CPU_LIMIT, memory=PodAnnotation.MEMORY_LIMIT),
    )
    _refuse_contradictions(request)
    return request


class _Reader:
    """Reads one value each; what is wrong with it becomes a refusal that names the annotation."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._annotations = annotations

    def read(self, key: PodAnnotation, parse: Callable[[str], _T]) -> _T | None:
        value = self._annotations.get(key)
        if value is None:
            return None
        try:
            return parse(value.strip())
        except ValueError as error:
            raise Refusal(f"annotation {key}: {error}") from None

    def quantities(self, cpu: PodAnnotation, memory: PodAnnotation) -> Mapping[str, str] | None:
        found = {"cpu": self.read(cpu, _parse_cpu), "memory": self.read(memory, _parse_size)}
        return {name: value for name, value in found.items() if value is not None} or None


def _refuse_unknown(ours: Mapping[str, str]) -> None:
    known = [annotation.value for annotation in PodAnnotation]
    for key in sorted(ours):
        if key not in known:
            near = suggest(key, known) or "; docs/pods.md lists those that there are"
            raise Refusal(f"annotation {key} is unknown{near}")


def _refuse_contradictions(request: PodRequest) -> None:
    if request.uris and request.config is not None:
        raise Refusal(
            f"annotations {PodAnnotation.URI} and {PodAnnotation.CONFIG} exclude each other; put all into the config"
        )
    if request.secret is not None and not request.has_inline:
        raise Refusal(
            f"annotation {PodAnnotation.SECRET} is for {PodAnnotation.URI} and {PodAnnotation.CONFIG}; a DataFetch "
            "names its Secrets itself, in spec.sources[].secretRef"
        )
    if request.size is not None and request.volume is not None:
        raise Refusal(
            f"annotation {PodAnnotation.SIZE} is of the emptyDir that we would add, and {PodAnnotation.VOLUME} names "
            f"volume {request.volume!r} instead; remove one of them"
        )
    if request.path is not None and request.volume is None:
        raise Refusal(
            f"annotation {PodAnnotation.PATH} is a directory on the volume that {PodAnnotation.VOLUME} names; add "
            "that, or remove it"
        )


def check_mount_path(path: str) -> str:
    """Return a mount path without needless slashes. Raises ValueError."""
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or not parts or ".." in parts or "." in parts or ":" in path:
        raise ValueError(f"{path!r} is not a mount path; write an absolute one such as {DEFAULT_MOUNT_PATH}")
    if len(path) > _LONGEST_MOUNT_PATH or not path.isprintable():
        raise ValueError(f"a mount path has at most {_LONGEST_MOUNT_PATH} printable characters")
    return "/" + "/".join(parts)


def check_directory(path: str) -> str:
    """Return a relative directory without needless slashes. Raises ValueError."""
    parts = path.rstrip("/").split("/")
    if any(part in ("", ".", "..", ".datafetch") for part in parts) or not path.isprintable():
        raise ValueError(
            f"{path!r} is not a directory on the volume; write a relative path without '..', such as models"
        )
    return "/".join(parts)


def cpu_millis(text: str) -> int:
    """Return the thousandths of a core that a quantity names, rounded up. Raises ValueError."""
    match = _CPU.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount of CPU; write it like 500m or 2")
    value = Fraction(match[1]) * (1 if match[2] else 1000)
    return -(-value.numerator // value.denominator)


def _parse_uris(text: str) -> tuple[InlineUri, ...]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty; write a URI such as hf://ORG/NAME or s3://BUCKET/PREFIX/")
    return tuple(_parse_uri_line(words) for words in lines)


def _parse_uri_line(words: list[str]) -> InlineUri:
    if len(words) > 2:
        raise ValueError("a line is one URI, and perhaps the directory that it goes to: URI DIRECTORY")
    return InlineUri(words[0], check_directory(words[1]) if len(words) == 2 else None)


def _parse_names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ValueError("it is empty; name containers of the pod, separated by commas, or remove it for all")
    for name in names:
        if not _DNS_LABEL.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a container")
    return names


def _parse_wait(text: str) -> Wait:
    if text not in _WAITS:
        raise ValueError(f"{text!r} is not a way to wait; write init, gate or none{suggest(text, _WAITS)}")
    return cast("Wait", text)


def _parse_object_name(text: str) -> str:
    if not _DNS_SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a name of Kubernetes; write lower-case letters, digits, '-' and '.'")
    return text


def _parse_size(text: str) -> str:
    if parse_bytes(text) == 0:
        raise ValueError("it must be more than 0")
    return text


def _parse_cpu(text: str) -> str:
    if cpu_millis(text) == 0:
        raise ValueError("it must be more than 0")
    return text


def _parse_truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f'{text!r} is neither "true" nor "false"')
    return text == "true"


def _parse_after(text: str) -> str:
    if text != LAST and not _DNS_LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of an init container; write one, or {LAST} for the end")
    return text


def _parse_user(text: str) -> int:
    if not text.isdecimal() or int(text) > 2**31 - 1:
        raise ValueError(f'{text!r} is not a user id; write a number in quotes, such as "1337"')
    return int(text)
