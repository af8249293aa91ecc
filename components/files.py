"""Files that appear whole or not at all, locks between processes, and words for a disk that refuses."""

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from torchmill.components.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

logger = logging.getLogger("torchmill")

MODE = 0o666
"""Mode of new files before the user's umask takes its part: a group may share a folder of runs."""
ELSEWHERE = "set TORCHMILL_DATA (data sets) or TORCHMILL_RUNS (runs) to a folder elsewhere."


@contextmanager
def writing(place: Path, needed_bytes: int | None = None) -> Generator[None]:
    """Turn the system's errors about writing to ``place`` into words for the user.

    Keep network operations out of the block: their faults are OSErrors too.

    Args:
        needed_bytes: space that is still needed, for the message about a full disk.

    Raises:
        UserError: the disk is full or read-only, permission is missing, or a file stands where a folder should.
    """
    try:
        yield
    except OSError as error:
        message = f"Cannot write {place}: {error.strerror or error}"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{message}.", f"Is the place writable? If not, {ELSEWHERE}") from error
        need = f", about {needed_bytes / 1e6:.1f} MB more are needed" if needed_bytes else ""
        raise UserError(
            f"{message}{need}.",
            f"Free some space, or {ELSEWHERE} The next attempt goes on from the files that are complete.",
        ) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        UserError: the system refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file through a temporary one, so that readers, and a power cut, see the old file or the new one.

    Args:
        write: function that fills the temporary file, which lies beside ``path``.

    Raises:
        UserError: the disk is full, or the place cannot be written to.

    Example:
        write_atomically(folder / "picture.png", lambda partial: image.save(partial, "PNG"))
    """
    import fcntl

    with _replacing(path, path.with_name(f".{path.name}.{os.getpid()}.partial")) as partial:
        descriptor = _create(partial)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells the cleanup that its writer lives
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            write(partial)
            if stat.S_IMODE(partial.stat().st_mode) != mode:  # safetensors puts a file of its own there
                partial.chmod(mode)
        finally:
            os.close(descriptor)


@contextmanager
def new_file(path: Path, needed_bytes: int | None = None) -> Generator[BinaryIO]:
    """Open a file that appears under its name when the block ends well, and not otherwise.

    The temporary name is always the same, so that the next attempt overwrites the rest of a killed process: hold a
    lock.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _replacing(path, temporary, needed_bytes), os.fdopen(_create(temporary), "wb") as file:
        yield file


def append_to(path: Path) -> FileIO:
    """Open a file to append to it, unbuffered. A link of that name is refused: somebody else may have planted it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return FileIO(os.open(path, flags, MODE), "a")


def make_own_folder(folder: Path) -> None:
    """Create a folder for temporary files that no other user may enter, or take the one of an earlier process.

    Raises:
        UserError: there is a link, a file or a folder of another user, or the place cannot be written to.
    """
    with writing(folder):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no folder of yours"
        raise UserError(f"{folder} is {kind}, and temporary files belong there.", "Look at it, and remove it.")


def _create(temporary: Path) -> int:
    """Create and open a temporary file; what has its name is removed, a link itself and not its target."""
    temporary.unlink(missing_ok=True)
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


@contextmanager
def _replacing(path: Path, temporary: Path, needed_bytes: int | None = None) -> Generator[Path]:
    with writing(path, needed_bytes):
        try:
            yield temporary
            publish(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def publish(temporary: Path, final: Path) -> None:
    """Rename a finished file; after a power cut there is the old file or the new one, never a part."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Fsync a folder so that renames survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_arrays(path: Path, arrays: Mapping[str, "ArrayLike"], *, compress: bool = False) -> None:
    """Write named arrays into an ``.npz`` file, atomically."""
    import numpy as np

    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED

    def write(partial: Path) -> None:
        # As np.savez does, which takes no array called "file".
        with zipfile.ZipFile(partial, "w", kind, allowZip64=True) as archive:
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asanyarray(values), allow_pickle=False)

    write_atomically(path, write)


def write_array(path: Path, array: "np.ndarray") -> None:
    """Write an array as ``.npy``; like ``new_file``, it needs a lock where several processes write."""
    import numpy as np

    array = np.ascontiguousarray(array)
    with new_file(path, array.nbytes) as file:
        # numpy.save bypasses Python's file object, and then a full disk raises an error without a number.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def current_umask() -> int:
    """Return this process's umask. Python can't read it without setting it for a moment."""
    umask = os.umask(0o77)
    os.umask(umask)
    return umask


def check_is_file(path: Path, error: type[UserError] = UserError) -> None:
    """Check that a path of the user's is a file with an end, and no pipe or device, which could go on for ever.

    Raises:
        OSError: there is nothing there.
        UserError: there is something else; ``error`` may be a subclass.
    """
    mode = path.stat().st_mode
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    if not stat.S_ISREG(mode):
        kind = next((name for name, is_kind in kinds.items() if is_kind(mode)), "a device")
        raise error(f"Cannot read {path}: it is {kind}, not a file.", "Write what it holds into a file, and give that.")


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True, subject: str = "") -> Generator[bool]:
    """Hold a lock that the system frees when its holder dies; yield whether it was free.

    Args:
        path: file of the lock, created if it is missing. It is never removed: another process could lock a new file of
            that name beside the one that is still held.
        shared: whether others may hold the lock too, if they share it.
        wait: wait for the lock; otherwise yield False if another process or thread holds it.
        subject: work that the lock guards. If it is set, waiting is logged.

    Raises:
        UserError: the file can't be created, or the file system has no locks.
    """
    import fcntl

    descriptor = _open_lock(path)
    try:
        kind, free = fcntl.LOCK_SH if shared else fcntl.LOCK_EX, True
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            free = wait
            if wait:
                if subject:
                    logger.info("Waiting for another process, which is busy with %s.", subject)
                fcntl.flock(descriptor, kind)
        except OSError as error:
            message = f"The file system of {path.parent} has no locks: {error.strerror}."
            raise UserError(message, f"To avoid it, {ELSEWHERE}") from error
        yield free
    finally:
        os.close(descriptor)


TEMPORARY_PREFIX = "torchmill-"
IN_USE = "parent.lock"
"""Lock in a temporary folder, which is held as long as the process lives that made it."""
ABANDONED_SECONDS = 86_400.0
"""Age at which a temporary file or folder without a lock counts as abandoned, whatever id its name holds."""
LOCKED_WITHIN_SECONDS = 2.0
"""Time within which a new folder gets its lock."""


@contextmanager
def temporary_folder(parent: Path | None = None) -> Generator[Path]:
    """Make a folder for the block; in the system's temporary one, remove what killed processes of this user have left.

    Args:
        parent: folder for the new one; None is the system's temporary one.
    """
    if parent is None:  # other machines may share another folder, and locks don't reach them all
        remove_abandoned(Path(tempfile.gettempdir()))
    temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent, ignore_cleanup_errors=True)
    with temporary as path, locked(Path(path) / IN_USE):
        yield Path(path)


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` that are this user's and whose process has died."""
    for folder in parent.glob(f"{TEMPORARY_PREFIX}????????"):
        with contextlib.suppress(OSError, UserError):
            status = folder.lstat()
            age = time.time() - status.st_mtime
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or age < LOCKED_WITHIN_SECONDS:
                continue
            if (folder / IN_USE).is_file():
                with locked(folder / IN_USE, wait=False) as is_abandoned:
                    pass
            else:  # of an earlier version, or so new that it has no lock yet
                is_abandoned = age > ABANDONED_SECONDS
            if is_abandoned:
                shutil.rmtree(folder, ignore_errors=True)


def lock_for_child(path: Path) -> int | None:
    """Lock a file for a child process that inherits the descriptor; None if another process holds the lock.

    The lock lasts until every process that has the descriptor has closed it or died. Close it once the child has it.

    Raises:
        UserError: the file can't be created.

    Example:
        >>> if (descriptor := lock_for_child(folder / "server.lock")) is not None:  # doctest: +SKIP
        ...     start_python("-m", "server", pass_fds=(descriptor,))
        ...     os.close(descriptor)
    """
    import fcntl

    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _open_lock(path: Path) -> int:
    with writing(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
