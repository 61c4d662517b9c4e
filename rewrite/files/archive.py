"""Archives whose every byte is under one checksum: zip files that unpack nothing, and run nothing.

The comment of the zip file is the SHA-256 of all bytes before it.  Members are stored as they
are, so that nothing grows when it is read, and `unzip` takes them out for other tools.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from rewrite.disk import replacement
from rewrite.errors import FileError
from rewrite.world import check_is_file, reading

LABEL = b"sha256:"
END = b"PK\x05\x06"  # what the end of a zip file begins with, and its length without the comment
END_SIZE, COMMENT_SIZE, CHUNK = 22, len(LABEL) + 64, 1 << 20
DATE = (1980, 1, 1, 0, 0, 0)  # equal graphs are equal files

Writer = Callable[[IO[bytes]], None]


class _Sealed(io.RawIOBase):
    """A file that is written from its beginning to its end, but for the comment of a zip file.

    In place of the comment `seal` writes the checksum of all that is in front of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.held = file, hashlib.sha256(), b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if view.nbytes < COMMENT_SIZE:
            whole = memoryview(self.held + bytes(view))
        else:
            self._pass(self.held)
            whole = view
        self._pass(whole[:-COMMENT_SIZE])
        self.held = bytes(whole[-COMMENT_SIZE:])
        return view.nbytes

    def _pass(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        self.file.write(data)

    def seal(self) -> None:
        """Write the checksum, which ends the file."""
        self.file.write(LABEL + self.digest.hexdigest().encode())


def write_archive(path: Path, members: Mapping[str, Writer]) -> Path:
    """Write an archive; each member is written by a function that is given a file."""
    with replacement(path) as file:
        sealed = _Sealed(file)
        with zipfile.ZipFile(sealed, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = bytes(COMMENT_SIZE)  # its length is part of what is hashed
            for name, write in members.items():
                with archive.open(zipfile.ZipInfo(name, DATE), "w", force_zip64=True) as member:
                    write(member)
        sealed.seal()
    return path


@contextmanager
def read_archive(path: Path, members: tuple[str, ...]) -> Iterator[zipfile.ZipFile]:
    """An archive with exactly these members, whose checksum is right; `FileError` if it is not."""
    with reading(path):
        check_is_file(path)
        with path.open("rb") as file:
            _check(file, path)
            with zipfile.ZipFile(file) as archive:
                _look(archive, members, path)
                yield archive


def _check(file: BinaryIO, path: Path) -> None:
    size = file.seek(0, io.SEEK_END) - COMMENT_SIZE
    file.seek(max(size - END_SIZE, 0))
    end = file.read()
    if size < END_SIZE or not end.startswith(END) or not end[END_SIZE:].startswith(LABEL):
        raise FileError(f"{path} is no graph that rw.save wrote, or its end is missing: it does "
                        "not end with a checksum; copy or save it again")
    if _digest(file, size) != end[END_SIZE + len(LABEL):]:
        raise FileError(f"{path} is damaged, or was changed: its contents do not have the checksum "
                        "that it was saved with; copy or save it again")


def _digest(file: IO[bytes], size: int) -> bytes:
    """The checksum of the first bytes of a file."""
    found = hashlib.sha256()
    file.seek(0)
    while size:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            break
        found.update(chunk)
        size -= len(chunk)
    return found.hexdigest().encode()


def _look(archive: zipfile.ZipFile, members: tuple[str, ...], path: Path) -> None:
    """Only what belongs there, stored as it is and side by side: nothing unfolds to more."""
    found = [info.filename for info in archive.infolist()]
    if missing := [name for name in members if name not in found]:
        raise FileError(f"{path} has no {missing[0]}: it is no graph that rw.save wrote")
    if sorted(found) != sorted(members):
        raise FileError(f"{path} holds {', '.join(map(repr, found[:5]))}, and should hold "
                        f"{', '.join(members)}, once each")
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or (
                info.compress_size != info.file_size):
            raise FileError(f"{path} holds {info.filename} compressed or encrypted: members are "
                            "stored as they are")
    starts = sorted((info.header_offset, info.file_size) for info in archive.infolist())
    ends = [start + size for start, size in starts]
    if any(end > after for end, (after, _) in zip(ends, starts[1:], strict=False)):
        raise FileError(f"{path} holds members that lie upon each other")
