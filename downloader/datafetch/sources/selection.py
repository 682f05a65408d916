"""Which objects of a bucket a config's selections take, and where each lands. Pure, over two functions of the provider.

One listing serves every selection: an object is listed once however many selections take it, and yielded once for each
path that it lands at.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from datafetch.errors import InvalidConfigError, SourceNotFoundError
from datafetch.globs import Globs, common_prefix, is_literal
from datafetch.sources import Entry
from datafetch_api.config import Selection

Find = Callable[[str], Entry | None]
"""Returns the object of exactly that key, its `path` left empty, or None."""
FindVersion = Callable[[Selection], Entry | None]
"""Returns the version, generation or snapshot that a selection names of its object, or None."""
Scan = Callable[[str], Iterable[Entry]]
"""Yields every object whose key begins with a prefix, their `path` left empty."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A selection that takes what lies below a prefix."""

    selection: Selection
    prefix: str
    globs: Globs
    scanned: str
    """What has to be listed: the prefix, longer where every glob begins alike."""


def select(
    selections: Sequence[Selection],
    where: str,
    find: Find,
    scan: Scan,
    key_prefix: str = "",
    find_version: FindVersion | None = None,
) -> Iterator[Entry]:
    """Yield the objects that the selections take, with the path where each belongs.

    `where` names the bucket in messages (`bucket 'data'`); `key_prefix` comes before each key, for a source of several
    buckets. Raises SourceNotFoundError where a selection takes nothing.
    """
    yielded: dict[tuple[str, str], str] = {}
    tasks = []
    for selection in selections:
        found = _find_object(selection, where, find, find_version)
        if found is None:
            tasks.append(_task(selection))
        elif _is_new(found, yielded):
            yield _placed(found, key_prefix, found.path)
    matched: set[int] = set()
    for prefix in _roots(task.scanned for task in tasks):
        served = [(number, task) for number, task in enumerate(tasks) if task.scanned.startswith(prefix)]
        for entry in scan(prefix):
            for path in _landings(entry, served, matched):
                if (entry.key, path) not in yielded:
                    yield _placed(entry, key_prefix, path)
    for number, task in enumerate(tasks):
        if number not in matched:
            raise _nothing_matched(task.selection, where)


def select_in_buckets(
    buckets: Iterable[tuple[str, Sequence[Selection]]],
    noun: str,
    find: Callable[[str, str], Entry | None],
    scan: Callable[[str, str], Iterable[Entry]],
    find_version: Callable[[str, Selection], Entry | None],
) -> Iterator[Entry]:
    """Yield what the selections of several buckets take, `BUCKET/KEY` as the key of each.

    `noun` is the provider's word for a bucket; `find` and `scan` are given the bucket's name first.
    """
    selections: dict[str, list[Selection]] = {}
    for bucket, items in buckets:
        selections.setdefault(bucket, []).extend(items)
    for bucket, items in selections.items():
        yield from select(
            items,
            f"{noun} {bucket!r}",
            partial(find, bucket),
            partial(scan, bucket),
            key_prefix=f"{bucket}/",
            find_version=partial(find_version, bucket),
        )


def landing(selection: Selection, key: str) -> str:
    """Return where one object lands: `target_path`, or below it under its own name where that is a directory."""
    target = selection.target_path.removeprefix("./")
    if target in ("", ".") or target.endswith("/"):
        return ("" if target == "." else target) + key.rpartition("/")[2]
    return target


def literal_names(selection: Selection) -> set[str]:
    """Return the names that a selection spells out among its patterns, relative to its prefix, and does not exclude."""
    kept = Globs((), selection.exclude)
    names = (pattern.removeprefix("./") for pattern in selection.patterns if is_literal(pattern))
    return {name for name in names if kept.takes(name)}


def below(selection: Selection, relative: str) -> str:
    """Return where an object lands by its key relative to the selection's prefix."""
    target = selection.target_path.removeprefix("./").rstrip("/")
    return f"{target}/{relative}" if target not in ("", ".") else relative


def is_directory_marker(key: str, size: int) -> bool:
    """Return whether an object only stands for a directory, as consoles and file system bridges make them."""
    return size == 0 and key.endswith("/")


def _placed(entry: Entry, key_prefix: str, path: str) -> Entry:
    # dataclasses.replace takes three times as long, and this is done for each of a million objects.
    return Entry(key_prefix + entry.key, path, entry.size, entry.identity, entry.checksum, entry.modified)


def _is_new(found: Entry, yielded: dict[tuple[str, str], str]) -> bool:
    """Note where an object lands, and return whether it is the first time. Raises for two versions in one place."""
    known = yielded.get((found.key, found.path))
    if known is not None and known != found.identity:
        raise InvalidConfigError(
            f"two versions of {found.key!r} would land at {found.path!r}; give each a target_path of its own",
            key=found.key,
        )
    yielded[found.key, found.path] = found.identity
    return known is None


def object_key(selection: Selection) -> str:
    """Return the key of the one object that a selection may name."""
    return selection.path.removeprefix("./")


def _find_object(selection: Selection, where: str, find: Find, find_version: FindVersion | None) -> Entry | None:
    match = selection.effective_match
    if match == "prefix" or selection.path == ".":
        return None
    key = object_key(selection)
    version = selection.version_id or selection.generation or selection.snapshot
    entry = find(key) if version is None or find_version is None else find_version(selection)
    if entry is not None:
        return replace(entry, path=landing(selection, key))
    if version is not None:
        raise SourceNotFoundError(
            f"{where} has no object {key!r} of version {str(version)!r}; check both, or leave the version out to take "
            "the newest",
            key=key,
        )
    if match == "object":
        raise SourceNotFoundError(
            f"{where} has no object {key!r}; check the path, or end it with '/' where it is a prefix", key=key
        )
    return None


def _task(selection: Selection) -> _Task:
    prefix = selection.prefix
    globs = Globs(selection.patterns, selection.exclude)
    return _Task(selection, prefix, globs, prefix + common_prefix(selection.patterns))


def _roots(prefixes: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes that lie below no other one: what they hold is listed once."""
    last = None
    for prefix in sorted(set(prefixes)):
        if last is None or not prefix.startswith(last):
            last = prefix
            yield prefix


def _landings(entry: Entry, tasks: Iterable[tuple[int, _Task]], matched: set[int]) -> Iterable[str]:
    if is_directory_marker(entry.key, entry.size or 0):
        return ()
    paths: dict[str, None] = {}
    for number, task in tasks:
        relative = entry.key.removeprefix(task.prefix)
        if entry.key.startswith(task.prefix) and relative and task.globs.takes(relative):
            matched.add(number)
            paths[below(task.selection, relative)] = None
    return paths


def present_state(entry: Entry, found: Entry | None) -> Entry:
    """Return an entry as its object was found now. Raises SourceNotFoundError where it is gone."""
    if found is None:
        raise SourceNotFoundError(f"{entry.key!r} was there when the source was listed, and is gone", key=entry.key)
    return replace(found, key=entry.key, path=entry.path)


def _nothing_matched(selection: Selection, where: str) -> SourceNotFoundError:
    place = f"below {selection.prefix!r}" if selection.prefix else "at all"
    if not (selection.patterns or selection.exclude):
        also = f" and no object {selection.path!r}" if selection.effective_match == "auto" else ""
        return SourceNotFoundError(f"{where} has nothing {place}{also}; check the path", key=selection.path)
    globs = ", ".join(map(repr, selection.patterns)) or "anything"
    without = f", {', '.join(map(repr, selection.exclude))} left out" if selection.exclude else ""
    return SourceNotFoundError(f"{where} has nothing {place} that matches {globs}{without}; check the globs")
