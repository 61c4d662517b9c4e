"""What a `Graph` can be asked about its nodes, and how it is edited: the methods alone.

They are a class of their own so that `Graph` stays readable; the work is done elsewhere.
"""
# pyright: reportGeneralTypeIssues=false
# (only `Graph` inherits from them, so `self` is always a `Graph`)

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.ir.selection import Match
from rewrite.turn import alone

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph


@alone
class Selecting:
    """Questions about nodes.  A text in place of a matcher is a name or a glob of names."""

    def get(self: Graph, name: str | fx.Node) -> fx.Node:
        """The node called `name`; an unknown name is an error with near misses."""
        from rewrite.ir import find

        return find.get(self.module.graph, name)

    def find(self: Graph, what: Match | str) -> tuple[str, ...]:
        """Names of the nodes that a matcher of `rw.match` selects, in the order of the graph.

        >>> parts.graph.find("addmm_[12]")
        ('addmm_1', 'addmm_2')
        """
        from rewrite.ir import find

        return find.find(self, what)

    def count(self: Graph, what: Match | str) -> int:
        """How many nodes are selected.

        >>> parts.as_graph().count("a1.h*")
        4
        """
        return len(self.find(what))

    def expect(self: Graph, what: Match | str, n: int | None = None) -> tuple[str, ...]:
        """The same as `find`, if it finds exactly `n` nodes (by default at least one).

        Raises `MatchError` that lists what was found, or near misses if that is nothing.

        >>> parts.as_graph().expect("a7.h*", 4)
        Traceback (most recent call last):
        ...
        rewrite.errors.MatchError: GPT2LMHeadModel: name('a7.h*') selects 0 nodes, 4 expected; \
did you mean a1.h3, a1.h2, a1.h1, a1.h0, a0.h3?
        """
        from rewrite.ir import find

        return find.expect(self, what, n)

    def get_unique(self: Graph, what: Match | str) -> fx.Node:
        """The only node that is selected.  Raises `MatchError` if there are more or none."""
        return self.get(self.expect(what, 1)[0])

    def ancestors(self: Graph, name: str | fx.Node) -> tuple[str, ...]:
        """Nodes that `name` depends on, inputs and weights included."""
        from rewrite.ir import find

        return find.relatives(self, name, before=True)

    def descendants(self: Graph, name: str | fx.Node) -> tuple[str, ...]:
        """Nodes that depend on `name`."""
        from rewrite.ir import find

        return find.relatives(self, name, before=False)

    def paths_between(
        self: Graph, start: str | fx.Node, end: str | fx.Node, limit: int = 1000
    ) -> list[tuple[str, ...]]:
        """Up to `limit` paths of node names from `start` to `end`."""
        from rewrite.ir import find

        return find.paths_between(self.module.graph, start, end, limit)


@alone
class Editing:
    """Edits.  Each returns a new graph over the same parameters; this one stays as it is.

    They raise `UnknownName` for nodes that are not there, and `SurgeryError` for what would
    not run: a cycle, a value of another shape or type, an input or output taken out.
    """

    def replace(self: Graph, name: str | Match, by: Callable[..., Any] | Tensor) -> Graph:
        """Node `name` is computed by `by` from the same operands, or is the given tensor.

        It keeps its name.  A tensor is broadcast to the node's shape.

        >>> tanh = parts.as_graph().replace("m1", torch.tanh)
        >>> tanh.get("m1").op
        'call_function'
        """
        from rewrite.ir import surgery

        return surgery.replace(self, name, by)

    def insert(
        self: Graph, after: str | Match, function: Callable[[Tensor], Tensor],
        name: str | None = None, error: bool = False,
    ) -> Graph:
        """All readers of `after` read `function(after)` instead.

        `function` may be a module (a probe, a sparse autoencoder), called `name` if given.
        With `error`, readers read `f(x) + (x - f(x))`, which is `x` to rounding: the second
        term stays as it is when the first one is edited.

        >>> half = parts.as_graph().insert("a1.h2", lambda value: value / 2, name="half")
        >>> [node.name for node in half.get("half").users]
        ['a1_out']
        """
        from rewrite.ir import surgery

        return surgery.insert(self, after, function, name, error)

    def delete(self: Graph, name: str | Match) -> Graph:
        """Without node `name`: its readers read its first operand, of the same shape, instead."""
        from rewrite.ir import surgery

        return surgery.delete(self, name)

    def rewire(
        self: Graph, reader: str, old: str, new: str | Tensor | float,
        operand: int | str | None = None,
    ) -> Graph:
        """`reader` reads `new` where it reads `old`: another node, or a constant.

        With `operand`, only at that position, or by that port of a head: "q", "k" or "v".

        >>> early = parts.as_graph().rewire("a1.h2", "resid2", "resid0", operand="k")
        >>> [node.name for node in early.get("a1.h2").args[:3]]  # k, q, v
        ['resid0', 'resid2', 'resid2']
        """
        from rewrite.ir import surgery

        return surgery.rewire(self, reader, old, new, operand)

    def cut(
        self: Graph, writer: str, reader: str,
        operand: int | str | None = None,
    ) -> Graph:
        """The edge is gone: `reader` reads zeros where it reads `writer`.

        >>> parts.as_graph().cut("a1.h2", "a1.out").find("a1_h2")
        ()
        """
        from rewrite.ir import surgery

        return surgery.cut(self, writer, reader, operand)

    def splice(
        self: Graph, writer: str, reader: str,
        function: Callable[[Tensor], Tensor],
        operand: int | str | None = None, name: str | None = None,
    ) -> Graph:
        """`reader` reads `function(writer)` where it reads `writer`; others read on as before.

        >>> adapter = torch.nn.Linear(32, 32)
        >>> spliced = parts.as_graph().splice("resid2", "a1.h2", adapter, operand="q", name="lora")
        >>> [node.name for node in spliced.get("lora").users]
        ['a1_h2']
        """
        from rewrite.ir import surgery

        return surgery.splice(self, writer, reader, function, operand, name)

    def duplicate(
        self: Graph, name: str, readers: str | Match | Iterable[str],
        upto: str | Match | None = None,
    ) -> Graph:
        """`readers` read a copy of `name` of their own, called `name_copy`.

        With `upto`, all that leads from there to `name` is copied too.

        >>> two = parts.as_graph().duplicate("resid2", readers="a1.h0", upto="resid1")
        >>> [name for name in two.nodes if "copy" in name]
        ['m0_copy', 'resid2_copy']
        """
        from rewrite.ir import surgery

        return surgery.duplicate(self, name, readers, upto)

    def freeze(
        self: Graph, name: str | Match, value: Tensor | float | Mapping[str, Tensor]
    ) -> Graph:
        """`name` is a constant: a tensor, a number, or what it is on given inputs.

        If the tensor has a batch or a length, the graph takes inputs of that size only.

        >>> inputs = {"input_ids": torch.ones(2, 7, dtype=torch.int64)}
        >>> parts.as_graph().freeze("m0", inputs).guards
        ('input_ids.shape[1] <= 64', 'input_ids.shape[0] == 2', 'input_ids.shape[1] == 7')
        """
        from rewrite.ir import surgery

        return surgery.freeze(self, name, value)

    def ablate(
        self: Graph, name: str | Match, how: str | Tensor | float = "zero", *,
        at: Any = None,
        inputs: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | None = None,
        std: float = 1.0, seed: int = 0,
    ) -> Graph:
        """What `name` writes is exchanged, for all that read it.

        `how` is "zero"; "mean" or "position_mean" over `inputs` (a dict of tensors, or several),
        where tokens that these tell to be padding do not count; "resample", the same node in
        other rows of the batch, or in the run on `inputs`; "noise", added with deviation `std`;
        or a tensor or number.  Orders and noise depend on `seed` and the index alone.  `at` is an
        index of what is exchanged: `(..., slice(0, 8))`, or `(slice(None), -1)` for the last
        position.  Values of other runs are those of this graph.

        >>> last = parts.as_graph().ablate("a1.h*", "noise", at=(slice(None), -1), std=0.1)
        >>> len([node for node in last.nodes if node.startswith("noised")])
        4
        """
        from rewrite.ir.ablate import ablate

        return ablate(self, name, how, at=at, inputs=inputs, std=std, seed=seed)

    def substitute(
        self: Graph, path: str, by: torch.nn.Module, reads: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Graph:
        """A module of the model is replaced by another one.

        It is called with what the old one read that depends on the inputs, or with the nodes
        `reads`, and takes the place of its path, or is called `name`.

        >>> small = parts.graph.substitute("transformer.h.1.mlp", torch.nn.Linear(32, 32))
        >>> small.count(rw.ir.match.module("transformer.h.1.mlp"))
        1
        """
        from rewrite.ir import regions

        return regions.substitute(self, path, by, reads, name)

    def graft(
        self: Graph, other: Graph, what: str | Match, names: Mapping[str, str] | None = None
    ) -> Graph:
        """Nodes of another graph, with their weights, take the place of those of the same name.

        What they read is read from the nodes of the same name here.  `names` maps names of the
        other graph to those of this one where they differ.

        >>> grafted = parts.graph.graft(parts.graph, rw.ir.match.module("transformer.h.1.mlp"))
        >>> grafted.nodes == parts.graph.nodes
        True
        """
        from rewrite.ir import regions

        return regions.graft(self, other, what, names)

    def inline(self: Graph, name: str | Match) -> Graph:
        """A body that is called becomes its operators, which are called `name_...`.

        >>> parts.as_graph().inline("m0").get("m0_tanh").target
        <OpOverload(op='aten.tanh', overload='default')>
        """
        from rewrite.ir import regions

        return regions.inline(self, name)

    def extract(
        self: Graph, inputs: str | fx.Node | Sequence[str | fx.Node] | None,
        outputs: str | fx.Node | Sequence[str | fx.Node],
    ) -> Graph:
        """The part that leads from the nodes `inputs` (None: the inputs) to `outputs`.

        It returns a tensor if `outputs` is one name, else a dict of tensors.  Inputs of the
        whole graph that are needed beside the given ones stay inputs.

        >>> mlp = parts.as_graph().extract(["resid1"], "m0")
        >>> mlp(resid1=torch.ones(1, 3, 32)).shape
        torch.Size([1, 3, 32])
        """
        from rewrite.ir import regions

        return regions.extract(self, inputs, outputs)

    def as_module(self: Graph) -> torch.nn.Module:
        """An ordinary module: the model's inputs by name, its outputs, its names of parameters.

        >>> module = parts.graph.as_module()
        >>> module(input_ids=torch.ones(1, 3, dtype=torch.int64)).logits.shape
        torch.Size([1, 3, 97])
        >>> "transformer.ln_f.weight" in module.state_dict()
        True
        """
        from rewrite.ir.export import GraphModel

        return GraphModel(self)
