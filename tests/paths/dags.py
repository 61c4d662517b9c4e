"""Graphs for tests: one shaped like a transformer, and small random ones."""

from __future__ import annotations

from hypothesis import strategies as st

from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source


def part(name: str, reads: str, ports: str = "") -> Part:
    """A part whose ports all read the same node; without ports, its own name is the symbol."""
    return Part(name, tuple(Port(f"{name}.{p}" if p else name, reads) for p in ports or [""]))


def transformer_dag(layers: int, heads: int) -> Dag:
    """A decoder: tokens, embed, a{l}.h{i} with ports q, k, v, m{l}, logits.

    The stream before layer l is `r{l}`, behind its attention `r{l}.mid`.  Heads share their
    key and value in pairs (`a{l}.kv{i}`), and MLPs have a module path as further spelling.
    """
    nodes: list[Node] = [Source("tokens"), part("embed", "tokens"), Constant("pos")]
    nodes.append(Join("r0", ("embed", "pos")))
    spellings: dict[str, tuple[str, ...]] = {}
    for layer in range(layers):
        before, mid = f"r{layer}", f"r{layer}.mid"
        names = [f"a{layer}.h{head}" for head in range(heads)]
        nodes += [part(name, before, "qkv") for name in names]
        nodes.append(Join(mid, (before, *names)))
        nodes.append(part(f"m{layer}", mid))
        nodes.append(Join(f"r{layer + 1}", (mid, f"m{layer}")))
        spellings[f"m{layer}"] = (f"model.layers.{layer}.mlp",)
        for head, name in enumerate(names):
            for port in "kv":
                spellings[f"{name}.{port}"] = (f"a{layer}.kv{head // 2}.{port}",)
    nodes.append(part("logits", f"r{layers}"))
    return Dag(tuple(nodes), ("logits",), spellings)


PARTS = {"embed": "", "a0.h0": "qk", "a0.h1": "qk", "m0": "", "a1.h0": "qk", "m1": "", "logits": ""}


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    """The same parts every time, wired at random through sums, also sums of sums.

    What no path reads, outputs that are read again, and repeated terms occur.
    """
    nodes: list[Node] = [Source("x"), Source("y"), Constant("bias")]
    writers = {"x": {"x"}, "y": {"y"}, "bias": set[str]()}  # per node, what a reading of it adds up

    def reading() -> str:
        if draw(st.booleans()):
            return draw(st.sampled_from(sorted(writers)))
        name, terms, inside = f"sum{len(nodes)}", list[str](), set[str]()
        for term in draw(st.lists(st.sampled_from(sorted(writers)), min_size=1, max_size=4)):
            if term in terms or not writers[term] & inside:  # one route of sums to each writer
                terms.append(term)
                inside |= writers[term]
        nodes.append(Join(name, tuple(terms)))
        writers[name] = inside
        return name

    for name, ports in PARTS.items():
        symbols = [f"{name}.{port}" for port in ports] or [name]
        nodes.append(Part(name, tuple(Port(symbol, reading()) for symbol in symbols)))
        writers[name] = {name}
    outputs = draw(st.sampled_from([("logits",), ("logits", "m1"), ("m0", "logits", "logits")]))
    spellings = {"a0.h1.k": ("a0.kv0.k",), "m0": ("model.layers.0.mlp", "first")}
    return Dag(tuple(nodes), outputs, spellings)
