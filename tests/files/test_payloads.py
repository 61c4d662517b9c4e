"""Files are data: code in any string of any file is never run.

Every string and every key of every format becomes a payload, one after the other: the walk follows
the file's own structure.  What still loads is used as people use it, and no trace of the payload
may be found afterwards.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import FileError, RewriteError
from rewrite.run import evaluate
from rewrite.trace import load as load_model
from tests.files.test_archive import members, sealed
from tests.zoo import tiny, tokens, traced

Payload = Callable[[str], str]


@dataclass
class Trap:
    """Code that leaves a file behind when it runs, in the forms in which strings become code."""

    hit: Path
    folder: Path

    @property
    def code(self) -> str:
        return f"__import__('pathlib').Path({str(self.hit)!r}).touch()"

    def forms(self) -> list[Payload]:
        return [
            lambda old: self.code,
            lambda old: f"{old}={self.code}",
            lambda old: f'{old}"), {self.code}, ("',
            lambda old: f"{old}\n    {self.code}\n",
            lambda old: "trapped_module:Thing",  # on the path: importing it runs it
            lambda old: f"`torch.os.system`({self.code})",
        ]

    @property
    def ran(self) -> bool:
        return self.hit.exists() or "trapped_module" in sys.modules


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    made = Trap(tmp_path / "hit", tmp_path / "path")
    made.folder.mkdir()
    (made.folder / "trapped_module.py").write_text(f"{made.code}\nclass Thing(tuple): pass\n")
    monkeypatch.syspath_prepend(made.folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked at a prompt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about what it is given
        yield made
    assert not made.ran


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where strings are: values, and keys as `("key", name)`; of a list, the first entry."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, ("key", key))
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from strings(item, (*path, index))


def changed(value: Any, path: tuple[Any, ...], payload: Payload) -> Any:
    """A copy with the payload in one place."""
    if not path:
        return payload(value)
    (first, *rest) = path
    if isinstance(first, tuple):
        return {payload(k) if k == first[1] else k: v for k, v in value.items()}
    made = dict(value) if isinstance(value, dict) else list(value)
    made[first] = changed(value[first], tuple(rest), payload)
    return made


def tried(trap: Trap, value: Any, use: Callable[[Any], Any]) -> int:
    """Every string with two of the payloads in turn: each form meets each kind of place."""
    forms, count = trap.forms(), 0
    for number, path in enumerate(strings(value)):
        for step in range(2):
            form = forms[(number + 3 * step) % len(forms)]
            with suppress(RewriteError):
                use(changed(value, path, form))
            assert not trap.ran, f"{path} was run as {form('...')}"
            count += 1
    return count


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": torch.nn.functional.gelu(self.linear(x), approximate="tanh")}


@pytest.fixture(scope="module")
def graph() -> rw.Graph:
    made = rw.trace(Net().eval(), {"x": torch.ones(3, 4)})
    return replace(made, guards=("x.shape[0] <= 100",), origin="here")


def used(graph: rw.Graph) -> None:
    """What people do with a graph."""
    assert graph.code and graph.text() and str(graph.certificate)
    with suppress(RuntimeError):  # of an operator, about a constant
        graph(x=torch.ones(2, 4))
    rw.cost(graph)
    graph.components().draw()
    graph.insert("linear", torch.neg)


def test_notes_of_graphs(graph: rw.Graph, trap: Trap, tmp_path: Path) -> None:
    held = members(rw.save(graph, tmp_path / "g.graph"))

    def use(said: Any) -> None:
        data = held | {"notes.json": json.dumps(said).encode()}
        used(rw.load(sealed(tmp_path / "x.graph", data)))

    assert tried(trap, json.loads(held["notes.json"]), use) > 100


def test_headers_of_tensors(graph: rw.Graph, trap: Trap, tmp_path: Path) -> None:
    held = members(rw.save(graph, tmp_path / "g.graph"))
    whole = held["tensors.safetensors"]
    size = int.from_bytes(whole[:8], "little")

    def use(said: Any) -> None:
        header = json.dumps(said).encode()
        data = len(header).to_bytes(8, "little") + header + whole[8 + size:]
        used(rw.load(sealed(tmp_path / "x.graph", held | {"tensors.safetensors": data})))

    assert tried(trap, json.loads(whole[8:8 + size]), use) > 10


def texts(text: str, trap: Trap) -> Iterator[str]:
    """A text with a payload in place of each of its words, as it is and quoted."""
    forms = trap.forms()
    for number, word in enumerate(re.finditer(r"[%@]?[\w.]+|'[^']*'", text)):
        for step, form in enumerate((forms[number % 6], forms[(number + 2) % 6])):
            new = form(word[0])
            yield text[:word.start()] + (repr(new) if step else new) + text[word.end():]
            yield text[:word.start()] + word[0][:1] + repr(new) + text[word.end():]


def test_texts_of_graphs(graph: rw.Graph, trap: Trap, tmp_path: Path) -> None:
    held = members(rw.save(graph, tmp_path / "g.graph"))
    count = 0
    for text in texts(held["graph.txt"].decode(), trap):
        with suppress(RewriteError):
            used(rw.load(sealed(tmp_path / "x.graph", held | {"graph.txt": text.encode()})))
        for weights in (graph, Net()):
            with suppress(RewriteError):
                used(rw.from_text(text, weights))
        assert not trap.ran, text
        count += 1
    assert count > 150


BODY = """graph Net {{
  input %x : float32[batch, 4]
  %y = call {name}(%x) : float32[batch, 4]
  output y = %y
}}
body {name} {{
  input %z = {input} : float32[batch, 4]
  %neg = neg(%z) : float32[batch, 4]
  return %neg
}}"""


def test_names_of_bodies_and_of_their_inputs(trap: Trap) -> None:
    assert rw.from_text(BODY.format(name="part", input="z"), Net())(x=torch.ones(1, 4))
    for form in trap.forms():
        for name, given in ((repr(form("part")), "z"), ("part", repr(form("z")))):
            with suppress(RewriteError):
                rw.from_text(BODY.format(name=name, input=given), Net())(x=torch.ones(1, 4))
            assert not trap.ran


CALLS = ["`torch.os.system`", "`torch.load`", "`torch.hub.load`", "`torch._C._jit_get_operation`",
         "`os.system`", "`builtins.eval`", "`builtins.exec`", "eval", "save", "load", "from_file",
         "aten::from_file", "`torch.from_file`", "prim::Print", "_print", "`torch.save`",
         "`torch.serialization.load`", "`torch.classes.load_library`", "`torch.ops.load_library`",
         "operator.attrgetter", "operator.methodcaller", "__import__", "add_.Tensor"]


@pytest.mark.parametrize("call", CALLS)
def test_only_what_computes_is_called(call: str, trap: Trap) -> None:
    text = (f"graph Net {{\n  input %x : float32[batch, 4]\n"
            f"  %y = {call}('touch {trap.hit}')\n  output y = %x\n}}")
    with pytest.raises(RewriteError, match=r"no operator|is not known"):
        rw.from_text(text, Net())


def test_only_tensors_are_weights() -> None:
    text = "graph Net {{\n  input %x : float32[batch, 4]\n  {}\n  output y = %x\n}}"
    for name in ("__init__.__globals__", "linear", "forward", "linear.forward", "__class__"):
        with pytest.raises(RewriteError, match="the weights have no"):
            rw.from_text(text.format(f"@{name}"), Net())
        with pytest.raises(RewriteError, match="the weights have no"):
            rw.from_text(text.format(f"%held = @{name}"), Net())
    for name in ("__init__", "forward", "linear.weight", "_modules"):
        with pytest.raises(RewriteError, match="there is no body"):
            rw.from_text(text.format(f"%y = call {name}(%x)"), Net())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind that is text."""
    folder, parts = tmp_path_factory.mktemp("study"), traced("gpt2").parts
    pairs = rw.Pairs.from_tensors(
        {"clean": {"input_ids": tokens(4, 5, 1)}, "corrupt": {"input_ids": tokens(4, 5, 2)}},
        {"correct": torch.tensor([1, 2, 3, 4]), "wrong": torch.tensor([5, 6, 7, 8])})
    hypothesis = rw.Hypothesis(parts, {"clean": "a0.h1 -> logits"}, name="one")
    results = [evaluate(hypothesis, pairs, "logit_diff")]
    rw.save(hypothesis, folder / "h.toml", pairs=pairs, metric=rw.logit_diff())
    rw.save(pairs, folder / "pairs.json")
    rw.save(results[0], folder / "result.json")
    rw.save(results, folder / "results.json")
    rw.save(rw.sweep(parts, "a0.h*", pairs=pairs, metric="logit_diff"), folder / "sweep.json")
    rw.refine(hypothesis, pairs, "logit_diff", steps=1, candidates=["swap"],
              file=folder / "log.json")
    rw.sweep(parts, "a0.h*", pairs=pairs, metric="logit_diff", file=folder / "rows.jsonl")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["pairs.json", "result.json", "results.json", "sweep.json",
                                  "log.json", "h.pairs.json"])
def test_files_of_json(name: str, study: dict[str, Path], trap: Trap, tmp_path: Path) -> None:
    parts = traced("gpt2").parts

    def use(said: Any) -> None:
        (tmp_path / name).write_text(json.dumps(said))
        found = rw.load(tmp_path / name, parts)
        assert repr(found)
        if isinstance(found, rw.Sweep):
            assert repr(found.table)
        if isinstance(found, rw.Refined):
            assert found.markdown() and found.hypothesis

    assert tried(trap, json.loads(study[name].read_text()), use) > 15


def test_experiments(study: dict[str, Path], trap: Trap, tmp_path: Path) -> None:
    """The model that a file names is loaded: a name is no code either."""
    said = tomllib.loads(study["h.toml"].read_text())
    said["model"] = {"name": "nobody/such-a-model"}
    (tmp_path / "h.pairs.json").write_bytes(study["h.pairs.json"].read_bytes())

    def use(said: Any) -> None:
        (tmp_path / "x.toml").write_text(tomli_w.dumps(said))
        assert rw.load(tmp_path / "x.toml", traced("gpt2").parts)
        rw.load(tmp_path / "x.toml")

    assert tried(trap, said, use) > 20


def test_records_of_sweeps(study: dict[str, Path], trap: Trap, tmp_path: Path) -> None:
    lines = study["rows.jsonl"].read_text().splitlines()
    pairs = rw.load(study["pairs.json"])
    for line in (0, 1):
        def use(said: Any, line: int = line) -> None:
            new = [*lines[:line], json.dumps(said), *lines[line + 1:]]
            (tmp_path / "rows.jsonl").write_text("\n".join(new) + "\n")
            rw.sweep(traced("gpt2").parts, "a0.h*", pairs=pairs, metric="logit_diff",
                     file=tmp_path / "rows.jsonl")

        assert tried(trap, json.loads(lines[line]), use) > 5


STRINGS: dict[str, Callable[[str], Any]] = {
    "match.shape": lambda text: traced("gpt2").graph.find(rw.match.shape("batch", text, 32)),
    "match.op": lambda text: traced("gpt2").graph.find(rw.match.op(text)),
    "paths": rw.paths,
    "hypothesis": lambda text: rw.Hypothesis(traced("gpt2").parts, {"clean": text}),
    "metric": lambda text: rw.metric(text),
    "rule": lambda text: rw.rule("named", f"gelu(x) = {text}"),
    "name of a rule": lambda text: rw.rule(text, "gelu(x) = -(-gelu(x))"),
    "example": lambda text: rw.rule("named", "gelu(x) = -(-gelu(x))", examples=text),
    "guard": lambda text: replace(traced("gpt2").graph, guards=(text,))(input_ids=tokens(1, 3)),
    "name of a run": lambda text: rw.expand(rw.Hypothesis(
        traced("gpt2").parts, {text: "a0.h1"}, default="corrupt")).code,
    "name of a node": lambda text: traced("gpt2").graph.insert("add_4", torch.neg, name=text).code,
    "input": lambda text: rw.trace(Named().eval(), {text: torch.ones(2, 3)}).code,
    "axis": lambda text: rw.trace(Net().eval(), {"x": torch.ones(3, 4)},
                                  dynamic={"x": {0: text}}).text(),
}


class Named(nn.Module):
    def forward(self, **given: Tensor) -> Tensor:
        return sum(given.values(), torch.zeros(()))


@pytest.mark.parametrize("place", STRINGS)
def test_strings_that_functions_are_given(place: str, trap: Trap) -> None:
    for form in trap.forms():
        with suppress(RewriteError, ValueError):  # a guard that nothing has read before
            STRINGS[place](form("x"))
        assert not trap.ran


def test_huge_numbers_do_not_hang(graph: rw.Graph) -> None:
    for text in ("9**9**9**9", "x.shape[0]**9**9**9 > 1", "9.0**9**9**9 > 1", "1 << 9**9 > 1",
                 "2**x.shape[0]**x.shape[0] > 1", f"{'9' * 5000} > 1", "(" * 5000 + ")" * 5000,
                 "-" * 15000 + "1", "not " * 3000 + "1", "x.shape[0]" + "*2**999" * 99 + "> 1"):
        with suppress(RewriteError, ValueError):
            replace(graph, guards=(text,))(x=torch.ones(2, 4))
        with suppress(RewriteError):
            traced("gpt2").graph.find(rw.match.shape(text.replace("x.shape[0]", "batch")))
        with suppress(RewriteError):
            rw.from_text(graph.text().replace("x.shape[0] <= 100", text), graph)
        with suppress(RewriteError):
            rw.from_text(graph.text().replace("float32[batch, 4]  #", f"float32[{text}, 4]  #"),
                         graph)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("gpt2").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folders_of_models(folder: Path, trap: Trap) -> None:
    said = json.loads((folder / "config.json").read_text())
    said |= {"attn_implementation": "eager", "auto_map": {"AutoConfig": "other.Config"}}

    def use(said: Any) -> None:
        (folder / "config.json").write_text(json.dumps(said))
        load_model(folder / "config.json")

    assert tried(trap, said, use) > 20


def test_pickled_weights_and_metadata(folder: Path, trap: Trap) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return eval, (trap.code,)

    weights = folder / "model.safetensors"
    held = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(held, weights, {"format": trap.code, trap.code: "pt"})
    with suppress(RewriteError):
        rw.trace(folder)
    weights.unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(RewriteError):
        rw.trace(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RewriteError):
        rw.trace(folder)


SIZES = {"block_count": 1, "embedding_length": 8, "feed_forward_length": 8, "vocab_size": 8,
         "attention.head_count": 1, "context_length": 8}


def gguf(strings: dict[str, str]) -> bytes:
    """A GGUF file without tensors, of a tiny model, whose other metadata are strings."""
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(strings) + len(SIZES)) + b"".join(
        text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in SIZES.items()
    ) + b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in strings.items())


def test_gguf(trap: Trap, tmp_path: Path) -> None:
    said = {"general.architecture": "llama", "general.name": "x", "tokenizer.ggml.model": "gpt2",
            "tokenizer.chat_template": "x"}

    def use(said: Any) -> None:
        (tmp_path / "x.gguf").write_bytes(gguf(said))
        load_model(tmp_path / "x.gguf")

    assert tried(trap, said, use) == 16


def test_exports_are_refused(graph: rw.Graph, trap: Trap, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(pickle.dumps(graph.name))
    with pytest.raises(FileError, match=r"would run what it says.*load_trusted"):
        rw.load(tmp_path / "x.pt2")


CODE = """
import pathlib
from transformers import PretrainedConfig, GPT2LMHeadModel, GPT2Config
pathlib.Path({hit!r}).touch()
class Config(GPT2Config):
    model_type = "its_own"
class Model(GPT2LMHeadModel):
    config_class = Config
"""


@pytest.fixture
def with_code(folder: Path, tmp_path: Path) -> Path:
    """A folder of a model that only its own code can load."""
    said = json.loads((folder / "config.json").read_text())
    said |= {"model_type": "its_own", "architectures": ["Model"], "auto_map": {
        "AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "modeling_own.py").write_text(CODE.format(hit=str(tmp_path / "hit")))
    return folder


def test_code_of_a_folder_is_refused(with_code: Path, study: dict[str, Path], trap: Trap,
                                     tmp_path: Path) -> None:
    for model in (with_code, str(with_code), with_code / "config.json"):
        with pytest.raises(RewriteError, match=r"rw\.trace\(.*trust_remote_code=True\)"):
            rw.trace(model)
    said = tomllib.loads(study["h.toml"].read_text()) | {"model": {"name": str(with_code)}}
    (tmp_path / "h.pairs.json").write_bytes(study["h.pairs.json"].read_bytes())
    (tmp_path / "x.toml").write_text(tomli_w.dumps(said))
    with pytest.raises(RewriteError, match=r"rw\.trace\(.*trust_remote_code=True\)"):
        rw.load(tmp_path / "x.toml")


def test_code_of_a_folder_runs_if_it_is_trusted(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    monkeypatch.syspath_prepend(tmp_path / "c")
    found = rw.trace(with_code, trust_remote_code=True)
    assert (tmp_path / "hit").exists() and found.name == "Model"
    wanted = tiny("gpt2")(input_ids=tokens(2, 5)).logits
    assert torch.equal(found(input_ids=tokens(2, 5)).logits, wanted)
    empty = rw.trace(with_code / "config.json", trust_remote_code=True)
    assert empty.weightless and empty.name == "Model"
