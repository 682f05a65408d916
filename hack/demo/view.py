"""Watching a DataFetch: phase and progress as they change, on one line of a terminal, else one line a change."""

import sys
import time
from dataclasses import dataclass

from cluster.errors import ClusterError
from deploy.kubectl import Kubectl

_FIELDS = (
    ".metadata.generation",
    ".status.observedGeneration",
    ".status.phase",
    ".status.progress.display",
    ".status.size",
    ".status.progress.completedFiles",
    ".status.progress.totalFiles",
    ".status.progress.speed",
    ".status.lastFailure.message",
)
_PAUSE_SECONDS = 1.0
_LINE = "|".join(f"{{{field}}}" for field in _FIELDS) + r'{"\n"}'


@dataclass(frozen=True)
class State:
    """What the status says at one moment; empty where it says nothing."""

    generation: str
    observed_generation: str
    phase: str
    progress: str
    size: str
    completed_files: str
    total_files: str
    speed: str
    failure: str

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen by itself to this generation."""
        return self.phase in ("Ready", "Failed") and self.generation == self.observed_generation

    def __str__(self) -> str:
        files = f"{self.completed_files}/{self.total_files} files" if self.total_files else ""
        size = f"of {self.size}" if self.size else ""
        return " ".join(part for part in (f"{self.phase or 'New':<9}", self.progress, size, files, self.speed) if part)


def follow(kubectl: Kubectl, namespace: str, name: str, seconds: int) -> State:
    """Show the fetch until it is Ready. Raises ClusterError where it fails, or is not ready in time."""
    shown = _Line()
    deadline = time.monotonic() + seconds
    state = None
    try:
        # The API server ends a watch as it likes, for example when the CRD is applied again.
        while (state is None or not state.is_final) and time.monotonic() < deadline:
            state = _watch(kubectl, namespace, name, shown, deadline) or state
    finally:
        shown.end()
    if state is None or not state.is_final:
        raise ClusterError(f"DataFetch {namespace}/{name} is not ready after {seconds} s, but: {state}.")
    if state.phase == "Failed":
        raise ClusterError(f"DataFetch {namespace}/{name} failed: {state.failure}")
    return state


def _watch(kubectl: Kubectl, namespace: str, name: str, shown: "_Line", deadline: float) -> State | None:
    """Show the states of one watch; return the last of them when it is final or the watch has ended."""
    timeout = f"--request-timeout={max(1, int(deadline - time.monotonic()))}s"
    options = ("--namespace", namespace, "--watch", timeout, "-o", f"jsonpath={_LINE}")
    state = None
    with kubectl.open("get", "datafetch", name, *options) as watch:
        for line in watch.stdout or ():
            state = State(*line.rstrip("\n").split("|", len(_FIELDS) - 1))
            shown.show(str(state))
            if state.is_final:
                break
        watch.kill()
    if state is None:
        # It has ended before it began: no hurry to fail the same way again.
        time.sleep(_PAUSE_SECONDS)
    return state


class _Line:
    """A line that is printed again when it changes."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = ""
        self._again = sys.stdout.isatty()

    def show(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        stamped = f"    {time.monotonic() - self._started:5.1f} s  {text}"
        print(f"\r\033[K{stamped}" if self._again else stamped, end="" if self._again else "\n", flush=True)

    def end(self) -> None:
        if self._again:
            print(flush=True)
