"""What the package reads: a good file of each kind, how it is read, and what it then says."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import rewrite as rw
from rewrite.discover.log import read_log
from rewrite.errors import RewriteError
from rewrite.files import read_experiment
from rewrite.files.archive import write_archive
from rewrite.files.graphs import MEMBERS
from rewrite.run.record import record_at
from rewrite.trace import load as load_model
from rewrite.world import text_of
from tests.fuzz import mutants
from tests.zoo import tiny, tokens, traced


@dataclass(frozen=True)
class Format:
    """One kind of file.

    `write` makes a good one in a folder and returns what is read; `damage` is the file of it
    that is damaged.  `tree` reads and writes it as a table, for damage to its values.  `says`
    gives, of what was read, the table that a file with it would hold.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    damage: str
    parse: Callable[[bytes], Any] | None = None
    dump: Callable[[Any], bytes] = mutants.as_json
    says: Callable[[Any], Any] | None = None


@cache
def parts() -> rw.Components:
    return traced("gpt2").parts


@cache
def pairs() -> rw.Pairs:
    runs = {"clean": {"input_ids": tokens(4, 5, 1)}, "corrupt": {"input_ids": tokens(4, 5, 2)}}
    labels = {"correct": torch.tensor([1, 2, 3, 4]), "wrong": torch.tensor([6, 7, 8, 9])}
    return rw.Pairs.from_tensors(runs, labels, positions={"END": [4, 4, 4, 4]})


def hypothesis(text: str = "a0.h1 -> ... -> a1.h2.{q,k} - m0") -> rw.Hypothesis:
    return rw.Hypothesis(parts(), {"clean": text}, name="one")


def _results(folder: Path) -> Path:
    found = rw.evaluate([hypothesis(), hypothesis("m1")], pairs(), "logit_diff")
    return rw.save(found, folder / "results.json")


def _result(folder: Path) -> Path:
    return rw.save(rw.evaluate(hypothesis(), pairs(), "logit_diff"), folder / "result.json")


def _sweep(folder: Path) -> Path:
    found = rw.sweep(parts(), "a*.h*", pairs=pairs(), metric="logit_diff")
    return rw.save(found, folder / "sweep.json")


def _log(folder: Path) -> Path:
    found = rw.refine(rw.Hypothesis(parts(), {"clean": "m1"}), pairs(), "logit_diff", steps=1,
                      tolerance=0.001, goal=1.0)
    return rw.save(found, folder / "log.json")


def _rows(folder: Path) -> Path:
    rw.sweep(parts(), "a*.h*", pairs=pairs(), metric="logit_diff", file=folder / "rows.jsonl")
    return folder / "rows.jsonl"


def _experiment(folder: Path) -> Path:
    return rw.save([hypothesis(), hypothesis("m1")], folder / "h.toml", pairs=pairs(),
                   metric=rw.logit_diff())


def _folder(folder: Path, **options: Any) -> Path:
    model: Any = tiny("gpt2", n_embd=16, n_layer=1)
    model.save_pretrained(folder / "model", **options)
    return folder / "model"


def _config(folder: Path) -> Path:
    return _folder(folder) / "config.json"


def _gguf(folder: Path) -> Path:
    from gguf import GGUFWriter

    draw = torch.Generator().manual_seed(0)
    wide, layers, hidden, vocabulary = 32, 1, 32, 40
    writer = GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(wide)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)

    def put(name: str, *shape: int) -> None:
        writer.add_tensor(name, torch.randn(*shape, generator=draw).numpy())

    put("token_embd.weight", vocabulary, wide)
    put("output_norm.weight", wide)
    put("output.weight", vocabulary, wide)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        put(f"blk.0.{name}.weight", wide, wide)
    for name in ("ffn_gate", "ffn_up"):
        put(f"blk.0.{name}.weight", hidden, wide)
    put("blk.0.ffn_down.weight", wide, hidden)
    for name in ("attn_norm", "ffn_norm"):
        put(f"blk.0.{name}.weight", wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "tiny.gguf"


def _text(folder: Path) -> Path:
    (folder / "graph.txt").write_text(parts().graph.text(), encoding="utf-8")
    return folder / "graph.txt"


def read_text(path: Path) -> Any:
    """A text form: a file of it is read by the user."""
    return rw.from_text(text_of(path), tiny("gpt2"))


def _resumed(path: Path) -> Any:
    """A sweep, or a refinement, that goes on from a file."""
    with record_at(path, *_good(path), note=lambda text: None) as record:
        return record.rows


def _good(path: Path) -> Any:
    return json.loads((path.parent / "good.json").read_text())


def _rows_and_identity(folder: Path) -> Path:
    path = _rows(folder)
    head, *rows = map(json.loads, path.read_text().splitlines())
    del head["kind"]
    names = [{k: row[k] for k in ("sender", "receiver", "paths")} for row in sorted(
        rows, key=lambda row: row["row"])]
    (folder / "good.json").write_text(json.dumps([head, names]))
    return path


def _log_and_identity(folder: Path) -> Path:
    path = _log(folder)
    (folder / "good.json").write_text(json.dumps(json.loads(path.read_text())["identity"]))
    return path


def _log_rows(path: Path) -> Any:
    return read_log(path, _good(path))


def _lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


def _as_lines(tree: Any) -> bytes:
    rows = tree if isinstance(tree, list) else [tree]
    return b"".join(mutants.as_json(row).replace(b"\n", b"") + b"\n" for row in rows)


def _header(data: bytes) -> Any:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]



def _unpacked(folder: Path) -> Path:
    with zipfile.ZipFile(rw.save(traced("gpt2").graph, folder / "g.graph")) as archive:
        archive.extractall(folder)
    (folder / "g.graph").unlink()
    return folder


def _sealed(folder: Path) -> Any:
    """A graph whose checksum is right, of members that are damaged."""
    members = {name: (folder / name).read_bytes() for name in MEMBERS if (folder / name).is_file()
               and (folder / name).stat().st_size < 2**30}
    write_archive(folder / "g.graph", {
        name: partial(_write, data) for name, data in members.items()})
    return rw.load(folder / "g.graph")


def _write(data: bytes, file: Any) -> None:
    file.write(data)


FORMATS: dict[str, Format] = {each.name: each for each in (
    Format("pairs", lambda f: rw.save(pairs(), f / "pairs.json"), rw.load, "pairs.json",
           json.loads, says=lambda found: {"kind": "pairs"} | found.to_dict()),
    Format("result", _result, rw.load, "result.json", json.loads,
           says=lambda found: {"kind": "result"} | found.to_dict()),
    Format("results", _results, rw.load, "results.json", json.loads,
           says=lambda found: {"kind": "results", "results": [r.to_dict() for r in found]}),
    Format("sweep", _sweep, rw.load, "sweep.json", json.loads,
           says=lambda found: {"kind": "sweep"} | found.to_dict()),
    Format("log", _log, lambda path: rw.load(path, parts()), "log.json", json.loads,
           says=lambda found: {k: v for k, v in found.to_dict().items() if k != "model"}),
    Format("rows of a sweep", _rows_and_identity, _resumed, "rows.jsonl", _lines, _as_lines),
    Format("rows of a log", _log_and_identity, _log_rows, "log.json", json.loads),
    Format("experiment", _experiment, lambda path: (rw.load(path, parts()),
                                                    read_experiment(path)),
           "h.toml", lambda data: tomllib.loads(data.decode()), mutants.as_toml),
    Format("pairs of an experiment", _experiment, read_experiment, "h.pairs.json", json.loads),
    Format("config", _config, load_model, "model/config.json", json.loads),
    Format("config of a folder", _folder, load_model, "model/config.json", json.loads),
    Format("generation config", _folder, load_model, "model/generation_config.json", json.loads),
    Format("safetensors", _folder, load_model, "model/model.safetensors"),
    Format("index of safetensors", lambda f: _folder(f, max_shard_size="8KB"), load_model,
           "model/model.safetensors.index.json", json.loads),
    Format("GGUF", _gguf, load_model, "tiny.gguf"),
    Format("graph", lambda f: rw.save(traced("gpt2").graph, f / "g.graph"), rw.load, "g.graph"),
    *(Format(f"graph, {member}", _unpacked, _sealed, member, parse)
      for member, parse in zip(MEMBERS, (None, json.loads, None), strict=True)),
    Format("text form", _text, read_text, "graph.txt"),
)}


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: "refused", "read", "raw", or "wrong" if it says something else."""

    kind: str
    error: BaseException | None = None
    told: str = ""


def outcome(each: Format, path: Path, tree: Any = None) -> Outcome:
    """Read a mutant; `tree` is what it holds, where that is known."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = each.read(path)
    except RewriteError as error:
        return Outcome("refused", error)
    except Exception as error:
        return Outcome("raw", error)
    if each.says is not None and tree is not None:
        try:
            said = json.loads(json.dumps(each.says(found)))
        except Exception as error:
            return Outcome("raw", error, "while it is written again")
        if (off := _differs(tree, said)):
            return Outcome("wrong", told=off)
    return Outcome("read")


DERIVED = {"explained", "aue", "ate", "n"}  # computed anew from the examples


def _differs(wanted: Any, found: Any, where: str = "") -> str:
    """Where what was read says something else than the file."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in found.items():
            if key in DERIVED or (key not in wanted and value in ([], "", {}, None)):
                continue
            if key not in wanted:
                return f"{where}.{key} came from nowhere: {value!r}"[:300]
            if off := _differs(wanted[key], value, f"{where}.{key}"):
                return off
        return ""
    if isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return f"{where} has {len(found)} of {len(wanted)}"
        return next(filter(None, (_differs(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(
            zip(wanted, found, strict=True)))), "")
    if isinstance(wanted, bool) != isinstance(found, bool):
        return f"{where} is {wanted!r}, read as {found!r}"[:300]
    number = isinstance(wanted, (int, float)) and isinstance(found, (int, float))
    if number and float(wanted) == float(found):
        return ""
    if number and wanted != wanted and found != found:
        return ""
    return "" if type(wanted) is type(found) and wanted == found else (
        f"{where} is {wanted!r}, read as {found!r}"[:300])


class Bench:
    """A good file of one format, and mutants of it one after the other in its place."""

    def __init__(self, each: Format, folder: Path) -> None:
        self.format, self.folder = each, folder
        good = folder / "good"
        good.mkdir()
        self._path = each.write(good).relative_to(good)
        self._good = good
        self.data = (good / each.damage).read_bytes()
        self._count = 0

    def good(self) -> Outcome:
        """The outcome of the file as it was written."""
        path = self._fresh()
        tree = self.format.parse(self.data) if self.format.parse else None
        found = outcome(self.format, path / self._path, tree)
        shutil.rmtree(path)
        return found

    def mutant(self, draw: random.Random) -> Outcome:
        """The outcome of one mutant."""
        each, path = self.format, self._fresh()
        file, tree = path / each.damage, None
        kind = draw.random()
        if kind < 0.04:
            file.unlink()
            draw.choice(mutants.ELSEWHERE)(file)
        elif each.parse is not None and kind < 0.6:
            tree = mutants.edited(each.parse(self.data), draw)
            file.write_bytes(each.dump(tree))
            if each.dump is mutants.as_json:
                with suppress(Exception):
                    tree = json.loads(file.read_bytes())
        elif each.damage.endswith(".safetensors") and kind < 0.6:
            head, rest = _header(self.data)
            new = mutants.as_json(mutants.edited(head, draw))
            file.write_bytes(len(new).to_bytes(8, "little") + new + rest)
        elif each.parse is not None and kind < 0.7:
            file.write_bytes(mutants.twice(self.data, draw))
        else:
            file.write_bytes(mutants.damaged(self.data, draw))
        found = outcome(each, path / self._path, tree)
        shutil.rmtree(path)
        return found

    def elsewhere(self, lead: Callable[[Path], None]) -> Outcome:
        """The outcome where the path leads to something that is no file."""
        path = self._fresh()
        (path / self.format.damage).unlink()
        lead(path / self.format.damage)
        found = outcome(self.format, path / self._path)
        shutil.rmtree(path)
        return found

    def _fresh(self) -> Path:
        self._count += 1
        path = self.folder / str(self._count)
        shutil.copytree(self._good, path)
        return path


