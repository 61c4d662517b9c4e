"""All writing goes through here: a file is either what it was, or wholly the new one.

A full disk, a quota, a power cut or a kill in the middle of writing never costs what was there.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rewrite.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FULL = {errno.ENOSPC: "make room there", errno.EDQUOT: "make room there",
        errno.EFBIG: "raise the limit of file sizes (ulimit -f)"}


def write(path: str | Path, data: bytes | memoryview | str) -> Path:
    """Write a file as a whole, creating its folder; text is written as UTF-8.

    Raises `FileError` if that is not possible: a file that was there is then as it was.
    """
    with replacement(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return Path(path)


@contextmanager
def replacement(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to fill, which takes the place of `path` when the block ends.

    It lies in the same folder, is flushed to the disk and then renamed, so that nobody sees half
    of it; libraries that write by name are given `file.name`.  If the block raises, `path` is as
    it was.  A link is followed, permissions are kept, and what is no file (a pipe, `/dev/null`)
    is written directly.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacement(folder + "/note.txt") as file:
    ...         _ = file.write(b"whole")
    ...     Path(folder, "note.txt").read_text()
    'whole'

    Raises `FileError` for a folder or file that cannot be written, and for a disk that is full.
    """
    asked, path = Path(path), Path(os.path.realpath(path))
    with written(asked):
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        if mode is not None and not stat.S_ISREG(mode):
            with path.open("wb") as file:
                yield file
            return
        fresh = path.with_name(f".{path.name[:32]}-{secrets.token_hex(6)}.part")
        file = fresh.open("xb")
        try:
            yield file
            file.flush()
            if mode is not None:
                fresh.chmod(stat.S_IMODE(mode))
            os.fsync(file.fileno())
            file.close()
            fresh.replace(path)
        except BaseException:
            with suppress(OSError):  # what is buffered does not fit either
                file.close()
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
        _keep_name(path.parent)


def append(path: str | Path, data: bytes | str) -> None:
    """Write behind what a file holds, to the disk: all of it, or nothing.

    Raises `FileError` if that is not possible: the file is then as it was.
    """
    with written(Path(path)), Path(path).open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        left = memoryview(data.encode() if isinstance(data, str) else data)
        try:
            while left:
                left = left[file.write(left):]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(before)
            raise


def put_aside(path: Path, size: int) -> Path:
    """Move what a file holds beyond `size` bytes to the end of `NAME.cut`, beside it."""
    aside = path.with_name(f"{path.name}.cut")
    with written(path), path.open("r+b") as file:
        file.seek(size)
        rest = file.read()
        append(aside, rest + b"\n")
        file.truncate(size)
        os.fsync(file.fileno())
    return aside


@contextmanager
def lock(path: str | Path) -> Iterator[str]:
    """Keep others from a file until the block ends; yields why that cannot be, "" where it can.

    The lock is a file beside it, `.NAME.lock`, which the system opens again when its process
    ends, however it ends.  Folders of other machines (NFS) are locked as far as they can be.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock(folder + "/a") as why:
    ...     why, [file.name for file in Path(folder).iterdir()]
    ('', ['.a.lock'])

    Raises `FileError` while another process, or another call in this one, has it.
    """
    asked, path = Path(path), Path(os.path.realpath(path))
    name = path.with_name(f".{path.name[:64]}.lock")
    with written(asked):
        path.parent.mkdir(parents=True, exist_ok=True)
        file, why = _lock(name, asked)
        try:
            if not why:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}".encode())
            yield why
        finally:
            if not why:
                with suppress(OSError):
                    name.unlink(missing_ok=True)
            file.close()


def _lock(name: Path, asked: Path) -> tuple[BinaryIO, str]:
    while True:
        file = name.open("a+b", buffering=0)
        if fcntl is None:
            return file, f"{asked} is not locked: this system cannot"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name.exists() and os.path.samestat(name.stat(), os.fstat(file.fileno())):
                return file, ""
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            file.close()
            raise FileError(f"{asked} is being written by {holder}: wait for it, or give another "
                            "file") from None
        except OSError as error:
            return file, (f"{asked} is not locked ({error.strerror}): see to it that no other "
                          "process writes it")
        file.close()  # it was taken away by the process that had it


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What the system refuses is a `FileError` that says what to do.

    >>> with written(Path("a.json")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: a.json cannot be written (No space left on device): make room there
    """
    try:
        yield
    except OSError as error:
        advice = FULL.get(error.errno or 0, "choose a folder that you may write to")
        raise FileError(f"{path} cannot be written ({error.strerror or error}): {advice}"
                        ) from error


def _mode(path: Path) -> int | None:
    """Kind and permissions of what is there; None for nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _keep_name(folder: Path) -> None:
    """Bring the new name to the disk too, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
