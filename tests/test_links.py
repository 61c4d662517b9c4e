"""Pages lead to files that exist, and every page and picture is led to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
SCRIPT = re.compile(r"\bpython ([\w./-]+\.py)\b")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Files that a page leads to, with the heading in them."""
    for one, other in LINK.findall(page.read_text(encoding="utf-8")):
        file, _, heading = (one or other).partition("#")
        if not file.startswith(("http:", "https:", "mailto:")):
            yield (page.parent / file).resolve() if file else page, heading


def headings(page: Path) -> set[str]:
    """Anchors of a page, as hosts of Markdown make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for file, heading in links(page):
        assert file.exists(), f"{page.name} leads to {file}"
        assert not heading or heading in headings(file), f"{page.name} leads to #{heading}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_scripts_that_pages_name_exist(page: Path) -> None:
    for name in SCRIPT.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} says python {name}"


def test_every_page_and_picture_is_led_to() -> None:
    seen, stack = set[Path](), [ROOT / "README.md"]
    while stack:
        page = stack.pop()
        if page not in seen:
            seen.add(page)
            stack += [file for file, _ in links(page)] if page.suffix == ".md" else []
    wanted = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "images").glob("*")]
    assert not [str(file) for file in wanted if file not in seen]
