"""DOT text to files: by the system's `dot`, else by the wheel of `pygraphviz`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from rewrite import disk
from rewrite.errors import FileError, MissingPackage, RewriteError

SUFFIXES = {".svg": "svg", ".png": "png", ".pdf": "pdf", ".dot": "dot", ".gv": "dot"}
DPI = {"png": "144"}  # twice the size of the screen, sharp on paper


def suffix_of(path: Path) -> str:
    """The format that a file name asks for; `FileError` for one that cannot be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise FileError(f"{path} has the suffix {path.suffix!r}; pictures are drawn to "
                        f"{', '.join(SUFFIXES)}, such as {path.stem or 'picture'}.svg")
    return SUFFIXES[path.suffix.lower()]


def write(source: str, path: Path) -> Path:
    """Draw DOT to a file, creating its folder; `FileError` if that is not possible."""
    kind = suffix_of(path)
    data = source.encode() if kind == "dot" else render(source, kind)
    return disk.write(path, data)


def render(source: str, kind: str) -> bytes:
    """DOT as svg, png or pdf.  Raises `MissingPackage` where there is no Graphviz.

    >>> render("digraph { a -> b }", "svg").count(b"<ellipse")
    2
    """
    program = shutil.which("dot")
    dpi = DPI.get(kind)
    if program:
        return _by_program(program, source, kind, dpi)
    try:
        import pygraphviz
    except ImportError as error:
        raise MissingPackage(
            "pictures need Graphviz: `pip install pygraphviz` (its wheel carries Graphviz) or "
            "install your system's graphviz package; .dot files need neither") from error
    graph = pygraphviz.AGraph(string=source)
    if dpi:
        graph.graph_attr["dpi"] = dpi
    try:
        return bytes(graph.draw(format=kind, prog="dot") or b"")
    except (ValueError, OSError) as error:
        raise RewriteError(f"Graphviz could not draw this picture to {kind}: {error}") from error
    finally:
        graph.close()


def _by_program(program: str, source: str, kind: str, dpi: str | None) -> bytes:
    command = [program, f"-T{kind}", *([f"-Gdpi={dpi}"] if dpi else [])]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=False)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip()
        raise RewriteError(f"{program} could not draw this picture to {kind}: {said}")
    return done.stdout
