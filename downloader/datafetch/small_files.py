"""Small files by the lane: each in one request, many at a time, written and verified as they arrive.

Only the plain case is dealt with here. An answer that is anything else than the whole object in one piece makes the
file one of `transfer`'s, which knows redirects, renewed credentials, changed objects and the rest.
"""

import heapq
import os
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import count

from datafetch.checksums import Hasher, new_hasher
from datafetch.errors import DataFetchError, IntegrityMismatchError, SourceUnavailableError
from datafetch.records import ManifestFile, PlannedFile
from datafetch.sink.directory import close_quietly, refusal, write_all
from datafetch.sink.writer import verify
from datafetch.sources import ByteRange, Checksum, Entry, HttpAccess
from datafetch.transfer import FILE_WORK, FetchContext, Meter, Transfers
from datafetch.transport import Pin
from datafetch.transport.connection import Head
from datafetch.transport.lane import Exchange
from datafetch.transport.pool import Destination

SMALL_BYTES = 1 << 20
"""Files of at most this size are small: their bytes cost less than their requests."""
_MOST_TRIES = 3
"""Tries of one file before it is left to `transfer`; a throttled one goes on waiting here."""
_AT_HAND = 32
_UNUSUAL = 32
"""Files of a source that had to be passed on before no more of them are tried here."""


class SmallFiles:
    """What the lane does for one fetch. `active` says how many exchanges are under way."""

    def __init__(self, context: FetchContext, transfers: Transfers, meter: Meter, active: Callable[[], int]) -> None:
        self._context = context
        self._transfers = transfers
        self._meter = meter
        self._active = active
        self._later: list[tuple[float, int, _SmallFile]] = []
        self._order = count()
        self._at_hand: deque[PlannedFile] = deque()
        self._unusual: Counter[int] = Counter()
        self._whole: list[tuple[PlannedFile, ManifestFile]] = []
        self._received: Counter[str] = Counter()
        """Bytes of each source since the last round."""
        self._pause = 0.0
        self._asked = 0
        """Bytes of the files that were asked for and have not ended."""
        self.seconds = 0.0
        """Processor time of the lane's thread."""

    @property
    def level(self) -> int:
        """Exchanges that may be under way now: one that waits to be asked again keeps its place."""
        waiting = self.waiting
        more = bool(self._at_hand or self._later)
        return self._context.scheduler.small_places(self._active() + waiting, more=more) - waiting

    @property
    def waiting(self) -> int:
        """Exchanges that wait to be asked again, and keep their place; one whose time has come is as good as new."""
        now = time.monotonic()
        return sum(due > now for due, _, _ in self._later) if self._later else 0

    @property
    def is_over(self) -> bool:
        """Whether no small file is left, or nothing more is to be done."""
        return self._context.stop.is_set() or self._context.scheduler.is_over

    def next(self) -> Exchange | None:
        """Return the next file's exchange, None where there is none at present."""
        most_asked = self._context.limiter.ahead_bytes
        if most_asked is not None and self._asked >= most_asked:
            return None  # what has been asked for is sent, whether it is read or not
        if self._later and self._later[0][0] <= time.monotonic():
            again = heapq.heappop(self._later)[2]
            return self._prepare(again.file, again.tries)
        while self._at_hand or self._fill():
            exchange = self._prepare(self._at_hand.popleft(), 0)
            if exchange is not None:
                return exchange
        return None

    def _fill(self) -> bool:
        self._at_hand.extend(self._context.scheduler.next_small(_AT_HAND))
        return bool(self._at_hand)

    def _prepare(self, file: PlannedFile, tries: int) -> "_SmallFile | None":
        source = self._context.sources[file.source_index]
        access = source.http
        if not file.size or access is None or self._unusual[file.source_index] > _UNUSUAL:
            self._context.scheduler.put_back(file)
            return None
        entry = file.entry
        try:
            request, pin = access.prepare(entry, ByteRange(0, file.size))
            destination, head = access.transport.address(request)
        except SourceUnavailableError:
            self._context.scheduler.put_back(file)
            return None
        except DataFetchError as error:
            raise error.at(file.source, file.key) from None
        # A URL that another server has named is looked at closely where it is connected to.
        if destination.proxy is not None or request.sender is not None:
            self._context.scheduler.put_back(file)
            return None
        self._asked += file.size
        return _SmallFile(self, file, entry, access, request.url, pin, destination, head, tries)

    def settle(self) -> float:
        """Hand over what a round has brought."""
        self.seconds = time.thread_time()
        if self._received:
            received, self._received = self._received, Counter()
            self._context.stalls.received(received.total())
            self._meter.count(received.total())
            for source, size in received.items():
                self._context.observer.received(size, source)
        if self._whole:
            whole, self._whole = self._whole, []
            self._context.sink.add_whole(whole)
            self._meter.count(len(whole) * FILE_WORK, len(whole))
            self._context.stalls.progress()
            self._context.observer.completed_files(len(whole))
            self._context.scheduler.finish_files(len(whole))
        pause, self._pause = self._pause, 0.0
        return pause

    # --- what becomes of an exchange ---

    def answered(self, size: int) -> None:
        """Take in that nothing more comes of so many bytes that were asked for."""
        self._asked -= size

    def create(self, file: PlannedFile) -> int:
        """Return the descriptor of the file in the staged tree."""
        return self._context.sink.tree.create(file.path)

    @property
    def flushes_files_alone(self) -> bool:
        """Whether each file has to be flushed before it is closed."""
        return self._context.sink.flushes_files_alone

    def full_path(self, file: PlannedFile) -> str:
        """Return where the file is staged, for messages."""
        return self._context.sink.tree.full(file.path)

    def take_in(self, size: int, source: str) -> None:
        """Count bytes that arrived."""
        self._received[source] += size
        self._pause = max(self._pause, self._context.limiter.delay(size))

    def add(self, file: PlannedFile, verified: Checksum | None) -> None:
        """Take in a file that is whole and closed."""
        self._whole.append(self._context.sink.look_at(file, verified))

    def give_up(self, file: PlannedFile, received: int, error: IntegrityMismatchError) -> None:
        """Throw away a file that is not what was promised."""
        self._context.sink.tree.remove(file.path)
        self._transfers.fetch_again(file, received, error)

    def pass_on(self, file: PlannedFile) -> None:
        """Leave a file to `transfer`."""
        self._unusual[file.source_index] += 1
        self._context.scheduler.put_back(file)

    def try_again(self, exchange: "_SmallFile", received: int, error: DataFetchError) -> None:
        """Ask for a file again later; one that is not to be had like this is left to `transfer`."""
        self._received[exchange.file.source] -= received
        exchange.tries += 1
        file = exchange.file
        # Where somebody has said how many tries there are, all of them are counted here.
        is_too_much = exchange.tries > _MOST_TRIES and self._context.retries.most is None
        if not isinstance(error, SourceUnavailableError) or (is_too_much and not error.throttled):
            self._context.scheduler.put_back(file)
            return
        wait = self._context.retry_delay(error, exchange.tries, self._meter)
        if wait is None:
            raise error.at(file.source, file.key)
        heapq.heappush(self._later, (time.monotonic() + wait, next(self._order), exchange))


class _SmallFile:
    """The exchange of one small file."""

    __slots__ = (
        "_access", "_asked", "_descriptor", "_entry", "_hasher", "_pin", "_promised", "_received", "_url", "_work",
        "destination", "file", "head", "tries",
    )  # fmt: skip

    def __init__(
        self,
        work: SmallFiles,
        file: PlannedFile,
        entry: Entry,
        access: HttpAccess,
        url: str,
        pin: Pin,
        destination: Destination,
        head: bytes,
        tries: int,
    ) -> None:
        self._work = work
        self.file = file
        self._entry = entry
        self._access = access
        self._url = url
        self._pin = pin
        self.destination = destination
        self.head = head
        self.tries = tries
        self._descriptor = -1
        self._asked = file.size or 0
        self._received = 0
        self._promised: Checksum | None = None
        self._hasher: Hasher | None = None

    def tls_context(self) -> ssl.SSLContext:
        """Return the source's TLS settings."""
        return self._access.transport.tls_context()

    def begin(self, head: Head) -> int | None:
        """Say how many bytes follow, where the answer is the plain one."""
        if not self._access.transport.brings_whole(head, self._pin):
            return None
        self._promised = self._access.promised_checksum(self._entry, head.headers)
        if self._promised is not None:
            self._hasher = new_hasher(self._promised.algorithm, self.file.size)
        return self._pin.size

    def receive(self, data: memoryview) -> None:
        """Write what arrived."""
        if self._descriptor < 0:
            self._descriptor = self._work.create(self.file)
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                write_all(self._descriptor, data[written:])
        except OSError as error:
            raise refusal(error, self._work.full_path(self.file)) from error
        if self._hasher is not None:
            self._hasher.update(data)
        self._received += len(data)
        self._work.take_in(len(data), self.file.source)

    def end(self) -> None:
        """Verify the file."""
        self._answer()
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if self._work.flushes_files_alone:
                os.fsync(descriptor)
            os.close(descriptor)
        except OSError as error:
            # A network file system may say only now that the data did not arrive.
            raise refusal(error, self._work.full_path(self.file)) from error
        actual = None if self._hasher is None else self._hasher.hexdigest()
        try:
            verify(self.file, self._pin.size or 0, self._received, self._promised, actual)
        except IntegrityMismatchError as error:
            self._work.give_up(self.file, self._received, error)
            return
        self._work.add(self.file, None if actual is None else self._promised)

    def refuse(self, head: Head, body: bytes) -> None:
        """Ask again, where the refusal is one of the moment."""
        self._answer()
        self._work.try_again(self, 0, self._access.transport.refusal(head, body, self._url))

    def pass_on(self) -> None:
        """Leave an answer that is not the plain one to who knows it."""
        self._answer()
        self._work.pass_on(self.file)

    def fail(self, error: Exception) -> None:
        """Ask again over another connection."""
        self.abandon()
        self._work.try_again(self, self._received, self._access.transport.failure(error, self._url))

    def abandon(self) -> None:
        """Close the file."""
        self._answer()
        if self._descriptor >= 0:
            close_quietly(self._descriptor)
            self._descriptor = -1

    def _answer(self) -> None:
        asked, self._asked = self._asked, 0
        self._work.answered(asked)
