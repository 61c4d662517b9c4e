"""The recipes run, and agree with hooks on the model; the page shows them as they are."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.trace import load
from tests.pretrained import pretrained

ROOT = Path(__file__).parents[1]
Change = Callable[[Tensor], Tensor]
H3 = (..., slice(192, 256))  # of nine heads of 64 features


def _cookbook() -> Any:
    spec = importlib.util.spec_from_file_location("cookbook", ROOT / "examples" / "cookbook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cookbook = _cookbook()
cookbook.model = lambda: pretrained("smollm2-135m").model  # traced once for all tests
cookbook.graph = lambda: pretrained("smollm2-135m").graph
cookbook.heads = cache(lambda: pretrained("smollm2-135m").parts.as_graph())
cookbook.bert = cache(lambda: pretrained("minilm-l6").parts.as_graph())
pytestmark = pytest.mark.xdist_group("pretrained")


@cache
def made(recipe: str) -> Any:
    """What a recipe returns; each runs once."""
    return getattr(cookbook, recipe)()


@contextmanager
def changed(
    model: nn.Module, outputs: Mapping[str, Change] | None = None,
    inputs: Mapping[str, Change] | None = None,
) -> Iterator[nn.Module]:
    """A model in which modules write, or read, something else."""
    def written(change: Change) -> Any:
        return lambda module, args, out: change(out)

    def read(change: Change) -> Any:
        return lambda module, args: (change(args[0]), *args[1:])

    handles = [model.get_submodule(p).register_forward_hook(written(f))
               for p, f in (outputs or {}).items()]
    handles += [model.get_submodule(p).register_forward_pre_hook(read(f))
                for p, f in (inputs or {}).items()]
    yield model
    for handle in handles:
        handle.remove()


def hooked(outputs: Mapping[str, Change] | None = None,
           inputs: Mapping[str, Change] | None = None, model: nn.Module | None = None) -> Tensor:
    with torch.no_grad(), changed(model or cookbook.model(), outputs, inputs) as other:
        return other(**cookbook.ids()).logits


def seen(path: str, texts: tuple[str, ...] = (), reads: bool = False) -> Tensor:
    """What a module writes, or reads."""
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.no_grad(), changed(cookbook.model(), *(({}, {path: keep}) if reads else
                                                      ({path: keep},))) as model:
        model(**cookbook.ids(*texts))
    return kept[0]


def put(x: Tensor, index: Any, value: Tensor) -> Tensor:
    x = x.clone()
    x[index] = value
    return x


def same(edited: rw.Graph, wanted: Tensor) -> None:
    found = edited(**cookbook.ids()).logits
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def other(wanted: Tensor) -> None:
    """What was done has an effect."""
    assert (wanted - hooked()).abs().max() > 1e-2 * wanted.abs().max()


LAYER = "model.layers.23"


@pytest.mark.slow
def test_uniform_pattern() -> None:
    values = seen(f"{LAYER}.self_attn.v_proj")[..., 64:128]  # of the second key head
    mean = values.cumsum(1) / torch.arange(1, values.shape[1] + 1)[:, None]
    wanted = hooked(inputs={f"{LAYER}.self_attn.o_proj": lambda z: put(z, H3, mean)})
    other(wanted)
    same(made("uniform_pattern"), wanted)


@pytest.mark.slow
def test_other_query() -> None:
    wanted = hooked({f"{LAYER}.self_attn.q_proj": lambda q: put(q, H3, q[:, -1:][H3])})
    other(wanted)
    same(made("other_query"), wanted)


@pytest.mark.slow
def test_exchange_mlps() -> None:
    tuned, before = cookbook.tuned(), hooked()
    state = {name: value for name, value in tuned.state_dict().items() if ".mlp." in name}
    mine = {name: value.clone() for name, value in cookbook.model().state_dict().items()
            if name in state}
    edited = made("exchange_mlps")
    cookbook.model().load_state_dict(state, strict=False)
    wanted = hooked()
    cookbook.model().load_state_dict(mine, strict=False)
    other(wanted)
    same(edited, wanted)
    assert torch.equal(hooked(), before)


@pytest.mark.slow
def test_adapter_at_one_edge() -> None:
    edited, adapter = made("adapter_at_one_edge")
    trained = {name for name, p in edited.module.named_parameters() if p.requires_grad}
    assert trained == {"adapter.down.weight", "adapter.up.weight"}
    assert all(p.grad is None for p in cookbook.model().parameters())
    attention = cookbook.model().get_submodule(f"{LAYER}.self_attn")
    norm = cookbook.model().get_submodule(f"{LAYER}.input_layernorm")

    stream = seen(f"{LAYER}.input_layernorm", reads=True)
    with torch.no_grad():
        query = norm(adapter(stream)) @ attention.q_proj.weight[192:256].T
    wanted = hooked({f"{LAYER}.self_attn.q_proj": lambda q: put(q, H3, query)})
    other(wanted)
    same(edited, wanted)


@pytest.mark.slow
def test_frozen_norm() -> None:
    model, effects = cookbook.model(), made("frozen_norm")
    paths = ["model.embed_tokens", *(f"model.layers.{i}.{part}" for i in range(30)
                                     for part in ("self_attn.o_proj", "mlp.down_proj"))]
    stream = seen("model.norm", reads=True)[0, -1]
    gain = model.get_submodule("model.norm").weight * (stream.pow(2).mean() + 1e-5).rsqrt()
    unembed = model.get_parameter("lm_head.weight")
    direction = (unembed[cookbook.MARY] - unembed[cookbook.JOHN]) * gain
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Change:
        return lambda x: kept.setdefault(path, x)

    hooked({path: keep(path) for path in paths})
    wanted = [float(kept[path][0, -1] @ direction) for path in paths]
    assert list(effects.values()) == pytest.approx(wanted, abs=1e-4)
    assert sum(wanted) == pytest.approx(cookbook.mary(hooked()), abs=1e-3)


@pytest.mark.slow
def test_cut_direct_path() -> None:
    z = seen(f"{LAYER}.self_attn.o_proj", reads=True)[H3]
    head = z @ cookbook.model().get_parameter(f"{LAYER}.self_attn.o_proj.weight")[H3].T
    wanted = hooked(inputs={"model.norm": lambda x: x - head})
    other(wanted)
    same(made("cut_direct_path"), wanted)


@pytest.mark.slow
def test_mean_ablation() -> None:
    mean = seen(f"{LAYER}.self_attn.o_proj", cookbook.TEXTS).mean((0, 1))
    wanted = hooked({f"{LAYER}.self_attn.o_proj": lambda x: mean.expand(x.shape)})
    other(wanted)
    same(made("mean_ablation"), wanted)


@pytest.mark.slow
def test_autoencoder() -> None:
    alone, whole, without = made("autoencoder")
    coder = alone.module.get_submodule("sae")
    wanted = hooked(inputs={LAYER: coder})
    other(wanted)
    same(alone, wanted)
    same(whole, hooked())
    wanted = hooked(inputs={LAYER: lambda x: x + coder(x, without=1) - coder(x)})
    other(wanted)
    same(without, wanted)


@pytest.mark.slow
def test_ablate_direction() -> None:
    unembed = cookbook.model().get_parameter("lm_head.weight")
    unit = nn.functional.normalize(unembed[cookbook.MARY] - unembed[cookbook.JOHN], dim=0)
    wanted = hooked(inputs={"model.layers.24": lambda x: x - (x @ unit)[..., None] * unit})
    other(wanted)
    same(made("ablate_direction"), wanted)


@pytest.mark.slow
def test_previous_token() -> None:
    model = cookbook.model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = model(**cookbook.ids(), output_attentions=True).attentions[16][0]
    model.set_attn_implementation("sdpa")
    values = seen("model.layers.16.self_attn.v_proj")[0].unflatten(-1, (3, 64)).transpose(0, 1)
    values = values.repeat_interleave(3, 0)  # [head, key, feature]
    before = pattern.diagonal(-1, 1, 2)[..., None] * values[:, :-1]
    share = before.norm(dim=-1) / (pattern @ values)[:, 1:].norm(dim=-1)
    assert torch.allclose(made("previous_token"), share.mean(-1), atol=1e-4)
    assert share.mean(-1).argmax() == 0 and share.mean(-1)[0] > 0.9


@pytest.mark.slow
def test_patch_one_position() -> None:
    theirs = seen("model.layers.25.input_layernorm", (cookbook.OTHER,), reads=True)
    wanted = hooked(inputs={"model.layers.25": lambda x: put(x, (0, 9), theirs[0, 9])})
    same(made("patch_one_position"), wanted)
    assert not torch.equal(wanted, hooked())


@pytest.mark.slow
def test_rules_keep_the_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    gates, folded = made("own_rule"), made("fold_gains")
    assert "proved on 1 instance" in capsys.readouterr().out
    same(gates, hooked())
    same(folded, hooked())
    assert gates.count(rw.match.op("sigmoid")) == 30 and gates.count(rw.match.op("silu")) == 0
    unembed = folded.get_unique(rw.match.op("linear") & rw.match.module("lm_head")).args[1]
    model = cookbook.model()
    wanted = model.get_parameter("lm_head.weight") * model.get_parameter("model.norm.weight")
    assert torch.equal(folded.module.get_buffer(unembed.target), wanted)


@pytest.mark.slow
def test_surgery_then_paths() -> None:
    model, patched = cookbook.model(), made("surgery_then_paths")
    norm, weight = model.get_submodule("model.norm"), model.get_parameter(
        f"{LAYER}.self_attn.o_proj.weight")
    stream = seen("model.norm", reads=True)
    z, other = (seen(f"{LAYER}.self_attn.o_proj", (text,), reads=True)[H3]
                for text in (cookbook.SENTENCE, cookbook.OTHER))
    plain = seen("model.norm", (cookbook.OTHER,), reads=True)
    scale = (stream.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    x = plain + (z - other) @ weight[H3].T
    wanted = x * scale * norm.weight @ model.get_parameter("lm_head.weight").T
    with torch.no_grad():
        found = patched(clean=cookbook.ids(), corrupt=cookbook.ids(cookbook.OTHER)).logits
    assert torch.allclose(found, wanted, atol=1e-3)


@pytest.mark.slow
def test_save_and_load() -> None:
    loaded, ids = made("save_and_load"), cookbook.ids("A cat sits.", name="minilm-l6")
    model = load("minilm-l6")
    zero = {"encoder.layer.5.attention.output.dense": lambda z: put(
        z, (..., slice(96, 128)), torch.tensor(0.0))}
    with torch.no_grad():
        plain = model(**ids).last_hidden_state
        with changed(model, inputs=zero):
            wanted = model(**ids).last_hidden_state
    found = loaded(**ids).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(plain, wanted, atol=1e-3)


@pytest.mark.slow
def test_difference() -> None:
    found = made("difference")
    assert found.added == ("no_query", "adapter") and not found.removed
    assert [(e.reader, e.before, e.after) for e in found.rewired] == [
        ("a23_h3", "resid45", "no_query"), ("resid47", "m23", "adapter")]


def test_all_recipes_are_tested_and_short() -> None:
    tests = "".join(inspect.getsource(f) for n, f in globals().items() if n.startswith("test_"))
    for recipe in cookbook.RECIPES.values():
        assert f'made("{recipe.__name__}")' in tests
        body = inspect.getsource(recipe).split('"""')[2].strip()
        assert len(body.splitlines()) <= 12, recipe.__name__


def test_the_page_shows_the_recipes() -> None:
    page = (ROOT / "docs" / "cookbook.md").read_text()
    for recipe in cookbook.RECIPES.values():
        body = inspect.getsource(recipe).split('"""')[2]
        assert body.strip() in page, "python docs/make_cookbook.py writes the page"
