"""One family of exceptions: each says what was asked, what was found, what to write instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RewriteError(Exception):
    """Base of every error that `rewrite` raises on purpose."""


class ArgumentError(RewriteError):
    """A public function is given too few, too many or the wrong kind of arguments."""


class TraceError(RewriteError):
    """A model could not be loaded or traced, or its trace disagrees with it."""


class InputError(RewriteError):
    """Inputs of a call do not fit the graph: missing, extra, or of another shape."""


class UnknownName(RewriteError):
    """A name that the graph does not have."""


class PathError(RewriteError):
    """A path pattern that cannot be read, or that no path of the graph matches."""


class HypothesisError(RewriteError):
    """A hypothesis that does not make sense: overlapping path sets, unknown runs."""


class SurgeryError(RewriteError):
    """An edit that would leave the graph broken."""


class MatchError(RewriteError):
    """A selection holds more or fewer nodes than were expected."""


class RuleError(RewriteError):
    """A rule that cannot be read, that never ends, or whose result is not what it replaces."""


class ProofError(RewriteError):
    """The two sides of a rule cannot be compared, or they differ."""


class SpecError(RewriteError):
    """A graph that is not legal at its stage."""


class TextError(RewriteError):
    """A text that does not describe a graph."""


class DataError(RewriteError):
    """Prompt pairs that cannot be compared."""


class FileError(RewriteError):
    """A file that cannot be read or written, or is of another kind than expected."""


class BackendError(RewriteError):
    """A backend that does not exist, or whose workers cannot do what they are given."""


class MissingPackage(RewriteError):
    """An optional package is needed and not installed."""


def near(asked: str, known: Iterable[str], n: int = 5) -> str:
    """A phrase that offers the names nearest to `asked`.

    >>> near("a5.h33", ["a5.h3", "m5"])
    'did you mean a5.h3?'
    """
    known = list(known)
    close = get_close_matches(asked, known, n=n, cutoff=0.6) if len(asked) < 200 else []
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"known names: {shown}" if shown else "there are no names to choose from"
