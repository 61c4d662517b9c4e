"""Runs every law on every family of the table and writes `docs/supported_models.md`.

    python docs/make_models.py                        all families, with the installed versions
    python docs/make_models.py --only gpt2,llama      some of them, printed and not written
    python docs/make_models.py --rows rows.jsonl      keep each row as soon as it is finished
    python docs/make_models.py --rows rows.jsonl --page   write the page from the rows there are
    python docs/make_models.py --transformers 5.20.0  against another release

With `--rows`, a later call runs only what the file does not hold for the same versions, so that
an interruption loses nothing; the last row of a family counts.  `--transformers` installs that
release beside the environment, in a temporary folder, and prints what differs from the written
page; it combines with `--only` and `--rows`.

The suite examines one family of each kind of architecture (`CORE` in `tests/models/table.py`);
this script all of them, by the same laws.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "supported_models.md"
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
Row = dict[str, Any]


class Late(BaseException):
    """A family took too long.  No `except Exception` on the way may swallow it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `Late` after `seconds`, and again every second until it gets through."""
    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def versions() -> dict[str, str]:
    """The libraries that a row was made with."""
    return {name: version(name) for name in ("torch", "transformers")}


def brief(error: Exception) -> str:
    """An error on one line of a table, without the folders of this machine."""
    text = " ".join(str(error).split()).replace("|", "/")
    text = re.sub(r"/\S*/site-packages/", "", text)
    return f"{type(error).__name__}: {text[:300]}"


def one(name: str, seconds: float) -> Row:
    """The row of one family; a crash is a row too, and so is a family that takes too long."""
    import torch
    import transformers

    from tests.models.examine import examine
    from tests.models.table import TABLE

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    family, made = TABLE[name], {"name": name} | versions()
    if not hasattr(transformers, family.model):
        return made | {"crash": "this version of transformers does not have it", "absent": True}
    try:
        start = time.process_time()
        with limit(seconds):
            row = asdict(examine(family))
        return made | row | {"cost": time.process_time() - start}
    except Late:
        return made | {"crash": f"took more than {seconds:.0f} s"}
    except Exception as error:  # shown in the table
        return made | {"crash": brief(error)}


def kept(file: Path | None) -> dict[str, Row]:
    """The rows of a file that were made with the installed versions."""
    if file is None or not file.exists():
        return {}
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["name"]: row for row in found if versions().items() <= row.items()}


def run(names: list[str], processes: int, seconds: float, file: Path | None) -> dict[str, Row]:
    """Rows by name: those of the file, and the others as they are made."""
    from rich.progress import track

    rows = kept(file)
    left = [name for name in names if name not in rows]
    with get_context("spawn").Pool(processes, maxtasksperchild=20) as pool:
        calls = [pool.apply_async(one, (name, seconds)) for name in left]
        for call in track(calls, description="families"):
            row = call.get()
            rows[row["name"]] = row
            if file is not None:
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    return rows


def cells(row: Row) -> tuple[str, str]:
    """What two versions are compared by: heads found, and laws that hold."""
    from tests.models.examine import LAWS

    fixed = ", fixed" if row["fixed"] else ""
    return f"{row['heads']} / {row['expected']}", f"{len(row['passed'])} / {len(LAWS)}{fixed}"


def _worst(rows: list[Row], law: str) -> float:
    """The largest error of the rows that pass a law; an edge without an oracle has none."""
    errors = [row[f"{law}_error"] for row in rows if law in row["passed"]]
    return max((error for error in errors if error > 0), default=0.0)


def _of_each_kind(notes: list[str]) -> str:
    """The first of several notes that differ in names and numbers alone."""
    first = {re.sub(r"\w*\d[\w.]*", "", note): note for note in reversed(notes)}
    return "; ".join(note for note in notes if note in first.values()).replace("|", "/")


def _said(row: Row, key: str) -> list[str]:
    """One line of a table for each law that failed, or is known not to hold."""
    return [f"| {row['name']} | {law} | {seen.replace('|', '/')} |"
            for law, seen in row.get(key, {}).items()]


def page(found: list[Row], missing: int = 0) -> str:
    """The page."""
    from tests.models.examine import LAWS
    from tests.models.table import CORE

    traced = [row for row in found if "crash" not in row]
    held = [row for row in traced if not row["failed"]]
    stated = sum(bool(row["known"]) for row in held)
    worst, direct = _worst(held, "parts"), _worst(held, "direct")
    exact = sum(row["trace_error"] == 0 for row in traced)
    heads, expected = (sum(row[key] for row in traced) for key in ("heads", "expected"))
    left = f"  {missing} more families of the table were not run." if missing else ""
    lines = [
        "# Supported models", "",
        "Generated by `python docs/make_models.py`: a tiny random model of each family is traced,",
        "split, expanded and compared with eager PyTorch in single precision, at a batch size and",
        "length that it was not traced with.  A family is one line in `tests/models/`; no code of",
        "the package knows any of them by name.", "",
        ", ".join(f"{name} {number}" for name, number in versions().items()) + f".  {len(found)} "
        f"families: {len(traced)} traced, {exact} of them bit for bit; {len(held) - stated} pass "
        f"all {len(LAWS)} laws; {stated} more pass all but what is stated below; {heads:,} of "
        f"{expected:,} attention heads found.  Largest difference of a split model, relative to "
        f"its largest output: {worst:.1e}; of a direct edge, against hooks on the original model: "
        f"{direct:.1e}; each over the families that pass that law and fail none."
        f"{left}", "",
        "Laws: " + ", ".join(LAWS) + ".  *heads* means that every attention head that the",
        "configuration promises is a part of its own, with its q, k and v read apart; *partition*",
        "that every weight is in one part (but where the model itself shares it), none of a layer",
        "hidden in an output, and MLPs and mixers are as many as the configuration says; *direct*",
        "that a head and an MLP have the direct effect that hooks on the model give.  *fixed*",
        "marks models whose length is fixed when they are traced.  Families in italics run only",
        "when this page is made, the others on every change.  Export took at most these seconds",
        "of one thread.", "",
        "| family | export s | nodes | heads found / expected | MLPs and mixers | trace error "
        "| split error | direct error | laws |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in traced:
        name = row["name"] if row["name"] in CORE else f"*{row['name']}*"
        heads_cell, laws = cells(row)
        seconds = min(row["seconds"], row["cost"])
        unasked = row["no_oracle"] and not row["direct_error"]
        edge = "none" if unasked else f"{row['direct_error']:.1e}"
        lines.append(f"| {name} | {seconds:.1f} | {row['nodes']} | {heads_cell} | "
                     f"{row['blocks']} / {row['blocks_expected']} | {row['trace_error']:.1e} | "
                     f"{row['parts_error']:.1e} | {edge} | {laws} |")
    lines += ["", "## What does not pass", "", "| family | law | what was seen |", "|---|---|---|"]
    for row in found:
        if "crash" in row:
            lines.append(f"| {row['name']} | trace | {row['crash']} |")
        lines += _said(row, "failed")
    lines += ["", "## What is known not to hold", "", "| family | law | why (what was seen) |",
              "|---|---|---|"]
    lines += [line for row in traced for line in _said(row, "known")]
    slower = [row for row in traced if row["notes"] and not row["failed"]]
    lines += ["", "## Coarser or slower in places", "", "| family | where |", "|---|---|"]
    lines += [f"| {row['name']} | {_of_each_kind(row['notes'])} |" for row in slower]
    lines += ["", "## Direct edges without an oracle", "", "| family | why |", "|---|---|"]
    lines += [f"| {row['name']} | {'; '.join(row['no_oracle'])} |" for row in traced
              if row["no_oracle"]]
    return "\n".join(lines) + "\n"


def written() -> dict[str, tuple[str, str]]:
    """What the written page says of each family that could be traced, as `cells` says it."""
    found = {}
    for line in PAGE.read_text().splitlines():
        columns = [cell.strip() for cell in line.strip("|").split("|")]
        if len(columns) == 9 and " / " in columns[3] and columns[1] != "export s":
            found[columns[0].strip("*")] = (columns[3], columns[8])
    return found


def elsewhere(release: str, rest: list[str]) -> None:
    """This script again, with another release of transformers in front of the installed one."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
        subprocess.run([*pip, f"transformers=={release}"], check=True)
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run([sys.executable, __file__, "--compare", *rest], check=True,
                       env=os.environ | {"PYTHONPATH": path})


def differences(rows: list[Row]) -> list[str]:
    """How rows differ from the written page, one line per family."""
    before, lines = written(), []
    for row in rows:
        now = ("not traced", row["crash"]) if "crash" in row else cells(row)
        then = before.get(row["name"], ("not traced", ""))
        same = now[0] == then[0] == "not traced" or now == then
        if not same:
            why = "; ".join(f"{law}: {seen}" for law, seen in row.get("failed", {}).items())
            lines.append(f"{row['name']}: heads {now[0]}, laws {now[1]} (page: {then[0]}, "
                         f"{then[1]}) {why}".rstrip())
    return lines


def main() -> None:
    from tests.models.table import TABLE

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=300, help="limit for one family")
    parser.add_argument("--rows", type=Path, help="JSON lines to which finished rows are added")
    parser.add_argument("--page", action="store_true", help="write the page from --rows, run none")
    parser.add_argument("--transformers", default="", help="a release to install and compare with")
    parser.add_argument("--compare", action="store_true", help="print what differs from the page")
    given = parser.parse_args()
    if given.transformers:
        at = sys.argv.index("--transformers")
        elsewhere(given.transformers, sys.argv[1:at] + sys.argv[at + 2:])
        return
    names = [name for name in given.only.split(",") if name] or list(TABLE)
    if unknown := [name for name in names if name not in TABLE]:
        raise SystemExit(f"no family is called {unknown[0]!r}; the table is in tests/models/")
    rows = (kept(given.rows) if given.page
            else run(names, given.processes, given.seconds, given.rows))
    found = [rows[name] for name in names if name in rows]
    if given.compare:
        print(versions(), f"{len(found)} families", *differences(found), sep="\n")
    elif given.only:
        print(page(found))
    else:
        PAGE.write_text(page(found, len(names) - len(found)))


if __name__ == "__main__":
    main()
