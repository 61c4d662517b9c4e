"""The picture of an expansion says what the expansion is."""

from __future__ import annotations

import re

import pytest

import rewrite as rw
from rewrite.draw.assigned import dot_of_expansion, folded
from rewrite.draw.contract import Contraction, key
from rewrite.draw.labels import port
from rewrite.draw.layers import layers
from rewrite.draw.palette import DEFAULT, OTHERS, Palette
from rewrite.draw.serves import serves
from rewrite.draw.sketch import Lane
from rewrite.errors import RewriteError
from rewrite.ir.dag import Part
from tests.draw.reading import Picture

pytestmark = pytest.mark.xdist_group("twelve layers")  # one process makes the deep model

QUERY = "a2.h1 -> a5.h3.q -> ... -> logits"
DEEP = {
    "edge": {"clean": "a2.h1 -> a5.h3.q -> logits"},
    "two": {"clean": f"{QUERY} | a0.h4.v -> a4.h7.k -> a5.h3.v -> logits"},
    "node": {"clean": "a5.h3"},
    "mlps": {"clean": "a2.h1 -> (m*)* -> a9.h9.q -> (m*)* -> logits"},
    "three": {"clean": "a2.h1 -> a5.h3.q", "other": "a2.h1 -> a5.h3.k",
              "third": "m0 -> a5.h3.v -> logits"},
    "source": {"clean": "tokens -> embed -> a5.h3"},
    "heads": {"clean": "a[0-4].h* -> a5.h3.q -> logits"},
    "induction": {"clean": "a[0-4].h* -> a[5-7].h[2-4].k -> ... -> a9.h{6,9}.q -> logits"},
    "no mlp": {"clean": "~(m*)"},
    "alternating": {"clean": "a2.h1 -> (m* -> a*.h*.v)* -> a11.h1.q"},
    "but one": {"clean": "... - (a2.h1 -> a5.h3.q)"},
    "all": {"clean": "..."},
    "nothing": {"clean": "~(...)"},
}


def expansion(parts: rw.Components, runs: dict[str, str]) -> rw.Expansion:
    return rw.expand(rw.Hypothesis(parts, runs, default="corrupt"))


def outputs(exp: rw.Expansion, which: int = 0) -> list[str]:
    return [key(p) for p in zip(exp.product.dag.outputs, exp.product.roots[which], strict=True)]


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("full", [False, True])
def test_every_copy_is_in_one_box_and_no_box_is_dead(
    deep: rw.Components, name: str, full: bool
) -> None:
    exp = expansion(deep, DEEP[name])
    sketch, _ = folded(exp, 0, 3, full)
    members = [member for item in sketch.items for member in item.members]
    copies = [key((n, c.index)) for n in exp.copies for c in exp.product.copies[n]]
    assert not any(item.kind == "mixture" for item in sketch.items)
    assert sorted(members) == sorted(copies) and len(set(copies)) == len(copies)
    assert all(item.count == len(item.members) for item in sketch.items)
    picture = Picture(dot_of_expansion(exp, full=full, caption=False))
    picture.check_alive(outputs(exp))
    assert set(picture.labels) == {item.id for item in sketch.items}
    if not full:
        assert len(picture.labels) <= 40 and len(picture.edges) <= 60


def test_plain_and_mixed_readings_of_one_sum_are_told_apart(sandwich: rw.Components) -> None:
    pattern = "a0.h0 -> ... -> a1.h1.q | a0.h2 -> ... -> a1.h1.k"
    exp = expansion(sandwich, {"clean": pattern})
    Picture(dot_of_expansion(exp)).check_alive(outputs(exp))


@pytest.mark.parametrize("name", DEEP)
def test_a_drawn_sum_adds_up_to_the_value(deep: rw.Components, name: str) -> None:
    exp = expansion(deep, DEEP[name])
    served = serves(exp.product, exp.product.roots[0])
    found = Contraction(exp.product, layers(deep), frozenset(served), "corrupt")
    places = {key(each.place): each.place for each in found.sums}
    base: dict[str, str] = {}
    for each in found.sums:
        if isinstance(each.like, Lane):
            value = dict(found.behind(each.like))
            base[key(each.place)] = each.like.run
        else:
            assert each.like in places
            value = dict(found.terms(places[each.like]))
            base[key(each.place)] = base[each.like]
        value |= dict(each.writes)
        real = found.terms(each.place)
        unseen = {place for place in real.items() if place[0] not in value}
        assert value | dict(unseen) == real
        assert all(found.runs(place) == {base[key(each.place)]} for place in unseen)
        if each.rest:
            assert found.behind(each.rest) <= set(real.items())
    mixed_ports = {place for reader in served if isinstance(exp.product.dag[reader[0]], Part)
                   for place in found.reads(reader) if len(found.runs(place)) > 1}
    assert len(found.sums) <= len(mixed_ports)


def test_the_touched_parts_of_an_edge(deep: rw.Components) -> None:
    exp = expansion(deep, DEEP["edge"])
    picture = Picture(dot_of_expansion(exp, caption=False))
    sender, reader = picture.find("a2.h1"), picture.find("a5.h3", "q mixed")
    assert "■ clean" in picture.text(sender) and "→ a5.h3.q → logits" in picture.text(sender)
    assert "k v corrupt" in picture.text(reader) and "→ logits" in picture.text(reader)
    into = {headport: writer for writer, r, headport, _ in picture.edges if r == reader}
    assert set(into) == {"q", "k_v"}
    assert picture.labels[into["q"]] == "+"
    assert "corrupt" in picture.text(into["k_v"])
    added = {writer for writer, r, *_ in picture.edges if r == into["q"]}
    assert added == {sender, into["k_v"]}
    colors = {(a, b): color for a, b, _, color in picture.edges}
    assert colors[sender, into["q"]] == OTHERS[0] and colors[into["k_v"], reader] == DEFAULT
    drawn = {title for node in picture.labels for title in re.findall(
        r"\b[am]\d+(?:\.h\d+)?\b(?!\.)", picture.text(node))}
    assert drawn == {"a2.h1", "a5.h3"}


def test_layers_mixed_alike_are_one_box(deep: rw.Components) -> None:
    exp = expansion(deep, DEEP["node"])
    picture = Picture(dot_of_expansion(exp))
    box = picture.find("layers 6–11")
    assert "78 parts, each mixed alike" in picture.text(box)
    assert "per layer: 12 heads, MLP" in picture.text(box)
    full = Picture(dot_of_expansion(exp, full=True))
    assert len(full.labels) > 2 * len(picture.labels)
    assert "q k v mixed" in full.text(full.find("a8.h0–11"))
    heads = full.find("a8.h0–11")
    assert any(heads in rank and any(n.startswith("axis") for n in rank) for rank in full.same)
    assert "layer 8" in full.axis


def test_heads_that_read_differently_are_apart(deep: rw.Components) -> None:
    source = dot_of_expansion(expansion(deep, DEEP["induction"]), caption=False)
    picture = Picture(source)
    picture.find("a7.h2–4", "q v mixed", "k mixed")
    picture.find("a7.h0–1,5–11", "q k v mixed")
    assert re.findall(r'label=" ([^"]*) "', source) == ["60 heads of layers 0–4"]


@pytest.mark.parametrize("name", ["edge", "two", "three", "all"])
def test_caption_and_legend(deep: rw.Components, name: str) -> None:
    exp = expansion(deep, DEEP[name])
    picture = Picture(dot_of_expansion(exp))
    cost, counts = exp.cost, exp.hypotheses[0].count()
    mixed = sum(len(c.runs) > 1 for n in exp.copies for c in exp.product.copies[n])
    assert f"{cost.nodes} nodes · {cost.copies} copies, {mixed} mixed · {cost.calls} calls" \
        in picture.caption
    assert f"{cost.forwards:.2f} forward passes" in picture.caption
    assert exp.parts.graph.certificate is not None
    assert exp.parts.graph.certificate.agreement in picture.caption
    palette = Palette(exp.hypotheses[0].run_names)
    for run, n in counts.items():
        said = f"{n:,}" if n < 1_000_000 else f"{n:.1e}"
        assert re.search(rf"■ {run} {re.escape(said)} path", picture.caption)
        assert palette.color(run) in picture.raw_caption
    for run, paths in DEEP[name].items():
        assert f"{run}: {paths}" in picture.caption
    assert len(set(map(palette.color, counts))) == len(counts)
    assert not Picture(dot_of_expansion(exp, caption=False)).caption


def test_colours_are_the_runs(deep: rw.Components) -> None:
    exp = expansion(deep, DEEP["three"])
    sketch, _ = folded(exp, 0, 3, False)
    palette, picture = Palette(sketch.runs), Picture(dot_of_expansion(exp))
    for item in sketch.items:
        label = picture.labels[item.id]
        if item.kind == "sum":
            continue
        if len(item.runs) == 1:
            assert palette.tint(item.runs[0]) in label and f"■ {item.runs[0]}" \
                in picture.text(item.id)
        else:
            bars = re.findall(r'width="7" bgcolor="(#\w+)"', label)
            assert bars == [palette.color(run) for run in palette.ordered(item.runs)]
            for name, runs in item.cells:
                said = runs[0] if len(runs) == 1 else "mixed"
                assert f"{name} {said}" in picture.text(item.id)
                assert f'port="{port(name)}"' in label


def test_labels_are_the_paths_that_a_copy_serves(small: rw.Components) -> None:
    exp = expansion(small, {"clean": "a0.h1 -> ... -> a1.h2.q | m0 -> logits"})
    product, dag = exp.product, exp.product.dag
    served = serves(product, product.roots[0], 3)

    ways: dict[tuple[str, int], list[tuple[str, ...]]] = {}

    def walk(name: str, index: int, behind: tuple[str, ...]) -> None:
        ways.setdefault((name, index), []).append(behind)
        node, copy = dag[name], product.copies[name][index]
        for at, (read, which) in enumerate(zip(node.reads, copy.reads, strict=True)):
            words = (node.ports[at].symbol, *behind) if isinstance(node, Part) else behind
            walk(read, which, words)

    walk("logits", product.roots[0][0], ())
    assert set(ways) == set(served)
    for place, expected in ways.items():
        assert served[place].count == len(expected) == len(set(expected))
        shortest = [way.words for way in served[place].shortest]
        assert not any(where for where, _ in served[place].shortest)
        assert len(shortest) == min(3, len(expected)) and set(shortest) <= set(expected)
        assert sorted(map(len, shortest)) == sorted(map(len, expected))[: len(shortest)]
    picture = Picture(dot_of_expansion(exp))
    text = picture.text(picture.find("a0.h1", "■ clean"))
    total = len(ways["a0.h1", next(c.index for c in product.copies["a0.h1"]
                                   if c.runs == {"clean"})])
    assert text.count("→ a1.h2.q") + text.count("→ m0 →") >= 1
    shown = len(re.findall(r"→ logits", text))
    assert shown == min(3, total) and (total <= 3 or f"+{total - shown} more" in text)
    assert "→" not in dot_of_expansion(exp, labels=0)


def test_norms_that_write_to_the_stream(post_norm: rw.Components) -> None:
    exp = expansion(post_norm, {"clean": "a0.h1"})
    picture = Picture(dot_of_expansion(exp))
    picture.check_alive(outputs(exp))
    for norm in ("n0.a", "n0.m", "n1.a"):
        assert sum(picture.text(n).startswith(f"{norm} →") for n in picture.labels) == 1


def test_one_of_several_hypotheses(small: rw.Components) -> None:
    both = [rw.Hypothesis(small, {"clean": p}, default="corrupt", name=n)
            for n, p in (("first", "a0.h1 -> a1.h0.k"), ("second", "m0 -> logits"))]
    exp = rw.expand(both)
    first, second = (Picture(dot_of_expansion(exp, hypothesis=i)) for i in (0, 1))
    assert "first:" in first.caption and "second:" in second.caption
    assert "2 hypotheses, number 1 drawn" in second.caption
    first.find("a1.h0", "k mixed")
    second.check_alive(outputs(exp, 1))
    assert not any("a1.h0" in second.text(n) for n in second.labels)
    with pytest.raises(RewriteError, match=r"no hypothesis 2: the expansion has 2"):
        dot_of_expansion(exp, hypothesis=2)


@pytest.mark.parametrize("name", ["two", "three", "induction"])
def test_the_same_text_every_time(deep: rw.Components, name: str) -> None:
    texts = {dot_of_expansion(expansion(deep, DEEP[name])) for _ in range(2)}
    assert len(texts) == 1
