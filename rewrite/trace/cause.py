"""Why export failed: the operator, the module and the line of the user's code, and what helps."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import fx, nn

_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]),
           sysconfig.get_paths()["stdlib"] + os.sep)
_PACKAGES = tuple({sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")})
_STACK = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+')

VALUES = ("Python asks for the value of a tensor, which a graph for all inputs does not have: "
          "write both branches as tensors, torch.where(condition, a, b), or leave the check out")
NUMBERS = ("Python reads a number out of a tensor (item, int, range, a loop), which a graph for "
           "all inputs does not have: compute it from shapes, keep it a tensor, or pass it as an "
           "input that is a constant")
SIZES = ("Python fixes this size (a loop over an axis, int or float of a size, a table of one "
         "length): use operators on whole axes, or say which axes vary, as in "
         'rw.trace(model, inputs, dynamic={"x": {0: "batch"}}), or dynamic={} for none')
# What errors of torch say, or the operators that they are about, and what the user can do.
REMEDIES: tuple[tuple[str, str], ...] = (
    (r"numpy|__array__", "NumPy works on values, which are not there while a model is followed: "
     "write this with functions of torch"),
    (r"no fake impl|fake impl|register_fake|meta kernel|Meta. backend",
     "this operator does not say which shape its result has: register that by "
     "torch.library.register_fake, or write it with operators of torch"),
    (r"_sparse|sparse_|Sparse", "sparse tensors cannot be followed: use dense ones, x.to_dense()"),
    (r"nested", "nested tensors cannot be followed: pad them and pass a mask"),
    (r"Could not extract specialized|_local_scalar_dense|Cannot convert a symbol", NUMBERS),
    (r"data-dependent expression|is_nonzero|data-dependent", VALUES),
    (r"FakeTensor\(|could not convert string", NUMBERS),
    (r"Constraints violated|should vary|turned out to be fixed", SIZES),
    (r"sizes of the example inputs only", SIZES),
    (r"higher_order|it calls", "torch chooses or repeats this part by values, or hides it: write "
     "it with plain operators, torch.where for a branch"),
    (r"writes into", "a graph changes nothing from call to call: pass what is kept as an input, or "
     "write with functions that return what is new (x = x + 1 instead of x += 1)"),
    (r"same device|Device Propagation", "move all tensors to one device: model.to(device), and "
     "make new ones where the inputs are, device=x.device"),
    (r"differs", "what it computes is decided while it is followed, by Python or by chance: make "
     "it depend on tensors alone"),
)
ELSE = ("write this line with plain operators of torch, or trace the submodule that you need: "
        "rw.trace(model.block, inputs)")


@dataclass(frozen=True)
class Spot:
    """Where in the user's code something happened."""

    module: str = ""  # its path, and its class
    file: str = ""
    line: int = 0
    code: str = ""
    operator: str = ""

    def __str__(self) -> str:
        said = [f"in {self.module}" if self.module else "",
                f"at {self.file}:{self.line}" if self.file else "",
                f"`{self.code}`" if self.code else "",
                f"operator {self.operator}" if self.operator else ""]
        return ", ".join(part for part in said if part)


NOWHERE = Spot()


def place_of(error: BaseException, model: nn.Module) -> Spot:
    """Where in the model's code an error came from, as far as its traceback tells."""
    frames = list(_frames(error))
    paths = {id(module): name for name, module in model.named_modules()}
    seen = [frame for frame, _ in frames]
    inside = [m for f in seen if id(m := f.f_locals.get("self")) in paths]
    module = f"{paths[id(inside[-1])] or 'the model'} ({type(inside[-1]).__name__})" if (
        inside) else ""
    functions = [f for frame in seen if isinstance(
        f := frame.f_locals.get("func"), torch._ops.OpOverload)]
    operator = str(functions[-1]) if functions else ""
    for frame, number in reversed(frames):
        file = frame.f_code.co_filename
        if not _hidden(file):
            code = linecache.getline(file, number).strip()
            return Spot(module, file, number, code, operator)
    return Spot(module, operator=operator)


def place_of_node(node: fx.Node, model: nn.Module) -> Spot:
    """Where in the model's code a node was made."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0].removeprefix("model").removeprefix(".") if stack else ""
    module = ""
    if stack:
        module = f"{path or 'the model'} ({type(model.get_submodule(path)).__name__})"
    lines = [(file, int(number)) for file, number in _STACK.findall(
        node.meta.get("stack_trace") or "") if not _hidden(file)]
    if not lines:
        return Spot(module, operator=str(node.target))
    file, number = lines[-1]
    return Spot(module, file, number, linecache.getline(file, number).strip(), str(node.target))


def remedy_for(text: str, operator: str = "") -> str:
    """What the user can do about a failure, by what was said and the operator that failed.

    >>> remedy_for("RuntimeError: .numpy() is not supported")[:5]
    'NumPy'
    """
    return next((remedy for pattern, remedy in REMEDIES
                 if re.search(pattern, operator) or re.search(pattern, text)), ELSE)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Frames from the outermost to the innermost, those of its cause last."""
    yield from traceback.walk_tb(_deepest(error))


def _deepest(error: BaseException) -> TracebackType | None:
    """The traceback of the error that came first, if others were raised because of it."""
    while (cause := error.__cause__ or error.__context__) is not None and cause.__traceback__ and (
            any(not _hidden(f.f_code.co_filename) for f, _ in traceback.walk_tb(
                cause.__traceback__))):
        error = cause
    return error.__traceback__


def _hidden(file: str) -> bool:
    """Whether a file belongs to torch, Python or this package: not what the user can change."""
    if file.startswith("<"):
        return True
    return any(file.startswith(folder) for folder in _HIDDEN) and not (
        file.startswith(_PACKAGES) and not file.startswith(_HIDDEN[:2]))
