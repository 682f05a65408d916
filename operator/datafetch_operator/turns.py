"""Whose turn it is to download, where downloads are limited: the memory that `budget` decides from. No I/O.

A download counts as under way from the moment that its start is decided, because the watcher shows our own Jobs late,
until its Job was seen to end or its start was refused. What nobody has said anything of since the operator started is
known from the watcher's index of Jobs (`note_active`). Without limits nothing is remembered.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from datafetch_operator.budget import Contender, Limits, admit, is_news
from datafetch_operator.observation import EPOCH, Key, Place

_TELL_AGAIN_SECONDS = 60
"""A fetch is told at most so often that it stands elsewhere in the queue."""


class Turns:
    """Knows which fetches download and which wait to, and wakes those whose turn it is."""

    def __init__(
        self, limits: Limits, wake: Callable[[Key], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._wake = wake
        self._clock = clock
        self._active: dict[Key, Contender] = {}
        self._waiting: dict[Key, Contender] = {}
        self._places: dict[Key, Place] = {}
        self._told: dict[Key, tuple[int, float]] = {}
        """The position that each one was told, and when."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self._limits != Limits()

    @property
    def active(self) -> int:
        """How many downloads are under way."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many fetches wait for their turn."""
        return len(self._waiting)

    def ask(self, contender: Contender) -> Place | None:
        """Return where the fetch stands in the queue; None: it may start, and is under way from now on.

        One that is under way may start another attempt, unless that brings data from elsewhere: then it waits for its
        turn like everybody else. One that waits keeps its place, whatever of its spec was changed.
        """
        if not self.limited:
            return None
        key, running = contender.key, self._active.get(contender.key)
        if running is not None and running.hosts == contender.hosts:
            return None
        known = self._waiting.get(key)
        this = contender if known is None else replace(contender, since=known.since)
        if this != known:
            self._active.pop(key, None)
            self._waiting[key] = this
            self._admit(asking=key)
        return self._places.get(key)

    def note_active(self, key: Key, hosts: tuple[str, ...]) -> None:
        """Note a download that is under way, whoever started it: also where that is one too many."""
        if not self.limited or (key in self._active and self._active[key].hosts == hosts):
            return
        self._active[key] = Contender(key, EPOCH, hosts, active=True)
        if self._waiting.pop(key, None) is not None:
            self._admit()

    def note_idle(self, key: Key) -> None:
        """Note that the fetch neither downloads nor wants to: whoever is next is woken."""
        ended, left = self._active.pop(key, None), self._waiting.pop(key, None)
        if ended is not None or left is not None:
            self._told.pop(key, None)
            self._admit()

    def _admit(self, asking: Key | None = None) -> None:
        """Let start who may; whoever is asking right now learns it by the answer."""
        admission = admit((*self._active.values(), *self._waiting.values()), self._limits)
        self._places = admission.queue
        for key in admission.start:
            self._active[key] = replace(self._waiting.pop(key), active=True)
            self._told.pop(key, None)
            if key != asking:
                self._wake(key)
        self._tell(asking)

    def _tell(self, asking: Key | None) -> None:
        now = self._clock()
        for key, place in self._places.items():
            told = self._told.get(key)
            if told is None or key == asking:
                self._told[key] = place.position, now
            elif is_news(place.position, told[0]) and now - told[1] >= _TELL_AGAIN_SECONDS:
                self._told[key] = place.position, now
                self._wake(key)
