"""The git command as a child process: started, watched, ended, and what it complains about in our words.

Leaves to `git_access` with which settings it runs, and to `git_repository` what it is asked.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO

from datafetch.credentials import Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InsufficientSpaceError,
    InternalError,
    InterruptedByRequestError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
    StalledError,
)
from datafetch_api.uris import redact_uri

_KEPT_BYTES = 1 << 16
"""Of what git says on stderr."""
_TICK_SECONDS = 0.5
_TELLING = re.compile(r"fatal:|error:|remote: (?!Enumerat|Count|Compress|Total)", re.IGNORECASE)


class UnadvertisedError(SourceUnavailableError):
    """The server gives only what a branch or tag points to."""


class Runner:
    """The git processes of one source. Thread-safe; `close` ends them."""

    def __init__(self, secrets: Secrets, stall_timeout: float) -> None:
        self._secrets = secrets
        self._stall_timeout = stall_timeout
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        if shutil.which("git") is None:
            raise InvalidConfigError(
                "git is not installed here: install git (and openssh-client for ssh), or use the container image"
            )

    def start(
        self, arguments: Iterable[str], environment: dict[str, str], stdin: int | IO[bytes], stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start `git` in a group of its own, its answer as a pipe."""
        return self.start_program(("git", *arguments), environment, stdin, stderr)

    def start_program(
        self, command: Iterable[str], environment: dict[str, str], stdin: int | IO[bytes], stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a program as `start` starts git."""
        with self._lock:
            if self._closed:
                raise InterruptedByRequestError("stopped; what was fetched is kept")
            try:
                process = subprocess.Popen(  # noqa: S603 - git or ssh, with arguments of ours
                    list(command), env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
                    start_new_session=True, cwd=environment["HOME"],
                )  # fmt: skip
            except FileNotFoundError as error:
                raise InvalidConfigError(f"{error.filename} is not installed here; install it") from None
            self._running.add(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process with what it started, and forget it."""
        with self._lock:
            self._running.discard(process)
        _end(process)

    def ask(
        self,
        arguments: Iterable[str],
        environment: dict[str, str],
        place: str,
        lines: Iterable[str] = (),
        program: str | None = None,
    ) -> bytes:
        """Run a command that may use the network, and return its (short) answer; `lines` are its input.

        `place` is for messages. Raises what its complaint means.
        """
        command = list(arguments) if program else ["git", *arguments]
        with tempfile.TemporaryFile(dir=environment["TMPDIR"]) as stdin:
            stdin.writelines(line.encode() + b"\n" for line in lines)
            stdin.seek(0)
            process = self.start_program(command, environment, stdin, subprocess.PIPE)
            try:
                answer, complaint = self._watch(process, place)
            finally:
                self.end(process)
        if process.returncode:
            raise self.explain(complaint.decode("utf-8", "replace"), place)
        return answer

    def stream(self, arguments: Iterable[str], environment: dict[str, str], stdin: int | IO[bytes]) -> Iterator[bytes]:
        """Run a command that stays on this machine, and yield its answer as it comes."""
        with tempfile.TemporaryFile(dir=environment["TMPDIR"]) as stderr:
            process = self.start(arguments, environment, stdin, stderr)
            try:
                answer = pipe_of(process.stdout)
                while chunk := os.read(answer.fileno(), 1 << 16):
                    yield chunk
                if process.wait():
                    stderr.seek(0)
                    raise self.explain(stderr.read(_KEPT_BYTES).decode("utf-8", "replace"), "the repository")
            finally:
                self.end(process)

    def close(self) -> None:
        """End every process."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def _watch(self, process: subprocess.Popen[bytes], place: str) -> tuple[bytes, bytes]:
        """Read both pipes to their end; end the process where it has said nothing for too long."""
        texts = {pipe_of(stream).fileno(): bytearray() for stream in (process.stdout, process.stderr)}
        answer, complaint = texts.values()
        open_pipes, heard = set(texts), time.monotonic()
        while open_pipes:
            for pipe in select.select(list(open_pipes), [], [], _TICK_SECONDS)[0]:
                data = os.read(pipe, 1 << 16)
                heard = time.monotonic()
                texts[pipe] += data
                if not data:
                    open_pipes.discard(pipe)
            del complaint[:-_KEPT_BYTES]
            # curl gives up a silent connection itself, after one timeout.
            if time.monotonic() - heard > 2 * self._stall_timeout + 1:
                raise StalledError(f"{place}: git has said nothing for {2 * self._stall_timeout:g} s")
            if self._closed:
                raise InterruptedByRequestError("stopped; what was fetched is kept")
        process.wait()
        return bytes(answer), bytes(complaint)

    def explain(self, complaint: str, place: str) -> DataFetchError:
        """Return what a complaint of git's or ssh's means."""
        if self._closed:
            return InterruptedByRequestError("stopped; what was fetched is kept")
        said = self._said(complaint)
        for pattern, kind, remedy in _MEANINGS:
            if re.search(pattern, complaint, re.IGNORECASE):
                return kind(f"{place}: {said}{remedy}")
        return SourceUnavailableError(f"{place}: {said}")

    def _said(self, complaint: str) -> str:
        lines = [line.strip() for line in re.split(r"[\r\n]+", complaint) if line.strip()]
        telling = [line for line in lines if _TELLING.match(line)]
        chosen = " | ".join(dict.fromkeys(telling[-4:] or lines[-2:]))
        shown = re.sub(r"https?://[^\s'\"]+", lambda url: redact_uri(url[0]), chosen)
        return self._secrets.redact(shown)[:600].rstrip(".") or "git failed and did not say why"


_KEY = "; check the key, that it has no passphrase, and that its owner may read the repository"
_LOGIN = "; check token, user and password, and what they may read"
_NO_REPOSITORY = (
    r"returned error: 404|repository.*not found|does not appear to be a git repo|could not be found|no such project"
    r"|not exported"
)
_MEANINGS: tuple[tuple[str, type[DataFetchError], str], ...] = (
    (r"no space left on device|disk quota exceeded", InsufficientSpaceError,
     "; the objects of git are kept in TMPDIR while it is fetched from: give that more space"),
    (r"host key verification failed|host identification has changed", CredentialsRejectedError,
     "; the server's host key is not the one in known_hosts: find out why before you put it there"),
    (r"certificate verif|ssl certificate problem|server certificate", InvalidConfigError,
     "; name its CA in ca_bundle_file (caBundle), SSL_CERT_FILE, or as ca.crt among the credentials"),
    (r"no user exists for uid", InvalidConfigError,
     "; ssh wants a user with a name: run as 65532, or fetch by https"),
    (r"invalid format|error in libcrypto|permission denied \(|too many authentication", CredentialsRejectedError, _KEY),
    (r"authentication failed|could not read (username|password)|returned error: 40[13]|access denied|http basic: ",
     CredentialsRejectedError, _LOGIN),
    (r"unadvertised object|allow.*sha1.*in-want|not allow request", UnadvertisedError, ""),
    (r"not our ref|couldn't find remote ref|no such remote ref|remote ref.*not found", SourceNotFoundError,
     "; the server has no such commit: check the revision"),
    (_NO_REPOSITORY, SourceNotFoundError,
     "; check the url, and give credentials where it is private: who may not see it is told that it is not there"),
    (r"dumb http transport", InvalidConfigError, "; that server cannot do shallow fetches"),
    (r"transport '.*' not allowed|not valid: is this a git repo|valid git repo", InvalidConfigError, ""),
    (r"operation too slow", StalledError, ""),
)  # fmt: skip


def pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a child's stream that was asked for as a pipe."""
    if stream is None:
        raise InternalError("a child process was started without a pipe")
    return stream


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


__all__ = ["Runner", "UnadvertisedError", "pipe_of"]
