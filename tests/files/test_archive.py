"""Files of graphs: what is changed in them is noticed, and tensors come back as they were."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import FileError
from rewrite.files.archive import read_archive, write_archive
from rewrite.files.graphs import MEMBERS
from rewrite.files.tensors import Stored, Tensors, read_tensors


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight  # tied, which graphs call by one name

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.second(torch.relu(self.first(x)))}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    graph = rw.trace(Net().eval(), {"x": torch.ones(3, 4)})
    return rw.save(graph, tmp_path_factory.mktemp("graphs") / "net.graph")


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(path: Path, held: dict[str, bytes]) -> Path:
    """An archive with these members, and the checksum that belongs to it."""
    return write_archive(path, {
        name: lambda out, data=data: out.write(data) and None for name, data in held.items()})


def test_a_flipped_bit_is_noticed_wherever_it_is(file: Path, tmp_path: Path) -> None:
    whole, draw = file.read_bytes(), random.Random(0)
    assert rw.load(file)(x=torch.ones(1, 4))["y"].shape == (1, 4)
    ends = [*range(40), *range(len(whole) - 120, len(whole))]
    for at in (*ends, *(draw.randrange(len(whole)) for _ in range(300))):
        broken = bytearray(whole)
        broken[at] ^= 1 << draw.randrange(8)
        (tmp_path / "broken.graph").write_bytes(broken)
        with pytest.raises(FileError, match=r"broken\.graph (is|has|holds|cannot)"):
            rw.load(tmp_path / "broken.graph")


def test_cut_and_longer_files_are_noticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    changed = [whole[:at] for at in range(0, len(whole), 199)]
    for data in (*changed, whole + b"\0", b"\0" + whole, whole + whole):
        (tmp_path / "cut.graph").write_bytes(data)
        with pytest.raises(FileError, match=r"copy or save it again"):
            rw.load(tmp_path / "cut.graph")


def test_archives_that_only_look_right(file: Path, tmp_path: Path) -> None:
    held, path = members(file), tmp_path / "other.graph"
    again = sealed(tmp_path / "again.graph", held)
    assert again.read_bytes() == file.read_bytes()  # equal graphs are equal files
    with zipfile.ZipFile(path, "w") as archive:  # by another program, without a checksum
        for name, data in held.items():
            archive.writestr(name, data)
    with pytest.raises(FileError, match="does not end with a checksum"):
        rw.load(path)
    for name in MEMBERS:
        sealed(path, {k: v for k, v in held.items() if k != name})
        with pytest.raises(FileError, match=f"has no {name}"):
            rw.load(path)
    sealed(path, held | {"code.py": b"print()"})
    with pytest.raises(FileError, match=r"code\.py"):
        rw.load(path)


def test_nothing_unfolds_to_more_than_there_is(file: Path, tmp_path: Path) -> None:
    """A bomb with a right checksum: gigabytes of zeros in a few kilobytes."""
    held, path, made = members(file), tmp_path / "bomb.graph", io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (held | {"graph.txt": bytes(10_000_000)}).items():
            archive.writestr(name, data)
        archive.comment = bytes(71)
    from rewrite.files.archive import _Sealed

    with path.open("wb") as out:
        seal = _Sealed(out)
        seal.write(made.getvalue())
        seal.seal()
    assert path.stat().st_size < 100_000
    with pytest.raises(FileError, match="compressed or encrypted"):
        rw.load(path)


Members = dict[str, bytes]


def notes(change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], Members]:
    def apply(held: Members) -> Members:
        said = json.loads(held["notes.json"])
        change(said)
        return held | {"notes.json": json.dumps(said).encode()}

    return apply


CHANGES = {
    "its schema is the text 'other'": notes(lambda said: said.update(schema="other")),
    "it is of version 2": notes(lambda said: said.update(version=2)),
    "origin of notes.json of .* must be": notes(lambda said: said.update(origin=3)),
    "notes.json of .* has no 'tensors'": notes(lambda said: said.pop("tensors")),
    "about other nodes": notes(lambda said: said["nodes"].popitem()),
    "takes no 'code'": notes(lambda said: said["nodes"]["relu"].update(code="x")),
    "larger than 'second.weight'": notes(
        lambda said: said["tensors"]["second.weight"].update(shape=[4, 5])),
    "is no size": notes(lambda said: said["tensors"]["second.weight"].update(offset=-1)),
    "there is no type": notes(lambda said: said["tensors"]["second.weight"].update(dtype="os")),
    "certificate takes no 'system'": notes(
        lambda said: said["certificate"].update(system="x")),
    "scale of the certificate must be": notes(lambda said: said["certificate"].update(scale="x")),
    "is no output": notes(lambda said: said.update(returns="z")),
    "import no_such.module before": notes(lambda said: said.update(
        returns={"class": "no_such.module:Thing", "holds": ["y"]})),
    "which is no container": notes(lambda said: said.update(
        returns={"class": "subprocess:Popen", "holds": {"args": "y"}})),
}


@pytest.mark.parametrize("says", CHANGES)
def test_notes_are_read_strictly(says: str, file: Path, tmp_path: Path) -> None:
    sealed(tmp_path / "x.graph", CHANGES[says](members(file)))
    with pytest.raises(FileError, match=says):
        rw.load(tmp_path / "x.graph")


HEADERS = {
    "longer than they are": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "does not begin where": lambda data: data.replace(b'"first.bias"', b'"__metadata__"'),
    "does not say type": lambda data: data.replace(b'"shape": [4, 4]', b'"shape": [4, 9]'),
    "have .* bytes": lambda data: data + bytes(8),
}


@pytest.mark.parametrize("says", HEADERS)
def test_headers_are_compared_with_the_file(says: str, file: Path, tmp_path: Path) -> None:
    held = members(file)
    changed = HEADERS[says](held["tensors.safetensors"])
    assert changed != held["tensors.safetensors"]
    sealed(tmp_path / "x.graph", held | {"tensors.safetensors": changed})
    with pytest.raises(FileError, match=says):
        rw.load(tmp_path / "x.graph")


def round_trip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    made, out = Tensors(tensors), io.BytesIO()
    made.write(out)
    said = json.loads(json.dumps(made.notes))
    stored = {name: Stored(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
              for name, one in said.items()}
    size = out.tell()
    safetensors.torch.load(out.getvalue())  # it is what other programs read
    out.seek(0)
    return read_tensors(out, size, stored)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
          torch.float8_e5m2, torch.float8_e8m0fnu, torch.complex64, torch.complex128, torch.int64,
          torch.int8, torch.uint8, torch.uint16, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_layout(dtype: torch.dtype) -> None:
    base = torch.randint(0, 2 if dtype == torch.bool else 256, (7 * 6 * dtype.itemsize,),
                         dtype=torch.uint8).view(dtype).view(7, 6)
    given = {
        "base": base, "turned": base.T, "row": base[3], "every": base[1::2, ::3],
        "one": base[2, 3], "wide": base[:1].expand(5, 6), "none": base[:0], "new": base.clone(),
        "alone": base.clone().T, "empty": torch.empty(0, 3, dtype=dtype)}
    found = round_trip(given)
    for name, tensor in given.items():
        other = found[name]
        assert (other.dtype, other.shape, other.stride()) == (dtype, tensor.shape, tensor.stride())
        a, b = (t.contiguous().view(torch.uint8) if t.ndim else t.reshape(1).view(torch.uint8)
                for t in (other, tensor))
        assert torch.equal(a, b), name
    assert found["row"].untyped_storage()._cdata == found["base"].untyped_storage()._cdata
    assert found["new"].untyped_storage()._cdata != found["base"].untyped_storage()._cdata


def test_tied_and_trained_tensors_stay_so() -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    held = {"a": nn.Parameter(torch.ones(3)), "b": frozen, "c": frozen, "d": torch.ones(2)}
    found = round_trip(held)
    assert [type(t) for t in found.values()] == [nn.Parameter] * 3 + [Tensor]
    assert [t.requires_grad for t in found.values()] == [True, False, False, False]
    assert found["b"] is found["c"]


class Wrapped(Tensor):
    pass


@pytest.mark.filterwarnings("ignore")  # torch's own: some of these kinds are on their way out
def test_tensors_that_are_more_than_numbers() -> None:
    kinds = {
        "sparse": torch.eye(3).to_sparse(), "a Wrapped": torch.ones(2).as_subclass(Wrapped),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}
    for kind, tensor in kinds.items():
        with pytest.raises(FileError, match=f"t is {kind}.*dequantize"):
            Tensors({"t": tensor})


def test_members_are_for_every_tool(file: Path) -> None:
    with read_archive(file, MEMBERS) as archive:
        assert archive.testzip() is None and archive.read("graph.txt").startswith(b"graph Net {")
    tensors = safetensors.torch.load(members(file)["tensors.safetensors"])
    assert set(tensors) == {"second.weight", "first.bias", "second.bias"}
