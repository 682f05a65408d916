"""What is expected against what is found, name by name, without holding either in memory.

Both sides may be millions of objects in any order. They meet in a private temporary database, which SQLite keeps in
memory while it is small. Touches nothing else.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self


class Identified(NamedTuple):
    """An object by its name, and what says which one it is."""

    name: str
    identity: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A name that is not the same on both sides."""

    kind: Literal["changed", "gone", "new"]
    """Another object of that name was found, none was, or nobody expected one."""
    name: str


class Comparison:
    """Two sets of objects. Used by one thread."""

    def __init__(self) -> None:
        # An empty name is a database of this connection alone; it spills to a file that is already unlinked.
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE expected (name TEXT PRIMARY KEY, identity TEXT, size INT) WITHOUT ROWID")
        self._database.execute("CREATE TABLE found (name TEXT PRIMARY KEY, identity TEXT, size INT) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def expect(self, objects: Iterable[Identified]) -> None:
        """Add to what is expected."""
        self._database.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", objects)

    def find(self, objects: Iterable[Identified]) -> None:
        """Add to what is found."""
        self._database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", objects)

    def differences(self, *, new: bool = True) -> Iterator[Difference]:
        """Yield what differs, by name; what nobody expected is left out unless `new`.

        An object without identity differs always: nothing says that it is the same.
        """
        yield from self._differing(
            "SELECT CASE WHEN found.name IS NULL THEN 'gone' ELSE 'changed' END, expected.name "
            "FROM expected LEFT JOIN found USING (name) "
            "WHERE found.name IS NULL OR found.identity <> expected.identity OR expected.identity = '' "
            "OR (found.size <> expected.size) ORDER BY expected.name"
        )
        if new:
            yield from self._differing(
                "SELECT 'new', found.name FROM found LEFT JOIN expected USING (name) "
                "WHERE expected.name IS NULL ORDER BY found.name"
            )

    def _differing(self, query: str) -> Iterator[Difference]:
        for kind, name in self._database.execute(query):
            yield Difference(kind, name)
