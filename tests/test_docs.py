"""Pages that say that they run do, and print what they show."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
VARIES = re.compile(r"\d+\.\d+ s\b|\bs\d+\b")  # seconds, and how torch calls a size


def ran(page: Path, folder: Path) -> list[tuple[str, str, str]]:
    """Each block of a page with what it shows and what it prints, in one namespace."""
    namespace: dict[str, Any] = {"__name__": "page"}
    found = []
    for number, block in enumerate(BLOCK.finditer(page.read_text())):
        code, shown = block.groups()
        file = folder / f"block{number}.py"  # rules read their own source
        file.write_text(code)
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, str(file), "exec"), namespace)
        found.append((code, shown or "", out.getvalue()))
    return found


@pytest.mark.parametrize("name", ["own_rules"])
def test_blocks_print_what_stands_below(name: str, tmp_path: Path) -> None:
    found = ran(DOCS / f"{name}.md", tmp_path)
    assert len(found) > 8
    for code, shown, printed in found:
        assert VARIES.sub("_", printed).split() == VARIES.sub("_", shown).split(), code


def test_the_page_of_rules_is_of_this_table() -> None:
    from rewrite.rules import RULES
    from rewrite.rules.declare import equations

    page = (DOCS / "rules.md").read_text()
    assert re.findall(r"^### (\w+)$", page, re.M) == list(RULES), "python docs/make_rules.py"
    for rule in RULES.values():
        for each in equations(rule):
            assert f"\n{each.equation}\n" in page, "python docs/make_rules.py writes the page"
