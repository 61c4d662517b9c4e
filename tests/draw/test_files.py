"""Files of every kind, both ways of rendering, and errors."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import rewrite as rw
from rewrite.draw import draw, svg
from rewrite.draw.render import render
from rewrite.errors import FileError, MissingPackage, RewriteError

MAGIC = {"svg": b"<?xml", "png": b"\x89PNG\r\n", "pdf": b"%PDF-", "dot": b"digraph",
         "gv": b"digraph"}


@pytest.fixture(scope="module")
def exp(small: rw.Components) -> rw.Expansion:
    return rw.expand(rw.Hypothesis(small, {"clean": "a0.h1 -> a1.h2.q"}, default="corrupt"))


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_decides(exp: rw.Expansion, tmp_path: Path, suffix: str) -> None:
    for thing, name in ((exp, "exp"), (exp.parts, "parts"), (exp.parts.graph, "graph")):
        path = tmp_path / "new" / "folder" / f"{name}.{suffix}"
        assert thing.draw(path) == path
        assert path.read_bytes().startswith(MAGIC[suffix])
    upper = tmp_path / f"exp.{suffix.upper()}"
    assert draw(exp, str(upper)) == upper and upper.read_bytes().startswith(MAGIC[suffix])


def test_svg_stands_alone_and_can_be_read(exp: rw.Expansion) -> None:
    for thing in (exp, exp.parts, exp.parts.graph):
        text = thing._repr_svg_()
        assert text == svg(thing) == draw(thing)
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        assert "href=" not in text and "url(#" not in text and "@import" not in text
        assert set(re.findall(r'font-family="([^"]*)"', text)) == {"Helvetica,Arial,sans-serif"}
        sizes = {float(size) for size in re.findall(r'font-size="([\d.]+)"', text)}
        assert min(sizes) >= 10
        width, height = (float(root.attrib[k].removesuffix("pt")) for k in ("width", "height"))
        assert 1 / 5 < width / height < 5


def test_what_cannot_be_drawn(exp: rw.Expansion, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"suffix '.jpg'.*\.svg, \.png, \.pdf, \.dot, \.gv"):
        draw(exp, tmp_path / "x.jpg")
    with pytest.raises(FileError, match="suffix ''"):
        draw(exp, tmp_path / "x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot be written"):
        draw(exp, tmp_path / "file" / "x.svg")
    with pytest.raises(RewriteError, match=r"a dict cannot be drawn here: give rw\.trace"):
        draw({}, tmp_path / "x.svg")
    with pytest.raises(RewriteError, match=r"no option 'hypotesis'; did you mean hypothesis"):
        draw(exp, hypotesis=1)
    with pytest.raises(RewriteError, match="depth counts"):
        draw(exp.parts.graph, depth=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def fake_dot(folder: Path, body: str) -> str:
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_system_dot_comes_first(
    exp: rw.Expansion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    seen = tmp_path / "seen"
    path = fake_dot(tmp_path / "bin", f'echo "$@" > {seen}; cat > {seen}.dot; printf "drawn"')
    monkeypatch.setenv("PATH", path)
    assert draw(exp, tmp_path / "x.png") == tmp_path / "x.png"
    assert (tmp_path / "x.png").read_bytes() == b"drawn"
    assert seen.read_text().split() == ["-Tpng", "-Gdpi=144"]
    draw(exp, tmp_path / "x.gv")
    assert (tmp_path / "seen.dot").read_text() == (tmp_path / "x.gv").read_text()


def test_a_dot_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_dot(tmp_path, 'cat > /dev/null; echo "no fonts" >&2; exit 1')
    monkeypatch.setenv("PATH", path)
    with pytest.raises(RewriteError, match="could not draw this picture to pdf: no fonts"):
        render("digraph {}", "pdf")


def test_without_graphviz(
    exp: rw.Expansion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(MissingPackage, match="pip install pygraphviz"):
        draw(exp, tmp_path / "x.svg")
    assert draw(exp, tmp_path / "x.dot").exists()
