"""Where the world comes in: files, models, and functions of the user.

Whatever is raised there, by whatever library, is turned into an error of this package once, here:
what failed, where, why in a line, and the error itself as its cause.  Errors of this package pass
as they are, and so does what ends a program (`KeyboardInterrupt`).

    with reading(path):               # a file: FileError
    with calling(function, "..."):    # a function of the user: the kind that is asked for
"""

from __future__ import annotations

import functools
import json
import re
import stat
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from rewrite.errors import ArgumentError, FileError, RewriteError, near
from rewrite.kinds import kind_of, short

LONGEST = 2**32  # bytes of a text that is read; what claims to be longer is none
SHOWN = 300  # letters of what another library says
DEEPEST = 100  # levels of brackets, and of what is inside of each other
_HERE = str(Path(__file__).parent)
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}


def turned(kind: type[RewriteError], say: Callable[[str], str]) -> AbstractContextManager[None]:
    """Whatever is raised becomes `kind(say(reason))`, with the error as its cause.

    >>> with turned(FileError, "the file is no table: {}".format):
    ...     [][0]
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: the file is no table: list index out of range
    """
    return _turned(kind, lambda error: say(reason(error)))


def reading(what: str | Path) -> AbstractContextManager[None]:
    """What is raised while a file, or what was in it, is read becomes a `FileError`.

    >>> with reading("sweep.json"):
    ...     {}["rows"]
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: sweep.json cannot be read: it has no 'rows'
    """
    return turned(FileError, lambda why: f"{what} cannot be read: {why}")


@contextmanager
def edited(what: str, advice: str) -> Iterator[None]:
    """What is wrong with the data of a file is a `FileError`: it is not what was written."""
    try:
        with reading("it"):
            yield
    except RewriteError as error:
        raise FileError(f"{what}, and was written by another version, or edited: {error}\n{advice}"
                        ) from error


def calling(what: str, kind: type[RewriteError] = ArgumentError) -> AbstractContextManager[None]:
    """What is raised by a function of the user becomes `kind`, which says at which line.

    >>> with calling("the function of the metric"):
    ...     int("a")
    Traceback (most recent call last):
    ...
    rewrite.errors.ArgumentError: the function of the metric raises ValueError...
    """
    return _turned(kind, lambda error: f"{what} raises {type(error).__name__}{_line(error)}: "
                                       f"{reason(error)}")


def safe(function: Callable[..., Any], what: str, kind: type[RewriteError] = ArgumentError
            ) -> Callable[..., Any]:
    """The same function, for which `calling` holds at each call."""
    @functools.wraps(function, updated=())
    def call(*args: Any, **options: Any) -> Any:
        with calling(what, kind):
            return function(*args, **options)

    return call


def reason(error: BaseException) -> str:
    """What an error says, on one line.

    >>> reason(KeyError("rows")), reason(RecursionError("maximum recursion depth exceeded"))
    ("it has no 'rows'", 'it is nested too deeply')
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it has no {str(error)[:SHOWN]}"
    if is_out_of_memory(error):
        return "it asks for more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return "it has a number of more than 4,300 digits"
    lines = [line.strip() for line in words(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:SHOWN]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocator gave up, here or in what an error was raised from."""
    while error is not None:
        said = words(error).lower()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
                isinstance(error, RuntimeError) and (
                    "out of memory" in said or "can't allocate memory" in said)):
            return True
        error = error.__cause__
    return False


def text_of(path: Path, longest: int = LONGEST) -> str:
    """The text of a file.  Raises `FileError` for what is no file, no text, or endless.

    A mark of the order of bytes in front is no part of it.
    """
    with reading(path):
        check_is_file(path, longest)
        return path.read_text(encoding="utf-8-sig")


def check_is_file(path: Path, longest: int | None = None) -> None:
    """Raise `FileError` for a folder, a pipe, a device: to read those may wait for ever."""
    with reading(path):
        found = path.stat()
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFREG:
            raise FileError(f"{path} cannot be read: it is {_KINDS.get(kind, 'no file')}")
        if longest is not None and found.st_size > longest:
            raise FileError(f"{path} cannot be read: it is {found.st_size:,} bytes long, and "
                            f"more than {longest:,} are not taken for a text")


def table_of(text: str, what: str | Path, kind: str = "JSON") -> dict[str, Any]:
    """The table that a text in JSON or TOML holds; each name stands in it once.

    >>> table_of('{"a": 1, "a": 2}', "twice.json")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: twice.json is not valid JSON: 'a' stands twice in a table
    """
    with turned(FileError, lambda why: f"{what} is not valid {kind}: {why}"):
        data = tomllib.loads(text) if kind == "TOML" else json.loads(text, object_pairs_hook=_once)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            _ = json.dumps(data, ensure_ascii=False).encode()  # half of a letter is none
    if not isinstance(data, dict):
        raise FileError(f"{what} should hold a table, it holds a {type(data).__name__}")
    return data


def check_table(
    table: Any, where: str, needed: Mapping[str, Any], optional: Mapping[str, Any] | None = None,
    others: bool = False,
) -> None:
    """Raise `FileError` unless a table has what it needs, each of its kind, and (but for
    `others`) nothing else.

    >>> check_table({"name": "one", "runz": {}}, "[hypothesis.1]", {}, {"name": str, "runs": dict})
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: [hypothesis.1] takes no 'runz'; did you mean runs?
    """
    if not isinstance(table, dict):
        raise FileError(f"{where} must be a table, found {short(table)}")
    known = {**needed, **(optional or {})}
    for name in needed:
        if name not in table:
            raise FileError(f"{where} has no {name!r}")
    for name, value in table.items():
        if name not in known:
            if others:
                continue
            raise FileError(f"{where} takes no {name[:SHOWN]!r}; {near(name[:SHOWN], known)}")
        kind = kind_of(known[name])
        if kind is not None and not kind.holds(value):
            place, wanted, found = kind.fault(value, name)
            raise FileError(f"{place} of {where} must be {wanted.words}, found {short(found)}")


@contextmanager
def _turned(kind: type[RewriteError], say: Callable[[BaseException], str]) -> Iterator[None]:
    try:
        yield
    except RewriteError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or _is_panic(error)):
            raise
        raise kind(say(error)) from error


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))
        raise ValueError(f"{twice[:40]!r} stands twice in a table")
    return found


def _line(error: BaseException) -> str:
    """The first line outside of this package on the way to an error: the user's own."""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith((_HERE, "<frozen")):
            return f" at {Path(file).name}:{number}"
    return ""


def words(error: BaseException) -> str:
    """The text of an error, also of one whose class fails to say it."""
    try:
        return str(error)
    except Exception:  # of the user's class
        return ""


def _is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust failed, whose errors are of no usual kind."""
    return type(error).__name__ == "PanicException"


