"""Files are what they were or wholly new, whatever goes wrong while they are written."""

from __future__ import annotations

import ast
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import rewrite
from rewrite import disk
from rewrite.errors import FileError

LIMIT = 1000  # bytes that a file may have, where a disk is said to be full
WRITERS = {"write_text", "write_bytes", "save_file", "save_model", "save_pretrained", "touch",
           "rename"}
# Makes a folder aside, and renames it as a whole; opens members of a zip that `disk` writes.
ASIDE = {"trace/packaged.py", "files/archive.py"}


def limited(code: str, *arguments: str, limit: int = LIMIT) -> subprocess.CompletedProcess[str]:
    """Run Python where no file may grow beyond a size, as under a quota."""
    head = ("import resource, sys\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n")
    return subprocess.run([sys.executable, "-c", head + code, *arguments], text=True,
                          capture_output=True, check=False, timeout=120)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    assert disk.write(file, "first") == file
    with disk.replacement(file) as half:
        half.write(b"sec")
        half.flush()
        assert file.read_text() == "first"
        half.write(b"ond")
    assert file.read_text() == "second"
    assert names(file.parent) == ["a.txt"]


def test_an_error_in_the_middle_leaves_the_file_before(tmp_path: Path) -> None:
    file = disk.write(tmp_path / "a.txt", "first")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), disk.replacement(file) as half:
            half.write(b"second")
            raise error
    assert (file.read_text(), names(tmp_path)) == ("first", ["a.txt"])


def test_a_library_may_write_by_name(tmp_path: Path) -> None:
    with disk.replacement(tmp_path / "a.txt") as file:
        Path(file.name).write_text("by name")
    assert (tmp_path / "a.txt").read_text() == "by name"


def test_links_permissions_and_long_names(tmp_path: Path) -> None:
    real = disk.write(tmp_path / "real.txt", "first")
    real.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    disk.write(link, "second")
    assert link.is_symlink()
    assert real.read_text() == "second"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    fresh = disk.write(tmp_path / ("ö" * 120 + ".json"), "x")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o666 & ~mask


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    disk.write("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    with pytest.raises(FileError, match=r"^/dev/full cannot be written \(No space left"):
        disk.write("/dev/full", "x")
    with pytest.raises(FileError, match=r"Is a directory"):
        disk.write(tmp_path, "x")
    with pytest.raises(FileError, match=r"choose a folder"):
        disk.write(disk.write(tmp_path / "file", "x") / "a.txt", "x")


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    file = disk.write(tmp_path / "a.txt", "first")
    done = limited("from rewrite import disk; disk.write(sys.argv[1], 'x' * 2000)", str(file))
    assert "FileError" in done.stderr and "ulimit" in done.stderr
    assert (file.read_text(), names(tmp_path)) == ("first", ["a.txt"])
    done = limited("from rewrite import disk; disk.append(sys.argv[1], 'x' * 2000)", str(file))
    assert "FileError" in done.stderr
    assert file.read_text() == "first"


def test_a_kill_costs_nothing(tmp_path: Path) -> None:
    file = disk.write(tmp_path / "a.txt", "first")
    code = ("import sys; from rewrite import disk\n"
            "with disk.replacement(sys.argv[1]) as half:\n"
            "    half.write(b'x' * 9999999); print('half', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"half\n"
        other.send_signal(signal.SIGKILL)
    assert file.read_text() == "first"


def test_appending_is_all_or_nothing(tmp_path: Path) -> None:
    file = disk.write(tmp_path / "a.txt", "one\n")
    disk.append(file, "two\n")
    assert file.read_text() == "one\ntwo\n"
    with pytest.raises(FileError):
        disk.append(tmp_path / "none" / "a.txt", "x")


def test_nothing_else_writes() -> None:
    """No module of the package opens a file to write, or has a library do so, but `disk`."""
    root = Path(rewrite.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        if str(file.relative_to(root)) in {"disk.py", *ASIDE}:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            opens = called == "open" and any(
                isinstance(value, ast.Constant) and isinstance(value.value, str)
                and set(value.value) & set("wax+") and len(value.value) < 4
                for value in (*node.args, *(each.value for each in node.keywords)))
            exports = called in ("to_csv", "to_json") and node.args
            if called in WRITERS or opens or exports:
                found.append(f"{file.relative_to(root)}:{node.lineno} {called}")
    assert not found
