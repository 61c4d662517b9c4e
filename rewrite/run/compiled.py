"""Expansions whose stacked module goes through `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from rewrite.errors import BackendError, DataError, near
from rewrite.expand import Expansion
from rewrite.turn import once

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
REPLAYED = ("reduce-overhead", "max-autotune")  # as CUDA graphs, on a GPU
Compile = bool | str


@dataclass(frozen=True)
class Compiled(Expansion):
    """An expansion that runs compiled: `run` as before, and `together` is what was compiled."""

    mode: str = "default"

    @property
    def together(self) -> Any:
        """The stacked module, compiled; kernels are made at the first call.

        A CUDA graph writes its results where those of the call before lie: they are copied, so
        that what a caller keeps stays as it is.
        """
        return self._kernels

    @once
    def _kernels(self) -> Callable[..., Any]:
        run = _told(torch.compile(super().together, mode=self.mode))
        if self.mode not in REPLAYED:
            return run
        return lambda *args: tuple(value.clone() for value in run(*args))


def compiled(expansion: Expansion, mode: Compile = True) -> Expansion:
    """The same expansion, run by kernels that `torch.compile` makes of its stacked module.

    `mode` is one of torch's: "default" (the same as True), "reduce-overhead" (CUDA graphs, on a
    GPU), "max-autotune", "max-autotune-no-cudagraphs"; False leaves the expansion as it is.
    torch makes CUDA graphs of models on one GPU; for one on several it leaves them out.
    Results agree to rounding and gradients flow.  Making the kernels takes from seconds to
    minutes at the first call: on two cores 1.1 to 1.6 times faster runs had paid for it after
    70 to 290 batches (two layers of GPT-2 small's width; `python -m benchmarks.compiled`).

    >>> exp = rw.expand(rw.Hypothesis(parts, {"clean": "a1.h3 -> logits"}))
    >>> compiled(exp, mode="fast")
    Traceback (most recent call last):
    ...
    rewrite.errors.DataError: torch.compile has no mode 'fast'; known names: default, \
reduce-overhead, max-autotune, max-autotune-no-cudagraphs

    Raises `Unstackable` for a model whose copies cannot be stacked, and when it is run
    `BackendError` where torch finds no C++ compiler.
    """
    name = check_mode(mode)
    if name is None:
        return expansion
    if expansion.not_stacked:
        _ = expansion.together  # says why
    values = {field.name: getattr(expansion, field.name) for field in fields(Expansion)}
    return Compiled(**values, mode=name)


def check_mode(mode: Compile) -> str | None:
    """The mode of `torch.compile`, None for none; raises `DataError` if there is no such mode."""
    if mode is False:
        return None
    if mode is not True and mode not in MODES:
        raise DataError(f"torch.compile has no mode {mode!r}; {near(str(mode), MODES)}")
    return "default" if mode is True else mode


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:  # of a class that takes a second to import
            if "InvalidCxxCompiler" not in str(error):
                raise
            raise BackendError("torch.compile makes kernels for the CPU by a C++ compiler, and "
                               "finds none: install one (apt install g++), name it in the "
                               "variable CXX, or leave compile out") from error

    return run
