"""Write docs/api.md from the docstrings of the public names: python docs/make_api.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import rewrite


def entry(name: str) -> str:
    """Signature and docstring of a public name, with its public methods."""
    thing = getattr(rewrite, name)
    if inspect.ismodule(thing):
        return module_entry(name, thing)
    lines = [f"## `{name}`", "", "```python", signature(name, thing), "```", "",
             inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        own = [c for c in reversed(thing.__mro__) if c.__module__.startswith("rewrite.")]
        for key, member in {k: m for c in own for k, m in vars(c).items()}.items():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "func", getattr(function, "__func__", function))
            doc = inspect.getdoc(function)
            if not key.startswith("_") and inspect.isroutine(function) and doc:
                kind = "" if isinstance(member, property) else "()"
                lines += ["", f"* `.{key}{kind}`: {doc.splitlines()[0]}"]
    return "\n".join(lines)


def module_entry(name: str, module: ModuleType) -> str:
    """The functions of a public module, a line each."""
    lines = [f"## `{name}`", "", inspect.getdoc(module) or "", ""]
    for key in module.__all__:
        doc = inspect.getdoc(getattr(module, key)) or ""
        lines.append(f"* `{signature(key, getattr(module, key))}`: {doc.splitlines()[0]}"
                     if callable(getattr(module, key)) and doc else f"* `{key}`")
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
