"""Buffers that are no part of a state dict, such as rotary frequencies, stay so in copies."""

from __future__ import annotations

from collections.abc import Collection

import torch


def transient(module: torch.nn.Module) -> set[str]:
    """Names of the buffers that `state_dict` leaves out.

    >>> import torch
    >>> layer = torch.nn.Module()
    >>> layer.register_buffer("table", torch.ones(2), persistent=False)
    >>> transient(layer)
    {'table'}
    """
    return {f"{prefix}.{name}" if prefix else name
            for prefix, owner in module.named_modules(remove_duplicate=False)
            for name in owner._non_persistent_buffers_set}


def leave_out(module: torch.nn.Module, names: Collection[str]) -> None:
    """Have `state_dict` leave out the buffers called `names`, where the module has them."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for name in owner._buffers:
            if (f"{prefix}.{name}" if prefix else name) in names:
                owner._non_persistent_buffers_set.add(name)
