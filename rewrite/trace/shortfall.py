"""Weights that files lack, have in another shape, or have too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewrite.errors import TraceError

SHOWN = 8
REPORT = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Options of transformers: what did not fit is returned, and not only printed."""


def shortfall(
    name: str, kind: str, info: Mapping[str, Any], allow_missing: bool
) -> tuple[str, ...]:
    """Notes on weights that do not fit; raises `TraceError` unless they are allowed."""
    found = {
        "lacks (they are random numbers now)": sorted(info.get("missing_keys", ())),
        "has in another shape (they are random numbers now)": sorted(
            f"{key} {list(there)}, not {list(here)}"
            for key, there, here in info.get("mismatched_keys", ())),
        f"has beyond a {kind} (they are not used)": sorted(info.get("unexpected_keys", ())),
    }
    notes = tuple(f"weights that {name} {what}: {_listed(keys)}"
                  for what, keys in found.items() if keys)
    if errors := info.get("error_msgs"):
        raise TraceError(f"{name} could not be loaded as a {kind}: {_listed(errors)}")
    if notes and not allow_missing:
        said = "\n".join(f"  {note}" for note in notes)
        raise TraceError(f"the files do not hold the weights of a {kind}:\n{said}\ncomplete the "
                         "files, or load the class that they are of and pass the model; "
                         "allow_missing=True goes on all the same, and the certificate says so")
    return notes


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
