"""What a mixed value is mixed of: one copy for each side, and when a reader gets it, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rewrite.expand import Product
from rewrite.expand.product import Mixed

Place = tuple[str, int]  # a node and which copy of it


@dataclass(frozen=True)
class Clause:
    """Hops from `low` up to `high`, at positions of all groups `at` and of none of `off`."""

    low: int | None = None
    high: int | None = None
    at: tuple[str, ...] = ()
    off: tuple[str, ...] = ()

    @property
    def window(self) -> str:
        """The hops as a slice, or nothing if all of them are meant.

        >>> Clause(-3, 0).window, Clause(-1, 0).window, Clause(high=-2).window
        ('[-3:0]', '[-1]', '[:-2]')
        """
        low, high = self.low, self.high
        if low is None and high is None:
            return ""
        if low is not None and high == low + 1:
            return f"[{low}]"
        return f"[{'' if low is None else low}:{'' if high is None else high}]"

    def __str__(self) -> str:
        at = " and ".join(f"@{place}" for place in self.at)
        off = " nor ".join(f"@{place}" for place in self.off)
        return f"{at}{self.window}{f' not {off}' if off else ''}".lstrip()


@dataclass(frozen=True)
class Side:
    """One copy of a mixture: when it is read, in words, and which windows of hops these name."""

    text: str
    place: Place
    windows: tuple[str, ...] = ()


def sides(product: Product, place: Place, default: str = "") -> tuple[Side, ...]:
    """The copies behind a mixture and all mixtures that it mixes, what is left over at the end.

    Left over is the copy that takes most words to spell, if several do that of run `default`.

    >>> exp = rw.expand(rw.Hypothesis(parts, {"clean": "a1.h2@END"}))
    >>> [(side.text, side.place) for side in sides(exp.product, ("a1.h2", 2))]
    [('@END', ('a1.h2', 0)), ('elsewhere', ('a1.h2', 1))]
    """
    name = place[0]
    found: dict[int, list[Clause]] = {}

    def walk(index: int, clause: Clause) -> None:
        copy = product.copies[name][index]
        if not isinstance(copy, Mixed):
            found.setdefault(index, []).append(clause)
        elif copy.by_hop:
            if clause.low is not None:  # known to be so near
                return walk(copy.yes, clause)
            walk(copy.yes, replace(clause, low=copy.test.offset))
            walk(copy.no, replace(clause, high=copy.test.offset))
        else:
            walk(copy.yes, replace(clause, at=(*clause.at, copy.test.place)))
            walk(copy.no, replace(clause, off=(*clause.off, copy.test.place)))

    def words(index: int) -> tuple[int, int, bool, bool]:
        clauses, runs = found[index], product.copies[name][index].runs
        return (len(clauses), sum(len(clause.off) for clause in clauses), runs == {default},
                any(clause.low is None and not clause.at for clause in clauses))

    walk(place[1], Clause())
    every = [clause for clauses in found.values() for clause in clauses]
    rest = max(found, key=words)
    said = [Side(" or ".join(map(str, short)), (name, index),
                 tuple(c.window for c in short if c.window))
            for index, clauses in found.items() if index != rest for short in [_short(clauses)]]
    hops = any(clause.window for clause in every)
    places = any(clause.at or clause.off for clause in every)
    left = "otherwise" if hops and places else "other hops" if hops else "elsewhere"
    return (*said, Side(left, (name, rest)))


def _short(clauses: list[Clause]) -> list[Clause]:
    """`A or B` for `A or (B not A)`."""
    alone = {(clause.window, *clause.at) for clause in clauses if not clause.off}
    return [replace(clause, off=tuple(
        place for place in clause.off if (clause.window, place) not in alone))
        for clause in clauses]


def mixtures_behind(product: Product, place: Place) -> list[Place]:
    """A mixture and all mixtures that it mixes.

    >>> exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1.v[-1]"}))
    >>> mixtures_behind(exp.product, ("resid0", 3))
    [('resid0', 3), ('resid0', 2)]
    """
    found: dict[Place, None] = {}
    stack = [place]
    while stack:
        name, index = stack.pop()
        copy = product.copies[name][index]
        if isinstance(copy, Mixed) and (name, index) not in found:
            found[name, index] = None
            stack += [(name, copy.no), (name, copy.yes)]
    return list(found)


def asked(product: Product, mixtures: Iterable[Place], default: str) -> tuple[list[str], list[str]]:
    """The positions and the windows that some mixtures ask for, as the path language spells them.

    >>> exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1@END.v[-3:0]"}))
    >>> drawn = [("a0.h1", 2), ("resid0", 3)]
    >>> asked(exp.product, drawn, "corrupt")
    (['@END'], ['[-3:0]'])
    """
    positions: dict[str, None] = {}
    windows: dict[str, None] = {}
    for place in mixtures:
        windows |= dict.fromkeys(
            window for side in sides(product, place, default) for window in side.windows)
        for name, index in mixtures_behind(product, place):
            copy = product.copies[name][index]
            if isinstance(copy, Mixed) and not copy.by_hop:
                positions[f"@{copy.test.place}"] = None
    return list(positions), list(windows)
