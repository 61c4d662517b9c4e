"""Write docs/api.md from the docstrings of the public names: python docs/make_api.py"""

from __future__ import annotations

import inspect
from pathlib import Path

import rewrite


def entry(name: str) -> str:
    """Signature and docstring of a public name, with its public methods."""
    thing = getattr(rewrite, name)
    lines = [f"## `{name}`", "", "```python", signature(name, thing), "```", "",
             inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "func", getattr(function, "__func__", function))
            doc = inspect.getdoc(function)
            if not key.startswith("_") and inspect.isroutine(function) and doc:
                kind = "" if isinstance(member, property) else "()"
                lines += ["", f"* `.{key}{kind}`: {doc.splitlines()[0]}"]
    return "\n".join(lines)


def signature(name: str, thing: object) -> str:
    """How to call it."""
    try:
        return f"{name}{inspect.signature(thing)}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name


def page() -> str:
    """The whole page."""
    head = "# Reference\n\nGenerated from docstrings by `python docs/make_api.py`.\n"
    return "\n\n".join([head, *(entry(name) for name in rewrite.__all__)]) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "api.md").write_text(page(), encoding="utf-8")
