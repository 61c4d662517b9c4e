"""Folders whose files do not hold the weights of the model: an error that names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rewrite as rw
from rewrite.errors import TraceError
from rewrite.trace import load

SMALL: dict[str, Any] = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1}
MODELS: dict[str, Callable[[], Any]] = {
    "tied": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, n_positions=16, **SMALL)),
    "untied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=2,
        tie_word_embeddings=False, **SMALL)),
    "encoder": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(
        num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=2,
        vocab_size=50)),
    "both": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        num_layers=1, d_model=8, d_ff=8, num_heads=2, d_kv=4, vocab_size=50)),
}


def saved(kind: str, folder: Path, **options: Any) -> tuple[Any, Path]:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    model.save_pretrained(folder, **options)
    return model, folder / "model.safetensors"


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("kind", MODELS)
def test_each_weight_that_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    """The oracle: a file without a weight never loads, and with all of them is the model."""
    model, file = saved(kind, tmp_path)
    whole = load_file(file)
    found = load(tmp_path)
    assert all(torch.equal(now, was) for now, was in zip(
        found.state_dict().values(), model.state_dict().values(), strict=True))
    for name in whole:
        save_file({n: v for n, v in whole.items() if n != name}, file, {"format": "pt"})
        with pytest.raises(TraceError, match=rf"lacks .*{name}") as caught:
            load(tmp_path)
        assert "allow_missing=True" in str(caught.value)


def test_what_is_too_much_or_of_another_shape(tmp_path: Path) -> None:
    model, file = saved("tied", tmp_path)
    name = "transformer.h.1.mlp.c_fc.weight"
    assert model.get_parameter(name).shape == (8, 32)
    changed(file, lambda w: w.update({"transformer.h.7.ln_1.weight": torch.ones(8)}))
    with pytest.raises(TraceError, match=r"has beyond a GPT2LMHeadModel .*: transformer\.h\.7\."):
        load(tmp_path)
    changed(file, lambda w: (w.pop("transformer.h.7.ln_1.weight"),
                             w.update({name: torch.ones(32, 8)})))
    with pytest.raises(TraceError, match=rf"{name} \[32, 8\], not \[8, 32\]"):
        load(tmp_path)
    changed(file, lambda w: [w.pop(n) for n in [*w] if ".h.1." in n])
    with pytest.raises(TraceError, match=r"transformer\.h\.1\..* and 4 more"):
        rw.trace(tmp_path)


def test_a_certificate_names_what_was_allowed(tmp_path: Path) -> None:
    _, file = saved("tied", tmp_path)
    changed(file, lambda w: (w.pop("transformer.ln_f.bias"), w.update({"extra": torch.ones(1)}),
                             w["transformer.wpe.weight"].view(-1)[3].fill_(torch.nan)))
    certificate = rw.trace(tmp_path, allow_missing=True).certificate
    assert certificate is not None
    said = "; ".join(certificate.notes)
    assert "lacks (they are random numbers now): transformer.ln_f.bias" in said
    assert "(they are not used): extra" in said
    assert "weights that are not finite: transformer.wpe.weight" in said
    for value in (torch.inf, -torch.inf):
        model = torch.nn.Linear(2, 2).eval()
        with torch.no_grad():
            model.bias[1] = value
        graph = rw.trace(model, {"input": torch.ones(3, 2)})
        assert "weights that are not finite: bias" in str(graph.certificate)


def test_shards_heads_and_bases(tmp_path: Path) -> None:
    saved("tied", tmp_path / "shards", max_shard_size="2KB")
    assert load(tmp_path / "shards")
    shard = sorted((tmp_path / "shards").glob("model-0*"))[1]
    shard.unlink()
    with pytest.raises(TraceError, match=shard.name):
        load(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"] = {k: v for k, v in table["weight_map"].items() if v != shard.name}
    index.write_text(json.dumps(table))
    with pytest.raises(TraceError, match="lacks"):
        load(tmp_path / "shards")

    def told(folder: Path, name: str) -> Path:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
        return folder

    torch.manual_seed(0)
    base = transformers.GPT2Model(MODELS["tied"]().config).eval()
    base.save_pretrained(tmp_path / "base")
    full = load(told(tmp_path / "base", "GPT2LMHeadModel"))
    assert torch.equal(full.get_parameter("transformer.wte.weight"), base.wte.weight), "tied"
    with pytest.raises(TraceError, match=r"lacks .*score\.weight"):
        load(told(tmp_path / "base", "GPT2ForSequenceClassification"))
    saved("untied", tmp_path / "head")
    with pytest.raises(TraceError, match=r"has beyond a LlamaModel .*lm_head\.weight"):
        load(told(tmp_path / "head", "LlamaModel"))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    saved("tied", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(TraceError, match=r"holds an adapter.*merge_and_unload"):
        rw.trace(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[set[str]], Path]]:
    """Writes a tiny Llama as GGUF, without some of its tensors."""
    gguf = pytest.importorskip("gguf")
    made = torch.Generator().manual_seed(0)
    shapes = {"token_embd.weight": (50, 32), "output_norm.weight": (32,), "output.weight": (50, 32)}
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in {
        "attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 32),
        "attn_v": (32, 32), "attn_output": (32, 32), "ffn_gate": (32, 32), "ffn_up": (32, 32),
        "ffn_down": (32, 32)}.items()}

    def write(without: set[str]) -> Path:
        file = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(50)
        writer.add_rope_freq_base(10000.0)
        for name, shape in shapes.items():
            if name not in without:
                writer.add_tensor(name, torch.randn(shape, generator=made).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    yield write


def test_gguf_files_that_lack_tensors(written: Callable[[set[str]], Path]) -> None:
    assert load(written(set()))
    for without, name in (("blk.0.ffn_up.weight", r"layers\.0\.mlp\.up_proj\.weight"),
                          ("output_norm.weight", r"norm\.weight")):
        with pytest.raises(TraceError, match=rf"lacks .*{name}"):
            load(written({without}))
