"""Surgery on pretrained models: short recipes, each checked against hooks by a test.

    python examples/cookbook.py                       all of them
    python examples/cookbook.py previous_token own_rule   some of them

`docs/cookbook.md` shows them with what they print.  Numbers are the logit of " Mary" minus that
of " John" after the sentence below.  The model never changes: every edit gives a new graph.
"""

from __future__ import annotations

import copy
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import rewrite as rw
from rewrite import match, rules
from rewrite.trace import load
from rewrite.trace.packaged import folder

SENTENCE = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Mary and John went to the store, Mary gave a drink to"
TEXTS = (SENTENCE, OTHER, "The capital of France is the city of Paris, on the wide river",
         "After the rain had stopped, the children ran into the garden and played")  # 14 tokens


@cache
def model() -> nn.Module:
    """SmolLM2-135M; its own weights stay as they are, what is put in can be trained."""
    return load("smollm2-135m").requires_grad_(False)


@cache
def graph() -> rw.Graph:
    """The operators: what rules rewrite."""
    return rw.trace(model())


@cache
def heads() -> rw.Graph:
    """The components by name: heads `a23.h3`, MLPs `m5`, the residual stream `resid45`."""
    return graph().components().as_graph()


@cache
def bert() -> rw.Graph:
    """MiniLM-L6, a sentence encoder, by components."""
    return rw.trace("minilm-l6").components().as_graph()


def stream(layer: int) -> str:
    """The operator that writes the residual stream in front of a layer."""
    reads = match.read_by(match.module(f"model.layers.{layer}.input_layernorm"))
    return graph().expect(match.op("add") & match.shape("batch", "seq", 576) & reads, 1)[0]


@cache
def tokenizer(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder(name))


def ids(*texts: str, name: str = "smollm2-135m") -> dict[str, Tensor]:
    """Tokens of texts of one length, as graphs take them."""
    encoded = tokenizer(name)(texts or (SENTENCE,), return_tensors="pt")
    return {"input_ids": encoded["input_ids"]}


MARY, JOHN = 5099, 2322  # tokens " Mary" and " John"


def mary(logits: Tensor) -> float:
    """The logit of Mary minus that of John, after the last token."""
    return (logits[0, -1, MARY] - logits[0, -1, JOHN]).item()


def of(edited: rw.Graph) -> float:
    """The same of a graph on the sentence."""
    with torch.no_grad():
        return mary(edited(**ids()).logits)


# --- recipes ---------------------------------------------------------------------------------


def uniform_pattern() -> rw.Graph:
    """Does it matter where a head looks?  Its pattern becomes uniform over the tokens that it
    may see; it keeps its values, and the other heads of the layer keep everything."""
    opened = graph().rewrite(rules.open_attention, at=match.module("model.layers.23.*"))

    def uniform(pattern: Tensor) -> Tensor:  # [batch, head, query, key]
        flat = torch.ones_like(pattern).tril()
        this = torch.arange(pattern.shape[1])[:, None, None] == 3
        return torch.where(this, flat / flat.sum(-1, keepdim=True), pattern)

    edited = opened.insert(match.op("_safe_softmax"), uniform)
    print(f"uniform pattern in a23.h3: {of(graph()):.2f} -> {of(edited):.2f}")
    return edited


def other_query() -> rw.Graph:
    """When does a head know what to look for?  All positions ask what one token asks; keys,
    values and the other heads stay."""
    for token, at in {"went": 4, "gave": 10, "to": -1}.items():
        def one(x: Tensor, at: int = at) -> Tensor:
            return x[:, at:][:, :1].expand_as(x)

        edited = heads().splice("resid45", "a23.h3", one, "q")
        print(f"a23.h3 with the query of '{token}': {of(heads()):.2f} -> {of(edited):.2f}")
    return edited


@cache
def tuned() -> nn.Module:
    """A second checkpoint: three steps of training towards John."""
    other = copy.deepcopy(model()).requires_grad_(True)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.002)
    for _ in range(3):
        loss = -other(**ids()).logits[0, -1].log_softmax(-1)[JOHN]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return other.requires_grad_(False)


def exchange_mlps() -> rw.Graph:
    """Where does a fine-tuned model differ?  MLPs of one checkpoint are put into the other."""
    other = graph().with_weights(tuned())
    edited = graph().graft(other, match.module("model.layers.*.mlp"))
    print(f"base {of(graph()):.2f}, tuned {of(other):.2f}, base with tuned MLPs {of(edited):.2f}")
    return edited


class LowRank(nn.Module):
    """`x + B A x` with a bottleneck; at first it changes nothing."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


def adapter_at_one_edge() -> tuple[rw.Graph, LowRank]:
    """How much can one edge learn?  Only the queries of one head read through the adapter."""
    torch.manual_seed(0)
    adapter = LowRank(576, rank=2)
    edited = heads().splice("resid45", "a23.h3", adapter, "q", name="adapter")
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.03)
    for _ in range(5):
        logits = edited(**ids()).logits[0, -1]
        optimizer.zero_grad()
        (logits[MARY] - logits[JOHN]).backward()
        optimizer.step()
    count = sum(p.numel() for p in edited.module.parameters() if p.requires_grad)
    print(f"{count} weights at the edge into a23.h3.q: {of(heads()):.2f} -> {of(edited):.2f}")
    return edited, adapter


def frozen_norm() -> dict[str, float]:
    """Who writes the answer?  With the scale of the last norm frozen the logits are linear in
    the residual stream, so the direct effects of all writers add up to the logit difference."""
    scale = graph().get_unique(match.op("rsqrt") & match.module("model.norm"))
    end = graph().find(match.op("add") & match.shape("batch", "seq", 576))[-1]  # of the stream
    tail = graph().freeze(scale.name, ids()).extract([end], graph().nodes[-1])
    writers = match.op("embedding") | match.op("linear") & (
        match.module("model.layers.*.*.o_proj") | match.module("model.layers.*.*.down_proj"))
    written = graph().extract(None, graph().find(writers))(**ids())
    effects = {name: mary(tail(**{end: value})) for name, value in written.items()}
    print(f"{len(effects)} direct effects add up to {sum(effects.values()):.3f}, the model has "
          f"{of(graph()):.3f}; the largest: {max(effects.values()):.2f}")
    return effects


def cut_direct_path() -> rw.Graph:
    """Does a head speak to the logits itself, or through later layers?  The logits get sums of
    their own, and there the head is missing; everything else still reads it."""
    parts = match.kind("head") | match.kind("mlp")
    own = heads().duplicate("resid59", readers="logits", upto=parts)
    edited = own.cut("a23.h3", "a23.out_copy")
    gone = heads().ablate("a23.h3")
    print(f"a23.h3 without its direct path: {of(heads()):.2f} -> {of(edited):.2f}, "
          f"without all its paths: {of(gone):.2f}")
    return edited


def mean_ablation() -> rw.Graph:
    """Is a layer needed for more than its average?  All heads write their mean over some texts."""
    edited = heads().ablate("a23.h*", "mean", inputs=ids(*TEXTS))
    print(f"all heads of a23 at their mean: {of(heads()):.2f} -> {of(edited):.2f}")
    return edited


class Sae(nn.Module):
    """A stand-in for a sparse autoencoder: features are projections on directions [k, d]."""

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)

    def forward(self, x: Tensor, without: int | None = None) -> Tensor:
        features = x @ self.directions.mT
        if without is not None:
            features = features * (torch.arange(len(self.directions)) != without)
        return features @ self.directions


def autoencoder() -> tuple[rw.Graph, rw.Graph, rw.Graph]:
    """Does a feature matter?  The autoencoder is put into the stream together with what it
    misses, so that the model is unchanged until a feature is."""
    at = stream(layer=23)
    seen = graph().extract(None, at)(**ids(*TEXTS)).flatten(0, 1)
    coder = Sae(torch.linalg.svd(seen, full_matrices=False).Vh[:16])
    alone = graph().insert(at, coder, name="sae")
    whole = graph().insert(at, coder, name="sae", error=True)
    without = whole.replace("sae", lambda x: coder(x, without=1))
    print(f"{of(graph()):.2f}; by the autoencoder {of(alone):.2f}; with its error {of(whole):.2f}; "
          f"without feature 1 {of(without):.2f}")
    return alone, whole, without


def ablate_direction() -> rw.Graph:
    """Is a direction used?  The stream is split into its part along it and the rest."""
    unembed = graph().module.get_parameter("lm_head.weight")
    direction = (unembed[MARY] - unembed[JOHN])[None]
    split = graph().rewrite(rules.split_subspace(direction, "name"), at=stream(layer=24))
    whole = split.get(split.trail[0].node)  # the sum of both
    edited = split.cut(whole.args[0].name, whole.name)
    print(f"split {of(split):.2f}, before layer 24 without Mary - John {of(edited):.2f}")
    return edited


def previous_token() -> Tensor:
    """Which heads copy from the token before?  A pattern is split by distance, and the part of
    what each head writes that comes from there is measured."""
    layer = match.module("model.layers.16.*")
    split = graph().rewrite([rules.open_attention, rules.split_mask(1, 1)], at=layer)
    whole = split.get(split.trail[0].node)  # the sum of both
    values = split.extract(None, [whole.args[0].name, whole.name])(**ids())
    near, both = (value[0, :, 1:].norm(dim=-1) for value in values.values())  # [head, query]
    share = (near / both).mean(-1)
    print("a16, from the token before:", ", ".join(f"h{h} {s:.0%}" for h, s in enumerate(share)))
    return share


def patch_one_position() -> rw.Graph:
    """Where is it known who gives?  The stream at one token comes from another sentence."""
    for layer in (15, 25):
        edited = graph().ablate(stream(layer), "resample", at=(slice(None), 9), inputs=ids(OTHER))
        print(f"second John from there, before layer {layer}: "
              f"{of(graph()):.2f} -> {of(edited):.2f}")
    return edited


def own_rule() -> rw.Graph:
    """How is a gate opened?  A rule of your own, proved, then applied everywhere."""
    gates = rw.rule("open_silu", "silu(x) = x * sigmoid(x)", examples="x: b s d")
    print(rw.prove(gates))
    edited = graph().rewrite(gates)
    print(edited.trail[0], f"and {len(edited.trail) - 1} more; {of(edited):.2f}")
    return edited


def fold_gains() -> rw.Graph:
    """Comparing weights across layers?  Gains of norms become part of the weights behind them."""
    folded = graph().rewrite([rules.fold_scale, rules.fold_weights])
    change = (folded(**ids()).logits - graph()(**ids()).logits).abs().max()
    print(f"{folded.trail.counts()}; logits change by {change:.0e} at most")
    return folded


def save_and_load() -> rw.Graph:
    """Passing an edited model on?  A file that is data: reading it runs nothing."""
    texts = ("A cat sits on the mat.", "A kitten rests on a rug.")
    edited = bert().ablate("a5.h3")
    with TemporaryDirectory() as place:
        loaded = rw.load(rw.save(edited, Path(place) / "encoder.graph"))
    for name, encoder in {"as it is": bert(), "a5.h3 ablated, from the file": loaded}.items():
        one, two = (encoder(**ids(t, name="minilm-l6")).last_hidden_state.mean(1) for t in texts)
        print(f"{name}: similarity {torch.cosine_similarity(one, two).item():.4f}")
    return loaded


def difference() -> rw.Diff:
    """What did I change?  As text, and as a picture by `difference().draw("diff.svg", around=0)`;
    here of one layer, which is a graph by itself."""
    layer = heads().extract(["resid45"], "resid47")
    edited = layer.splice("resid45", "a23.h3", torch.zeros_like, "q", "no_query")
    found = rw.diff(layer, edited.insert("m23", LowRank(576, rank=2), name="adapter"))
    print(found)
    return found


def surgery_then_paths() -> rw.Expansion:
    """Which paths matter in an edited model?  What surgery makes can be cut into parts again, and
    they keep their names.  Here the scale of the last norm is frozen: what a head writes to the
    logits directly is then the same whatever else the stream holds."""
    scale = graph().get_unique(match.op("rsqrt") & match.module("model.norm"))
    parts = graph().freeze(scale.name, ids()).components()
    for paths in ("a16 -> logits", "a23.h3", "a23.h3 -> logits"):
        patched = rw.expand(rw.Hypothesis(parts, {"clean": paths}))
        with torch.no_grad():
            found = mary(patched(clean=ids(), corrupt=ids(OTHER)).logits)
            print(f"{paths}: {mary(parts(**ids(OTHER)).logits):.2f} -> {found:.2f}")
    return patched


RECIPES = {
    "A head's pattern made uniform, its values kept": uniform_pattern,
    "One head asks the question of another token": other_query,
    "MLPs exchanged between two checkpoints": exchange_mlps,
    "A trainable adapter at one edge": adapter_at_one_edge,
    "The last norm frozen: direct effects add up": frozen_norm,
    "The direct path of a head cut": cut_direct_path,
    "All heads of a layer at their mean": mean_ablation,
    "A sparse autoencoder in the residual stream": autoencoder,
    "A direction of the residual stream ablated": ablate_direction,
    "Attention split by distance: previous-token heads": previous_token,
    "One position patched from another run": patch_one_position,
    "A rule of your own": own_rule,
    "Gains of norms folded into weights": fold_gains,
    "Surgery, then paths": surgery_then_paths,
    "Saved, loaded, used": save_and_load,
    "What changed, as text and picture": difference,
}

if __name__ == "__main__":
    for title, recipe in RECIPES.items():
        if recipe.__name__ in (sys.argv[1:] or recipe.__name__):
            print(f"\n{title} ({recipe.__name__})")
            recipe()
