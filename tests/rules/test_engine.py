"""The driver: fixpoints, where rules are applied, what is recorded, and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import ArgumentError, MatchError, RuleError, UnknownName
from rewrite.ir import match as m
from rewrite.ir.ops import total
from rewrite.rules import (
    SIMPLIFY,
    Miss,
    Site,
    distribute,
    flatten,
    open_attention,
    push_down_slice,
    rule,
    rule_on,
    split_heads,
    split_norm,
)
from tests.zoo import FAMILIES, tokens, traced

aten = torch.ops.aten


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x + y))) + x * 1


def small() -> rw.Graph:
    return rw.trace(Small().eval(), {"x": torch.ones(3, 5, 4), "y": torch.ones(3, 5, 4)})


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"x": torch.randn(2, 7, 4), "y": torch.randn(2, 7, 4)}


def test_the_original_is_untouched_and_shares_its_weights() -> None:
    graph = small()
    before = graph.code
    after = graph.rewrite([distribute, *SIMPLIFY])
    assert graph.code == before and graph.trail is None and graph.certificate is not None
    assert after.code != before and after.certificate is None
    assert after.module.get_parameter("up.weight") is graph.module.get_parameter("up.weight")
    assert torch.allclose(after(**inputs()), graph(**inputs()), atol=1e-6)


def test_what_changes_nothing_keeps_the_certificate() -> None:
    graph = small()
    same = graph.rewrite(open_attention)
    assert same.code == graph.code and same.certificate == graph.certificate
    assert str(same.trail) == "no rule fired" and not same.trail


@pytest.mark.parametrize("family", FAMILIES)
def test_many_rules_on_models(family: str) -> None:
    """Attention opened, heads apart, norms split, all simplified, at other sizes than traced."""
    graph = traced(family, torch.float64).graph
    after = graph.rewrite([open_attention, split_heads, push_down_slice, split_norm, *SIMPLIFY])
    given = {s.name: tokens(2, 7, 3) if s.name == "input_ids" else torch.ones(2, 7).long()
             for s in graph.inputs}
    given |= {name: torch.zeros(2, 7).long() for name in given if name == "token_type_ids"}
    found, wanted = after.flat(**given)[0], graph.flat(**given)[0]
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)
    counts = after.trail.counts()
    assert counts["open_attention"] == 2 and counts["split_heads"] == 2
    heads = [n for n in after.module.graph.nodes if n.target is total]
    assert [len(n.args) for n in heads] == [4, 4]
    assert not [n for n in after.module.graph.nodes
                if n.target is aten.scaled_dot_product_attention.default]


def test_at_a_name_a_glob_a_matcher_a_function() -> None:
    graph = traced("gpt2").graph
    first = graph.find(m.op("scaled_dot_product_attention"))[0]
    for at in (first, m.op("scaled_dot_product_attention") & m.module("*.h.0.*"),
               lambda node: node.name == first):
        assert [s.node for s in graph.rewrite(open_attention, at).trail] == [first]
    assert len(graph.rewrite(open_attention, "scaled_dot*").trail) == 2
    with pytest.raises(MatchError, match=r"nothing_like_it.*selects 0 nodes"):
        graph.rewrite(open_attention, "nothing_like_it")


def test_rules_at_a_place_go_on_with_what_they_make() -> None:
    twice = rule("twice", "gelu(x) = gelu(x) * 1 + 0", once=True)
    after = small().rewrite([twice, *SIMPLIFY], "gelu")
    assert [s.rule for s in after.trail] == ["twice", "mul_one", "add_zero"]
    assert len(after.nodes) == len(small().nodes)
    assert torch.equal(after(**inputs()), small()(**inputs()))


def test_the_trail_tells_and_walks() -> None:
    graph = small()
    after = graph.rewrite([distribute, *SIMPLIFY])
    trail = after.trail
    assert [s.rule for s in trail] == ["distribute", "mul_one"]
    step = trail[0]
    assert step.node == "linear" and step.equation == distribute.equation
    assert step.before == "linear((x + y), up.weight, up.bias)"
    assert step.after == "(linear(x, up.weight, up.bias) + linear(y, up.weight))"
    assert set(step.removed) == {"add", "linear"} and "linear" in step.made
    walked = list(trail.graphs())
    assert walked[0].code == graph.code and walked[-1].code == after.code
    assert len({g.code for g in walked}) == 3
    for each in walked:
        assert torch.allclose(each(**inputs()), graph(**inputs()), atol=1e-6)
    assert list(trail.table()["rule"]) == ["distribute", "mul_one"]
    assert "distribute" in str(trail) and "<table" in trail._repr_html_()
    with pytest.raises(RuleError, match="the trail has 2 steps, asked for 3"):
        trail.graph(3)


def test_provenance() -> None:
    after = small().rewrite(distribute)
    made = {n.name: n.meta["provenance"] for n in after.module.graph.nodes
            if "provenance" in n.meta}
    assert made == dict.fromkeys(after.trail[0].made, (("distribute", "linear"),))
    assert after.get("linear").target is aten.add.Tensor  # the value keeps its name
    assert after.get("linear").meta["module"] == "up"


def test_rules_apply_in_the_order_given() -> None:
    add, other = (rule(n, f"gelu(x) = gelu(x) + {v} - {v}", once=True) for n, v in
                  (("one", 1), ("two", 2)))
    assert small().rewrite([add, other]).trail[0].rule == "one"
    assert small().rewrite([other, add]).trail[0].rule == "two"


def test_variadic_sums() -> None:
    pick = rule("pick", "total(*a, gelu(x), *c) = total(*a, *c, gelu(x))", once=True)

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return total(x, torch.nn.functional.gelu(y), x * y)

    graph = rw.trace(Sum().eval(), {"x": torch.ones(3, 5), "y": torch.ones(3, 5)}).rewrite(
        rule("sums", "a + c = total(a, c)")).rewrite(flatten)
    node = next(n for n in graph.module.graph.nodes if n.target is total)
    assert len(node.args) == 3
    moved = next(n for n in graph.rewrite(pick).module.graph.nodes if n.target is total)
    assert [o.name for o in moved.all_input_nodes][-1].startswith("gelu")
    assert [o.name for o in node.all_input_nodes][-1] == "mul"


def test_a_rule_of_ones_own_in_three_lines() -> None:
    tanh = rule("tanh", "sigmoid(x) = 0.5 * tanh(0.5 * x) + 0.5", examples="x: b s")

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x) * x

    graph = rw.trace(Gate().eval(), {"x": torch.ones(3, 5)})
    x = torch.randn(2, 5)
    assert torch.allclose(graph.rewrite(tanh)(x=x), torch.sigmoid(x) * x, atol=1e-6)


# bad rules and bad input


def test_a_loop_is_an_error_that_names_rule_and_node() -> None:
    there, back = rule("there", "gelu(x) = gelu(x) * 1"), rule("back", "x * 1 = x")
    with pytest.raises(RuleError, match=r"(there|back) rewrites 'gelu.*', which 20 steps.*once="):
        small().rewrite([there, back], limit=20)
    with pytest.raises(RuleError, match="grows rewrites"):
        small().rewrite(rule("grows", "gelu(x) = gelu(x) + 0"), limit=20)


def test_another_shape_or_type() -> None:
    with pytest.raises(RuleError, match=r"shrinks replaces 'gelu' \(float32 \[batch, seq, 6\]\) "
                       r"by sum.*float32 \[batch, seq\].*guard"):
        small().rewrite(rule("shrinks", "gelu(x) = sum(x, [-1])"))
    with pytest.raises(RuleError, match=r"\(float64 .*cast"):
        small().rewrite(rule("casts", "gelu(x) = cast(gelu(x), float64)"))


def test_a_right_side_that_cannot_run() -> None:
    with pytest.raises(RuleError, match=r"wrong at 'linear' writes aten.linear.default on "
                       r"\(up_weight: float32 \[6, 4\], add: float32 \[batch, seq, 4\], .*"
                       r"which fails: (?!.*s\d)"):
        small().rewrite(rule("wrong", "linear(x, W, c) = linear(W, x, c)"))


@pytest.mark.parametrize(("equation", "said"), [
    ("gelu(x)", "written 'pattern = replacement'"),
    ("x = x + 0", "left side must be an operator"),
    ("gelu(x) = y", "'y' stands on the right of .* only; did you mean x|known names: x"),
    ("gellu(x) = x", "no operator 'gellu'; did you mean gelu"),
    ("gelu(x = x", "written like linear"),
    ("gelu(x) = x if x else x", "is no term"),
    ("total(*a) = a", r"'a' holds several operands: write \*a"),
])
def test_equations_that_cannot_be_read(equation: str, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        rule("bad", equation)


def test_what_is_no_rule() -> None:
    with pytest.raises(ArgumentError, match=r"rules\[0\] must be a Rule, found the text 'x \+ 0"):
        small().rewrite(["x + 0 = x"])
    with pytest.raises(RuleError, match="needs an equation"):
        rule("empty")


def test_why_a_rule_does_not_apply() -> None:
    graph = small()
    assert distribute.why_not(graph, "linear") == ""
    assert "looks at" in distribute.why_not(graph, "gelu")
    assert "does not fit" in distribute.why_not(graph, "linear_1")
    with pytest.raises(UnknownName, match="did you mean linear"):
        distribute.why_not(graph, "linearr")

    @rule_on(aten.gelu.default, name="never", equation="gelu(x) = gelu(x)")
    def never(site: Site) -> Miss:
        return Miss("because")

    assert never.why_not(graph, "gelu") == "because"
    assert not graph.rewrite(never).trail


def test_examples_that_cannot_be_read() -> None:
    with pytest.raises(RuleError, match="needs the shape of 'y'"):
        rule("r", "gelu(x) = x", examples="gelu(x) + y | x: b s").examples[0].graph()
    with pytest.raises(RuleError, match="shapes are written like"):
        rule("r", "gelu(x) = x", examples="b s d").examples[0].graph()
    with pytest.raises(RuleError, match="a size is a product"):
        rule("r", "gelu(x) = x", examples="x: b s-").examples[0].graph()


def test_numbers_and_truth_values_differ() -> None:
    one = rule("one", "softmax(x, 1) = softmax(x, -1)")
    graph = rw.trace(nn.Softmax(1).eval(), {"input": torch.ones(3, 5)})
    assert len(graph.rewrite(one).trail) == 1
    assert not graph.rewrite(rule("true", "softmax(x, True) = softmax(x, -1)")).trail
