"""Locks of the operating system, which frees them when a process ends in any way: none is stale."""

import errno
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar

from nemp_sim.errors import InputError

IN_USE = ".in-use"  # names who works in a directory, and is locked
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have none

Result = TypeVar("Result")


def lock(handle: IO[str], wait: bool) -> bool:
    """Lock an open file until it is closed; False where another holds it and ``wait`` is off.

    On a file system that has no locks it warns, and goes on as if the lock were had.
    """
    import fcntl  # not on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {Path(handle.name).parent} has no locks ({error}): two processes "
            "that work there would mix, and nothing would say so.",
            stacklevel=3,
        )
    return True


def missing_directories(directory: Path) -> list[Path]:
    """``directory`` and its parents as far as they are not there, innermost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a directory for this process, so that no second run writes there.

    The directory is made; nothing is left of it where the block writes nothing.

    Raises:
        InputError: another process holds it; the message says which.
    """
    made = missing_directories(directory)
    path, handle = directory / IN_USE, None
    try:
        while handle is None:  # until what is locked is also what lies there
            directory.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another run has ended and removed it
                opened = path.open("a+")
                handle = opened if _is_claimed(opened, directory) else None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        for left in directory.glob(".*.part*"):  # of a process that was killed
            left.unlink()
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            handle.close()
        with suppress(OSError):  # not empty
            for each in made:
                each.rmdir()


def _is_claimed(handle: IO[str], directory: Path) -> bool:
    """Whether the lock is had; False, and the file closed, where it was removed meanwhile.

    Raises:
        InputError: another process has it.
    """
    try:
        mine = lock(handle, wait=False)
    except OSError:
        handle.close()
        raise
    if not mine:
        handle.seek(0)
        holder = handle.read() or "another process"
        handle.close()
        raise InputError(
            f"{directory} is in use by {holder}, which still runs. Wait for its end, or choose "
            "another directory."
        )
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle.fileno()), os.stat(handle.name)):
            return True
    handle.close()
    return False


def alone(run: Callable[..., Result]) -> Callable[..., Result]:
    """``run(settings, ...)`` of a workflow, alone in ``settings.directory``."""

    @wraps(run)
    def held(settings: Any, *arguments: Any, **options: Any) -> Result:  # noqa: ANN401 (passed on)
        with alone_in(settings.directory):
            return run(settings, *arguments, **options)

    return held


def clear(directory: Path) -> None:
    """Remove all in a directory but the mark of who works there."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name == IN_USE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
