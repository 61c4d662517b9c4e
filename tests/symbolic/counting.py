"""What a real run does, counted by torch: FLOPs, kernels, and memory at the peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten

# Calls that only look at memory in another way, or only reserve it.
_VIEWS = """
    view _unsafe_view _reshape_alias expand t transpose permute unsqueeze squeeze slice select
    split split_with_sizes unbind alias detach as_strided unfold diagonal lift_fresh narrow
    view_as_real view_as_complex _conj real imag empty new_empty empty_like empty_strided
    empty_permuted new_empty_strided
"""
VIEWS = frozenset(_VIEWS.split())


@dataclass(frozen=True)
class Counted:
    """What was counted."""

    flops: int
    kernels: int
    peak: int


def counted(call: Callable[[], Any]) -> Counted:
    """Runs `call` several times, without gradients."""
    # torch's own counter knows every fused attention but the one of the cpu.
    ours = {aten._scaled_dot_product_flash_attention_for_cpu:
            lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v)}
    with torch.no_grad():
        with FlopCounterMode(display=False, custom_mapping=ours) as flops:
            call()
        with _Kernels() as kernels:
            call()
        return Counted(flops.get_total_flops(), kernels.calls, peak(call))


def peak(call: Callable[[], Any]) -> int:
    """The most bytes that the allocator of the cpu has given out at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events: Any = profiler.profiler
    live = top = 0
    for event in sorted((e for e in events.kineto_results.events() if e.name() == "[memory]"),
                        key=lambda e: e.start_ns()):
        live += event.nbytes()
        top = max(top, live)
    del result
    return top


class _Kernels(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls += func._opname not in VIEWS
        return func(*args, **(kwargs or {}))
