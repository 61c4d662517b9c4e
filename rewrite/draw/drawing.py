"""`draw` and `svg`: one entrance for every picture."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewrite.draw import render
from rewrite.draw.assigned import dot_of_expansion
from rewrite.draw.diff import dot_of_diff
from rewrite.draw.modules import dot_of_graph
from rewrite.draw.wiring import dot_of_components
from rewrite.errors import RewriteError, near
from rewrite.expand import Expansion
from rewrite.ir.diff import Diff
from rewrite.ir.graph import Graph
from rewrite.parts import Components

KINDS: dict[type, Callable[..., str]] = {
    Graph: dot_of_graph, Components: dot_of_components, Expansion: dot_of_expansion,
    Diff: dot_of_diff}


def draw(thing: Any, path: str | Path | None = None, **options: Any) -> Path | str:
    """Draw a graph, a component graph or an expansion, bottom to top.

    The suffix of `path` decides: .svg, .png, .pdf, or .dot and .gv for the text that Graphviz
    reads.  Without a path the SVG text is returned.  Options, beside `caption=False`:

    * `Graph`: ops folded by module.  `depth` words of module paths are kept (default: as
      many as give at most 40 boxes), `context=True` draws masks and positions too,
      `full=True` draws every layer even where layers are alike.
    * `Components`: layers that are alike are one box.  `layers` is how many are drawn
      nevertheless (default 4), or which, as numbers; `full=True` draws all.
    * `Expansion`: what the hypothesis touches; a colour is a run.  `hypothesis` is the number
      of the hypothesis, if there are several, `labels` how many of the paths that a copy
      serves are spelt out (default 3), `full=True` draws every layer that mixes runs.
    * `Diff`: both graphs in one.  `around` is how many edges away from a change nodes are
      still drawn (default 1), others are folded.

    A sum in the picture of an expansion passes on the stream that enters it, in which the
    copies drawn beside it take the place of those of the same parts.  A rounded box is a value
    that differs by position (`@END`, elsewhere) or by hop (`[-3:0]`, other hops): each of the
    copies that it is mixed of enters at its own side.

    Raises `RewriteError` for another kind of thing or an unknown option, `FileError` for
    another suffix or a folder that cannot be written to, `MissingPackage` without Graphviz.

    >>> import torch, rewrite as rw
    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> "linear" in draw(graph)
    True
    """
    if path is None:
        return svg(thing, **options)
    path = Path(path)
    render.suffix_of(path)
    return render.write(_dot(thing, options), path)


def svg(thing: Any, **options: Any) -> str:
    """The picture as SVG text, which notebooks display; options and errors as `draw` has them.

    >>> import torch, rewrite as rw
    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> svg(graph, caption=False).startswith("<svg")
    True
    """
    text = render.render(_dot(thing, options), "svg").decode()
    return text[text.index("<svg") :]


def _dot(thing: Any, options: dict[str, Any]) -> str:
    make = next((make for kind, make in KINDS.items() if isinstance(thing, kind)), None)
    if make is None:
        raise RewriteError(
            f"a {type(thing).__name__} cannot be drawn here: give rw.trace(model), "
            "graph.components() or rw.expand(hypothesis)")
    known = [name for name, parameter in inspect.signature(make).parameters.items()
             if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise RewriteError(f"drawing a {type(thing).__name__} has no option {name!r}; "
                               f"{near(name, known)}")
    return make(thing, **options)
