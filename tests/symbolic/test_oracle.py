"""Symbolic results, with numbers put in, are what torch computes from those numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rewrite.symbolic import SymbolicTensor, run
from tests.symbolic.cases import FUNCTIONS, MODULES, Shapes
from tests.symbolic.oracle import numeric


def draw(shapes: Shapes) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    given = draw(shapes)
    made, wanted = run(function, shapes), function(**given)
    assert isinstance(made, SymbolicTensor) and made.dtype == torch.float64
    torch.testing.assert_close(numeric(made, given), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    make, shapes = MODULES[name]
    torch.manual_seed(0)
    module = make().double().eval()
    given = draw(shapes)
    before = dict(module.named_parameters())
    made, wanted = run(module, shapes), module(**given)
    assert all(p is before[name] for name, p in module.named_parameters())
    torch.testing.assert_close(numeric(made, given | before), wanted, rtol=1e-9, atol=1e-9)
