"""Waiting for the data of DataFetches: what lies where each will be published, and whether that is it.

Only looks: the volume may be mounted read-only. Every look opens its directories anew, one after the other from the
root: NFS caches that a name was missing, and asks the server again for a directory that is opened. What lies there is
anybody's, so nothing in it is followed out of the fetch's own directory, waited for, or raised.

A container of ours in somebody's pod does this, so it imports next to nothing, and no pydantic.
"""

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from datafetch.marker import ManifestHeader, linked_revision, manifest_path, parse_header
from datafetch_api.printable import single_line

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 2.0
"""Seconds between two looks: the pause grows, for what did not come soon will take a while."""
_GROWTH = 1.25
_HEADER_BYTES = 64 << 10
_MOST_NAMED = 3
"""Fetches that one message names."""
_LONGEST_NAME = 300
_IDENTITY = re.compile(r"([a-z0-9][-a-z0-9]*)/([a-z0-9][-.a-z0-9]*)(?:@([0-9A-Za-z-]+))?")
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Target:
    """Where data is waited for, and whose; without an owner anybody's will do."""

    directory: str
    """The link that is published."""
    namespace: str = ""
    name: str = ""
    uid: str = ""

    @property
    def owner(self) -> str:
        """Whose data it is, for messages."""
        return f"DataFetch {self.namespace}/{self.name}" if self.name else "a DataFetch"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look has found."""

    header: ManifestHeader | None = None
    """Of the published revision."""
    visible: float = 0.0
    """Since when it is published, at the latest; seconds since the epoch, by the clock of who published it."""
    obstacle: str = "nothing is there yet"
    """Where there is no revision: why."""
    remedy: str = ""
    """What to do about the obstacle, where that is not to wait."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A target that is still waited for, and what is there instead."""

    target: Target
    sighting: Sighting


NOTHING = Sighting()
_NAME_ANOTHER = "name the directory of the right DataFetch's target, or remove what is there"
_NOT_OURS = Sighting(obstacle="what is there was not published by a DataFetch", remedy=_NAME_ANOTHER)
_UNREADABLE_MANIFEST = Sighting(obstacle="what is there has a manifest that cannot be understood", remedy=_NAME_ANOTHER)


def parse_target(text: str) -> Target:
    """Return the target that `DIRECTORY[=NAMESPACE/NAME[@UID]]` names. Raises ValueError with a sentence."""
    directory, separator, identity = text.rpartition("=")
    if not separator:
        directory, identity = text, ""
    match = _IDENTITY.fullmatch(identity)
    if separator and match is None:
        raise ValueError(
            f"{text!r} does not say whose data it waits for; write DIRECTORY=NAMESPACE/NAME@UID, or DIRECTORY alone"
        )
    if os.path.basename(directory.rstrip("/")) in ("", ".", ".."):
        raise ValueError(f"{text!r} names no directory that a DataFetch publishes; write DIRECTORY=NAMESPACE/NAME@UID")
    namespace, name, uid = match.groups() if match else ("", "", "")
    return Target(directory.rstrip("/"), namespace, name, uid or "")


# --- deciding --------------------------------------------------------------------------------------------------------


def has_arrived(target: Target, sighting: Sighting, started: float) -> bool:
    """Say whether what was seen is what is waited for.

    That is a revision of the DataFetch with that uid. One with another uid is it where it became visible after
    `started` (seconds since the epoch): the resource was deleted and made again meanwhile, and fetched its data.
    """
    header = sighting.header
    if header is None:
        return False
    if not target.name:
        return True
    if (header.namespace, header.name) != (target.namespace, target.name):
        return False
    return not target.uid or header.uid == target.uid or sighting.visible >= started


def describe(missing: Missing) -> str:
    """Say what is there instead of what is waited for."""
    target, header = missing.target, missing.sighting.header
    if header is None:
        return missing.sighting.obstacle
    if (header.namespace, header.name) != (target.namespace, target.name):
        return f"the data of DataFetch {_shown(header.namespace)}/{_shown(header.name)} is there"
    return (
        f"the data of another DataFetch of that name is there (uid {_shown(header.uid)}, not {target.uid}), "
        "from before this container started"
    )


def announce(missing: Sequence[Missing]) -> str:
    """Say what is waited for, and what is there instead."""
    named = [
        f"{each.target.owner} to be published at {_shown(each.target.directory)} ({describe(each)})"
        for each in missing[:_MOST_NAMED]
    ]
    return "waiting for " + "; for ".join([*named, *_and_more(missing)])


def explain_timeout(missing: Sequence[Missing], timeout: str) -> str:
    """Say what did not come in time, what is there instead, and what to do."""
    named = [
        f"{each.target.owner} was not published at {_shown(each.target.directory)} within {timeout}: {describe(each)}"
        for each in missing[:_MOST_NAMED]
    ]
    return "; ".join([*named, *_and_more(missing), _remedy(missing[0])])


def _and_more(missing: Sequence[Missing]) -> tuple[str, ...]:
    more = len(missing) - _MOST_NAMED
    return (f"{more} more",) if more > 0 else ()


def _remedy(missing: Missing) -> str:
    target, header = missing.target, missing.sighting.header
    if header is not None and (header.namespace, header.name) != (target.namespace, target.name):
        return _NAME_ANOTHER
    if missing.sighting.remedy:
        return missing.sighting.remedy
    if target.name:
        return f"see how far it is with 'kubectl -n {target.namespace} describe datafetch {target.name}'"
    return "see how far it is with 'kubectl get datafetch'"


def _shown(text: object) -> str:
    """Return a name from a volume as messages show it: anybody may have written it."""
    return single_line(str(text))[:_LONGEST_NAME]


# --- looking ---------------------------------------------------------------------------------------------------------


def look(directory: str) -> Sighting:
    """Return what is published at a link. Whatever lies there, and however it changes meanwhile, it never raises."""
    above, name = os.path.split(directory)
    try:
        with _opened(above) as parent:
            return _look_at(parent, name)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return NOTHING
        remedy = "let this user read it (the pod's fsGroup or runAsUser)" if isinstance(error, PermissionError) else ""
        return Sighting(obstacle=_explain(error, above), remedy=remedy)


def _look_at(parent: int, name: str) -> Sighting:
    try:
        text = os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return NOTHING if _is_empty_directory(parent, name) else _NOT_OURS
    revision = linked_revision(name, text)
    if revision is None:
        return _NOT_OURS
    os.stat(name, dir_fd=parent)  # a link that leads nowhere is as good as none
    return _read_header(parent, manifest_path(name, revision))


def _read_header(parent: int, path: str) -> Sighting:
    descriptor = os.open(path, _OPEN_FILE, dir_fd=parent)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return _UNREADABLE_MANIFEST
        header = parse_header(file.readline(_HEADER_BYTES))
    if header is None:
        return _UNREADABLE_MANIFEST
    try:
        return Sighting(header, max(header.published.timestamp(), status.st_mtime))
    except (TypeError, ValueError, OverflowError):
        return _UNREADABLE_MANIFEST


def _is_empty_directory(parent: int, name: str) -> bool:
    try:
        descriptor = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        return False
    try:
        with os.scandir(descriptor) as entries:
            return next(entries, None) is None
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a directory, and each above it on the way, so that a network file system asks its server for each."""
    descriptor = os.open("/" if path.startswith("/") else ".", _OPEN_DIRECTORY)
    try:
        for segment in filter(None, path.split("/")):
            above, descriptor = descriptor, _step(descriptor, segment)
            os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def _step(parent: int, name: str) -> int:
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except PermissionError:
        # Not to be listed; perhaps to be passed through, which is all that is needed.
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)


def _explain(error: OSError, above: str) -> str:
    what = f"it cannot be read: {error.strerror or error}"
    if not isinstance(error, PermissionError):
        return what
    what += f" for user {os.geteuid()}, group {os.getegid()}"
    try:
        status = os.stat(above or ".")
    except OSError:
        return what
    mode = stat.filemode(status.st_mode)
    return f"{what}; {_shown(above or '.')} belongs to {status.st_uid}:{status.st_gid} and has mode {mode}"


# --- waiting ---------------------------------------------------------------------------------------------------------


def pauses() -> Iterator[float]:
    """Yield the seconds between one look and the next."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(LONGEST_PAUSE, pause * _GROWTH)


def wait_for(
    targets: Sequence[Target],
    cancel: threading.Event,
    tell: Callable[[Sequence[Missing]], None],
    *,
    started: float,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Missing]:
    """Look until everything has arrived; return nothing then, or what is missing when told to stop or out of time.

    `tell` hears of what is missing after every look that leaves something. `started` is for `has_arrived`.
    """
    deadline = None if timeout is None else clock() + timeout
    for pause in pauses():
        seen = [Missing(target, look(target.directory)) for target in targets]
        missing = [each for each in seen if not has_arrived(each.target, each.sighting, started)]
        if not missing:
            break
        tell(missing)
        left = pause if deadline is None else min(pause, deadline - clock())
        if left <= 0 or cancel.wait(left):
            break
        targets = [each.target for each in missing]
    return missing
