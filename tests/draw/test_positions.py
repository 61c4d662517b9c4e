"""Mixtures by positions and hops in the picture of an expansion, read back from its DOT text."""

from __future__ import annotations

import html
import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewrite as rw
from rewrite.draw import svg
from rewrite.draw.assigned import dot_of_expansion, folded
from rewrite.draw.contract import key
from rewrite.draw.labels import port
from rewrite.draw.palette import DEFAULT, OTHERS
from rewrite.draw.serves import serves
from rewrite.draw.sides import Place, sides
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.ir.dag import Dag, Source
from rewrite.paths.tree import HOP, THERE, Condition, hop
from tests.draw.reading import Picture

RUNS = {
    "node": {"clean": "a1.h2@END"},
    "node reads": {"clean": "a0.h1 -> a1.h2@END"},
    "source": {"clean": "tokens@S2"},
    "two groups": {"clean": "tokens@S2 - tokens@S1"},
    "slice": {"clean": "m0@[-1] -> logits"},
    "output": {"clean": "a1.h0 -> logits@[-1]"},
    "where it reads": {"clean": "a0.h1 -> a1.h2.k@S2"},
    "window": {"clean": "a0.h1.v[-1]"},
    "window and group": {"clean": "a0.h1 -> a1.h2.k@S2[-3:0]"},
    "far": {"clean": "a1.h1.k[:-2]"},
    "accumulated": {"clean": "tokens -> ...[-3:0] -> a1.h2.k"},
    "accumulated twice": {"clean": "tokens -> ...[-3:0] -> logits"},
    "heads": {"clean": "a0.h1 -> a1.h{1,2,3}@END.v[-1]"},
    "all heads": {"clean": "a*.h*@END -> logits"},
    "but": {"clean": "~(a1.h0.v[-1])"},
    "runs": {"clean": "tokens@S2 -> ... -> a1.h2.k", "other": "m0 -> a1.h1.v[-2:0]",
             "third": "m1@END - (m0 -> a1.h1.v[-2:0]) - (tokens@S2 -> ... -> a1.h2.k)"},
}
PLACE = r"@(?:\w+|\[[^\]]*\])"
CLAUSE = re.compile(
    rf"({PLACE}(?: and {PLACE})*)?(\[[^\]]*\])?(?: ?not ({PLACE}(?: nor {PLACE})*))?")


def expansion(parts: rw.Components, name: str) -> rw.Expansion:
    return rw.expand(rw.Hypothesis(parts, RUNS[name], default="corrupt"))


def holds(text: str, by: int, at: frozenset[str]) -> bool:
    """Whether the words of a side are true for a hop and the groups of a position."""
    def clause(words: str) -> bool:
        found = CLAUSE.fullmatch(words)
        assert found is not None and words, words
        inside, window, outside = found.groups()
        ends = re.fullmatch(r"\[(-?\d*)(:?)(-?\d*)\]", window or "[:]")
        assert ends is not None, window
        low, colon, high = ends.groups()
        near = by == int(low) if not colon else (
            (not low or by >= int(low)) and (not high or by < int(high)))
        return (near and {g[1:] for g in re.findall(PLACE, inside or "")} <= at
                and not {g[1:] for g in re.findall(PLACE, outside or "")} & at)

    return any(map(clause, text.split(" or ")))


def chosen(product: Product, place: Place, by: int, at: frozenset[str]) -> Place:
    """The copy that a mixture is, for a hop and the groups of a position."""
    name, index = place
    while isinstance(copy := product.copies[name][index], Mixed):
        passes = by >= copy.test.offset if copy.test.kind == HOP else copy.test.place in at
        index = copy.yes if passes else copy.no
    return name, index


def agree(product: Product, place: Place, texts: dict[str, Place]) -> None:
    """The words of all sides but the last, which is left over, lead to the right copies."""
    *named, left = texts
    assert left in ("elsewhere", "other hops", "otherwise")
    groups = {c.test.place for c in product.copies[place[0]] if isinstance(c, Mixed)} - {""}
    for by in range(-6, 3):
        for at in (frozenset(some) for n in range(len(groups) + 1)
                   for some in combinations(sorted(groups), n)):
            said = [texts[text] for text in named if holds(text, by, at)]
            assert (said or [texts[left]]) == [chosen(product, place, by, at)], (by, at)


def reachable(exp: rw.Expansion) -> set[Place]:
    seen: set[Place] = set()
    stack = list(zip(exp.product.dag.outputs, exp.product.roots[0], strict=True))
    while stack:
        place = stack.pop()
        if place not in seen:
            seen.add(place)
            stack += exp.product.reads(*place)
    return seen


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("full", [False, True])
def test_every_mixture_is_drawn_and_every_copy_once(
    small: rw.Components, name: str, full: bool
) -> None:
    exp = expansion(small, name)
    sketch, _ = folded(exp, 0, 3, full)
    members = {key(place): place for place in reachable(exp)}
    mixed = {k for k, (n, i) in members.items() if isinstance(exp.product.copies[n][i], Mixed)}
    drawn = [member for item in sketch.items for member in item.members]
    assert mixed and mixed <= set(drawn) <= set(members)
    copies = [member for member in drawn if member not in mixed]
    assert sorted(copies) == sorted(k for k, (n, _) in members.items()
                                    if k not in mixed and n in exp.copies)
    assert all(item.count == len(set(item.members) - mixed) for item in sketch.items)
    picture = Picture(dot_of_expansion(exp, full=full, caption=False))
    picture.check_alive(sketch.outputs)
    assert set(picture.labels) == {item.id for item in sketch.items}
    again = dot_of_expansion(expansion(small, name), full=full, caption=False)
    assert again == dot_of_expansion(exp, full=full, caption=False)


@pytest.mark.parametrize("name", RUNS)
def test_sides_enter_where_they_are_read(small: rw.Components, name: str) -> None:
    exp = expansion(small, name)
    product = exp.product
    served = serves(product, product.roots[0], 3, "corrupt")
    sketch, _ = folded(exp, 0, 3, True)
    picture = Picture(dot_of_expansion(exp, full=True, caption=False))
    boxes = {member: item for item in sketch.items for member in item.members}
    pills = {item.id for item in sketch.items if item.kind == "mixture"}
    outer = {key(place): place for place in served
             if isinstance(product.copies[place[0]][place[1]], Mixed)}
    assert {boxes[place].id for place in outer} == pills
    for name_, place in outer.items():
        item = boxes[name_]
        found = sides(product, place, "corrupt")
        texts = {side.text: side.place for side in found}
        agree(product, place, texts)
        assert [text for text, _ in item.cells] == list(texts)
        into = {head: (writer, color) for writer, reader, head, color in picture.edges
                if reader == item.id}
        assert set(into) == {port(text) for text in texts}
        for text, leaf in texts.items():
            runs = product.copies[leaf[0]][leaf[1]].runs
            writer, color = into[port(text)]
            box = next(i for i in sketch.items if i.id == writer)
            assert set(box.runs) == runs
            assert f"{text} {next(iter(runs)) if len(runs) == 1 else 'mixed'}" \
                in picture.text(item.id)
            if key(leaf) in boxes:
                assert boxes[key(leaf)].id == writer
            elif len(runs) > 1:
                assert writer == key(leaf)  # a sum
            if runs == {"corrupt"}:
                assert color == DEFAULT
            if runs == {"clean"}:
                assert color == OTHERS[0]


def test_a_node_at_a_position(small: rw.Components) -> None:
    picture = Picture(dot_of_expansion(expansion(small, "node")))
    pill = picture.find("@END clean", "elsewhere corrupt")
    clean, rest = picture.find("a1.h2 ■ clean"), picture.find("a1.h2 ■ corrupt")
    assert {(a, head) for a, b, head, _ in picture.edges if b == pill} == {
        (clean, port("@END")), (rest, port("elsewhere"))}
    (reader,) = {b for a, b, *_ in picture.edges if a == pill}
    assert picture.labels[reader] == "+"
    assert "@END → logits" in picture.text(clean)
    assert "elsewhere → m1 → logits" in picture.text(rest)
    assert "asks 1 position (@END) in 1 mixture" in picture.caption
    assert "21 copies, 2 mixed" in picture.caption
    assert "■ clean 156 paths at some positions" in picture.caption


def test_a_source_at_a_position(small: rw.Components) -> None:
    picture = Picture(dot_of_expansion(expansion(small, "source")))
    pill = picture.find("@S2 clean", "elsewhere corrupt")
    assert {picture.text(a).split()[0] for a, b, *_ in picture.edges if b == pill} == {"tokens"}
    assert {picture.text(b).split()[0] for a, b, *_ in picture.edges if a == pill} == {"embed"}
    assert "@S2 → embed → logits" in picture.text(picture.find("tokens ■ clean"))


def test_a_window_on_a_port(small: rw.Components) -> None:
    picture = Picture(dot_of_expansion(expansion(small, "window")))
    pill = picture.find("[-1] clean", "other hops corrupt")
    ends = [(picture.text(b).split()[0], head) for a, b, head, _ in picture.edges if a == pill]
    assert ends == [("a0.h1", "v")]
    assert "asks 1 window ([-1]) in 1 mixture" in picture.caption


def test_an_accumulated_window_asks_less_the_further_it_got(small: rw.Components) -> None:
    exp = expansion(small, "accumulated twice")
    picture = Picture(dot_of_expansion(exp))
    picture.find("[0:] mixed", "[-1] mixed", "[-2] mixed", "[-3] mixed", "other hops corrupt")
    picture.find("[-3:0] clean", "other hops corrupt")
    picture.find("[-2:] clean", "other hops corrupt")


def test_heads_of_a_layer_share_a_mixture(small: rw.Components) -> None:
    picture = Picture(dot_of_expansion(expansion(small, "heads")))
    pill = picture.find("@END mixed", "elsewhere corrupt")
    assert {picture.text(a).split(" ")[0] for a, b, *_ in picture.edges if b == pill} == {"a1.h1–3"}
    assert "→ a1.h3@END.v[-1] → logits" in picture.text(picture.find("a0.h1 ■ clean"))
    assert "asks 1 position (@END) and 1 window ([-1]) in 4 mixtures" in picture.caption


def test_heads_of_many_layers_share_a_mixture(deep: rw.Components) -> None:
    exp = expansion(deep, "all heads")
    picture = Picture(dot_of_expansion(exp))
    assert len(picture.labels) <= 7
    pill = picture.find("144 heads of layers 0–11", "@END clean", "elsewhere corrupt")
    assert len([a for a, b, *_ in picture.edges if b == pill]) == 2
    folds = Picture(dot_of_expansion(expansion(deep, "accumulated twice"), caption=False))
    assert folds.find("layers", "mixed alike, by position", "4 x 12 heads, 4 x MLP")


def test_where_a_copy_is_read_is_told_apart(small: rw.Components) -> None:
    exp = expansion(small, "all heads")
    served = serves(exp.product, exp.product.roots[0], 99)
    for ways in served.values():
        assert len(set(ways.shortest)) == min(ways.count, 99)
    words = {word for ways in served.values() for _, line in ways.shortest for word in line}
    assert {"a1.h3@END.q", "a1.h3(elsewhere).q"} <= words


def test_the_mouse_tells_what_is_mixed(small: rw.Components) -> None:
    text = html.unescape(svg(expansion(small, "heads"), caption=False))
    assert re.search(r'title="resid2#\d+ = \[-1\]: resid2#\d+, other hops: resid2#\d+"', text)
    long = html.unescape(svg(expansion(small, "runs"), caption=False))
    assert "→ a1.h1.v[-2:0] → m1(elsewhere) → logits" in long and "href=" not in long


TESTS = [*(hop(-n) for n in range(4)), *(Condition(THERE, 0, place) for place in "AB")]


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Product, Place]:
    """A value that is mixed of four copies by tests in their order."""
    copies: list[Copy | Mixed] = [Copy("x", i, (), frozenset((run,))) for i, run in
                                  enumerate(("clean", "other", "third", "corrupt"))]

    def tree(tests: list[Condition]) -> int:
        if not tests or draw(st.integers(0, 3)) == 0:
            return draw(st.integers(0, 3))
        test, *later = tests
        if draw(st.booleans()):
            return tree(later)
        yes = tree([t for t in later if t.kind != HOP] if test.kind == HOP else later)
        no = tree(later)
        if yes == no:
            return yes
        copies.append(Mixed("x", len(copies), test, yes, no, copies[yes].runs | copies[no].runs))
        return len(copies) - 1

    top = tree(sorted(TESTS))
    return Product(Dag((Source("x"),), ("x",)), {"x": copies}, ((top,),), 1), ("x", top)


@given(mixtures())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_words_of_sides_mean_what_is_mixed(made: tuple[Product, Place]) -> None:
    product, place = made
    found = sides(product, place, "corrupt")
    if isinstance(product.copies["x"][place[1]], Mixed):
        assert len({side.place for side in found}) == len(found) > 1
        agree(product, place, {side.text: side.place for side in found})
    else:
        assert [side.place for side in found] == [place]
