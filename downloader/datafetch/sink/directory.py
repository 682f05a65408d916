"""File operations below one directory that never leave it: relative to descriptors, never following a link.

The names come from object keys. They were checked by the plan; this module makes sure that what lies on the volume (a
planted symbolic link, say) cannot lead them elsewhere either. OSErrors leave as errors of our tree.
"""

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from datafetch.errors import (
    DataFetchError,
    InsufficientSpaceError,
    InternalError,
    TargetNotWritableError,
    TargetOccupiedError,
)
from datafetch_api.quantities import format_bytes

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
_CACHED_DESCRIPTORS = 256
_SMALL_BYTES = 64 << 10
_FUSE = 0x65735546
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = frozenset({"", ".", ".."})
"""Segments that lead nowhere or elsewhere: the plan refuses them in keys, and nothing that lies on a volume may bring
them in either."""
_CHMOD_REFUSED = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_LINK_REFUSED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS}
_libc = ctypes.CDLL(None, use_errno=True)


class Directory:
    """An open directory. Paths given to its methods are relative, and checked by the plan."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._cache: dict[str, int] = {"": descriptor}
        """Descriptors of directories below, by their paths."""
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str) -> "Directory":
        """Open an existing directory; a link in the path's last segment is followed, it is the user's own."""
        with refusals(path):
            return cls(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def child(self, path: str) -> "Directory":
        """Open a directory below this one, made where it is missing."""
        with refusals(self.full(path)):
            return Directory(self.full(path), self._walk(self.descriptor, path.split("/"), create=True))

    def close(self) -> None:
        """Close every descriptor."""
        with self._lock:
            descriptors = list(self._cache.values())
            self._cache.clear()
        for descriptor in descriptors:
            close_quietly(descriptor)

    def create(self, path: str) -> int:
        """Create a new file for reading and writing and return its descriptor; an old one of that name goes."""
        known, name = self._known(path)
        if known is not None:
            # What nearly always happens, without the layers below: this is done for each of millions of files.
            try:
                return os.open(name, _NEW_FILE, FILE_MODE, dir_fd=known)
            except OSError:
                pass  # done again below, where it is explained
        with refusals(self.full(path)), self.parent(path, create=True) as (parent, name):
            try:
                return os.open(name, _NEW_FILE, FILE_MODE, dir_fd=parent)
            except FileExistsError:
                os.unlink(name, dir_fd=parent)
                return os.open(name, _NEW_FILE, FILE_MODE, dir_fd=parent)

    def share(self, descriptor: int) -> None:
        """Let those write a file of ours who may write this directory: who works here after us may be another user."""
        with refusals(self.path):
            _share(descriptor, os.fstat(self.descriptor))

    def open_file(self, path: str, *, writable: bool = True) -> int:
        """Open an existing file for reading, and for writing where asked, and return its descriptor."""
        # Opened without waiting: what lies there may be a pipe.
        mode = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with refusals(self.full(path)), self.parent(path) as (parent, name):
            descriptor = os.open(name, mode, dir_fd=parent)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise _occupied(self.full(path))

    def open_unshared(self, path: str) -> int | None:
        """Open a file for reading and writing; None where it has another name too, which may lie outside."""
        descriptor = self.open_file(path)
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
        os.close(descriptor)
        return None

    def stat(self, path: str) -> os.stat_result | None:
        """Return what lies at the path, links not followed, or None where nothing does."""
        known, name = self._known(path)
        if known is not None:
            try:
                return os.stat(name, dir_fd=known, follow_symlinks=False)
            except OSError:
                pass  # done again below, where it is explained
        with refusals(self.full(path)):
            try:
                with self.parent(path) as (parent, name):
                    return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def link(self, path: str, target: "Directory", target_path: str) -> bool:
        """Give a file a second name in the target directory; False where the file system refuses that."""
        with (
            refusals(target.full(target_path)),
            self.parent(path) as (parent, name),
            target.parent(target_path, create=True) as (other, other_name),
        ):
            try:
                os.link(name, other_name, src_dir_fd=parent, dst_dir_fd=other, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _LINK_REFUSED:
                    raise
                return False
        return True

    def copy(self, path: str, target: "Directory", target_path: str) -> None:
        """Copy a file, with its modification time and executable bit, into the target directory."""
        with refusals(target.full(target_path)):
            source = self.open_file(path, writable=False)
            try:
                copy = target.create(target_path)
                try:
                    while os.sendfile(copy, source, None, 1 << 30):
                        continue
                    status = os.fstat(source)
                    if status.st_mode & stat.S_IXUSR:
                        make_executable(copy)
                    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
                finally:
                    os.close(copy)
            finally:
                os.close(source)

    def rename(self, path: str, target: "Directory", target_path: str) -> None:
        """Move a file or directory into the target directory; a file or link in its place is replaced."""
        known, name = self._known(path)
        other_known, other_name = target._known(target_path)  # noqa: SLF001 - of the same class
        if known is not None and other_known is not None:
            try:
                os.rename(name, other_name, src_dir_fd=known, dst_dir_fd=other_known)
            except OSError:
                pass  # done again below, where it is explained
            else:
                return
        with (
            refusals(target.full(target_path)),
            self.parent(path) as (parent, name),
            target.parent(target_path, create=True) as (other, other_name),
        ):
            os.rename(name, other_name, src_dir_fd=parent, dst_dir_fd=other)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with refusals(self.full(path)):
            try:
                with self.parent(path) as (parent, name):
                    os.unlink(name, dir_fd=parent)
            except (FileNotFoundError, NotADirectoryError):
                return

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it, if it is there; links are removed, not followed."""
        self._forget(path)
        with refusals(self.full(path)):
            try:
                with self.parent(path) as (parent, name):
                    _remove_tree(parent, name)
            except FileNotFoundError:
                return

    def remove_empty_parents(self, path: str) -> None:
        """Remove the directories above a removed file, as far as they are empty."""
        while "/" in path:
            path = path.rpartition("/")[0]
            self._forget(path)
            try:
                with self.parent(path) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
            except OSError:
                return  # not empty, or not ours to remove: it stays

    def names(self, path: str = ".") -> list[str]:
        """Return the sorted names in a directory below this one; empty where there is none."""
        with refusals(self.full(path)):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor)
            except FileNotFoundError:
                return []
            try:
                return sorted(os.listdir(descriptor))
            finally:
                os.close(descriptor)

    def make(self, path: str) -> bool:
        """Make a directory and say whether it was missing: of many that try at once, one is told so."""
        with refusals(self.full(path)), self.parent(path, create=True) as (parent, name):
            try:
                os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
            except FileExistsError:
                return False
            _share_directory(name, parent)
            return True

    def read_link(self, path: str) -> str | None:
        """Return what the symbolic link at the path says, or None where there is no link."""
        with refusals(self.full(path)):
            try:
                with self.parent(path) as (parent, name):
                    return os.readlink(name, dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    return None
                raise

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link."""
        with refusals(self.full(path)), self.parent(path) as (parent, name):
            os.symlink(target, name, dir_fd=parent)

    def write_atomically(self, path: str, chunks: Iterator[bytes]) -> None:
        """Write a whole file, flush it, only then give it its name, and flush that."""
        with self._replacing(path) as descriptor:
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        with refusals(self.full(path)), self.parent(path) as (parent, _):
            os.fsync(parent)

    def touch(self, path: str) -> None:
        """Set a file's modification time to now."""
        with refusals(self.full(path)), self.parent(path) as (parent, name):
            os.utime(name, dir_fd=parent, follow_symlinks=False)

    def replace(self, path: str, content: bytes) -> None:
        """Write a file and give it its name, without waiting for the disk: for what is of no use after a crash."""
        with self._replacing(path) as descriptor:
            write_all(descriptor, content)

    @contextmanager
    def _replacing(self, path: str) -> Iterator[int]:
        """Yield the descriptor of a new file that gets the name at the end; where that fails, nothing is left."""
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        descriptor = self.create(temporary)
        try:
            with refusals(self.full(path)):
                try:
                    self.share(descriptor)
                    yield descriptor
                finally:
                    os.close(descriptor)
            self.rename(temporary, self, path)
        except BaseException:
            self.remove(temporary)
            raise

    def read(self, path: str) -> bytes | None:
        """Return a small file's content, the first 64 KiB of it, or None where there is no such file."""
        try:
            descriptor = self.open_file(path, writable=False)
        except FileNotFoundError:
            return None
        with refusals(self.full(path)), os.fdopen(descriptor, "rb") as file:
            return file.read(_SMALL_BYTES)

    @contextmanager
    def lines(self, path: str) -> Iterator[Iterator[bytes]]:
        """Open a file and yield its lines, read as they are asked for; none where there is no such file."""
        try:
            descriptor = self.open_file(path, writable=False)
        except FileNotFoundError:
            yield iter(())
            return
        with os.fdopen(descriptor, "rb", buffering=256 << 10) as file:
            yield file

    def flush(self) -> None:
        """Bring everything that was written below this directory to the disk.

        One syncfs(2) for the whole file system: for many files far cheaper than an fsync each.
        """
        with refusals(self.path):
            while _libc.syncfs(self.descriptor) != 0:
                number = ctypes.get_errno()
                # What Python repeats by itself for its own calls (PEP 475).
                if number != errno.EINTR:
                    raise OSError(number, os.strerror(number))

    def flushes_files_alone(self) -> bool:
        """Say whether only an fsync(2) of each file brings it to the disk: FUSE does not pass syncfs(2) on.

        https://docs.kernel.org/filesystems/fuse.html; statfs(2) has the number.
        """
        answer = (ctypes.c_long * 32)()
        return _libc.fstatfs(self.descriptor, answer) == 0 and answer[0] == _FUSE

    def free_bytes(self) -> int:
        """Return the bytes that we may still write, as the file system sees it."""
        status = os.fstatvfs(self.descriptor)
        return status.f_bavail * status.f_frsize

    def folds_names(self) -> bool:
        """Say whether the file system takes names that differ in case for the same."""
        name = f"case-{os.urandom(6).hex()}"
        with refusals(self.full(name)):
            os.close(self.create(name))
        try:
            return self.stat(name.upper()) is not None
        finally:
            self.remove(name)

    def path_of(self, path: str) -> str:
        """Return a path that leads to a directory below this one however its names change, for who cannot do better."""
        return f"/proc/self/fd/{self.descriptor}/{path}"

    def full(self, path: str) -> str:
        """Return a path below this directory as messages show it."""
        return os.path.join(self.path, path)

    def _known(self, path: str) -> tuple[int | None, str]:
        """Return the descriptor of the directory that the path lies in, if it is open, and the last segment."""
        head, _, name = path.rpartition("/")
        return (None if name in _NO_NAMES else self._cache.get(head)), name

    @contextmanager
    def parent(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory that the path lies in, and yield its descriptor and the last segment."""
        head, _, name = path.rpartition("/")
        if name in _NO_NAMES:
            raise _occupied(self.full(path))
        if not head:
            yield self.descriptor, name
            return
        with self._lock:
            cached = self._cache.get(head)
        if cached is not None:
            yield cached, name
            return
        descriptor = self._walk(self.descriptor, head.split("/"), create=create)
        if self._remember(head, descriptor):
            yield descriptor, name
            return
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _remember(self, path: str, descriptor: int) -> bool:
        with self._lock:
            if path in self._cache or len(self._cache) >= _CACHED_DESCRIPTORS:
                return False
            self._cache[path] = descriptor
            return True

    def _forget(self, path: str) -> None:
        with self._lock:
            gone = [head for head in self._cache if head == path or head.startswith(path + "/")]
            for head in gone:
                os.close(self._cache.pop(head))

    @staticmethod
    def _walk(descriptor: int, segments: list[str], *, create: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        if not _NO_NAMES.isdisjoint(segments):
            raise _occupied("/".join(segments))
        current = os.dup(descriptor)
        for segment in segments:
            try:
                try:
                    following = os.open(segment, flags, dir_fd=current)
                except FileNotFoundError:
                    if not create:
                        raise
                    _make_directory(segment, current)
                    following = os.open(segment, flags, dir_fd=current)
            finally:
                os.close(current)
            current = following
        return current


def _make_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
    except FileExistsError:
        return  # another thread was faster
    _share_directory(name, parent)


def make_directories(path: str) -> None:
    """Make a directory and those above it, where they are missing, for who may write the one that is there."""
    if os.path.isdir(path):
        return
    head, name = os.path.split(os.path.abspath(path))
    make_directories(head)
    parent = os.open(head, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        _share_directory(name, parent)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    finally:
        os.close(parent)


def _share_directory(name: str, parent: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        _share(descriptor, os.fstat(parent))
    finally:
        os.close(descriptor)


def _share(descriptor: int, parent: os.stat_result) -> None:
    """Let those write what we made who may write the directory that it lies in, whatever our umask says.

    They could as well put something else in its place; but not in a directory where only owners may (sticky).
    Kubernetes makes a pod's volume writable for the pod's fsGroup in this way, and lets new files inherit that group.
    """
    status = os.fstat(descriptor)
    granted = 0
    if not parent.st_mode & stat.S_ISVTX:
        granted |= stat.S_IRWXG if parent.st_mode & stat.S_IWGRP and parent.st_gid == status.st_gid else 0
        granted |= stat.S_IRWXO if parent.st_mode & stat.S_IWOTH else 0
    if not stat.S_ISDIR(status.st_mode):
        granted &= ~(stat.S_IXGRP | stat.S_IXOTH)
    if not granted & ~status.st_mode:
        return
    try:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | granted)
    except OSError as error:
        # Volumes without modes of their own: what others may do there is not ours to say.
        if error.errno not in _CHMOD_REFUSED:
            raise


def make_executable(descriptor: int) -> None:
    """Let those execute a file of ours who may read it, where the volume has modes."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        os.fchmod(descriptor, mode | (mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)) >> 2)
    except OSError as error:
        if error.errno not in _CHMOD_REFUSED:
            raise


def _remove_tree(parent: int, name: str) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for inner in os.listdir(descriptor):
            _remove_tree(descriptor, inner)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def close_quietly(descriptor: int) -> None:
    """Close a descriptor whose data does not count, or that was only read: what the kernel says is of no use."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of the data, at the offset or where the descriptor stands, however often the kernel takes less."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        view = view[written:]
        if offset is not None:
            offset += written


@contextmanager
def refusals(path: str) -> Iterator[None]:
    """Turn what the kernel refuses at a path into a sentence of ours, with its exit code."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path) from error


def refusal(error: OSError, path: str) -> DataFetchError | OSError:
    """Return what the kernel's refusal at a path means; the error itself where that is for the caller to say."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InsufficientSpaceError(
            f"the volume is full: {os.strerror(error.errno)} at {path!r}, {_free(path)} free; "
            "grow the volume or free some space, and run again: what was fetched is kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TargetNotWritableError(f"cannot write {path!r}: {os.strerror(error.errno)}; {_ownership(path)}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        return _occupied(path)
    if error.errno in (errno.ENOENT, errno.EEXIST):
        return error
    return InternalError(f"cannot write {path!r}: {error.strerror or error}; the volume may be faulty")


def _occupied(path: str) -> TargetOccupiedError:
    return TargetOccupiedError(
        f"{path!r} cannot be used: a link, file or directory that is not ours lies in its way; "
        "move it away or choose another path"
    )


def _free(path: str) -> str:
    try:
        status = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return "an unknown number of bytes"
    return format_bytes(status.f_bavail * status.f_frsize)


def _ownership(path: str) -> str:
    """Say who may write the nearest existing directory, and which field changes that."""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        status = os.lstat(path or ".")
    except OSError:
        return "the directory cannot be looked at"
    return (
        f"{path or '.'!r} belongs to {status.st_uid}:{status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o} "
        f"and we run as {os.geteuid()}:{os.getegid()}; make the volume writable, or in Kubernetes set "
        "spec.job.podSecurityContext (fsGroup or runAsUser)"
    )
