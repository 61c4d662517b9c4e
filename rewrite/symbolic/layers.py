"""Softmax, norms, attention and convolution, in terms of simpler operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rewrite.errors import ProofError
from rewrite.symbolic.table import Table
from rewrite.symbolic.tensor import (
    SymbolicTensor,
    call_rule,
    lift,
    operator_rule,
    table_of,
    wrapped,
)

aten = torch.ops.aten


def enter_rules() -> None:
    """Importing this module enters its rules into the table; calling this says so."""


# softmax(x)_i = exp(x_i) / sum_j exp(x_j): no maximum is subtracted, there is no overflow
@operator_rule(aten._softmax.default, aten._safe_softmax.default)
def _softmax(x: SymbolicTensor, dim: int, *_: Any, **__: Any) -> Tensor:
    powers = torch.exp(x)
    return powers / powers.sum(dim, keepdim=True)


@operator_rule(aten._log_softmax.default)
def _log_softmax(x: SymbolicTensor, dim: int, *_: Any) -> Tensor:
    return x - torch.log(torch.exp(x).sum(dim, keepdim=True))


@operator_rule(aten.logsumexp.default)
def _logsumexp(x: SymbolicTensor, dims: Any, keepdim: bool = False) -> Tensor:
    return torch.log(torch.exp(x).sum(dims, keepdim=keepdim))


# layer_norm(x) = (x - mean) / sqrt(var + eps) * weight + bias
@operator_rule(aten.native_layer_norm.default)
def _layer_norm(
    x: Any, shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x = lift(table_of(x, weight, bias), x)
    dims = list(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(dims, keepdim=True)
    apart = x - mean
    scale = torch.rsqrt((apart * apart).mean(dims, keepdim=True) + eps)
    return _affine(apart * scale, weight, bias), mean, scale


# rms_norm(x) = x / sqrt(mean(x^2) + eps) * weight
@operator_rule(aten._fused_rms_norm.default)
def _rms_norm(x: Any, shape: Any, weight: Any, eps: float | None) -> tuple[Tensor, Tensor]:
    x = lift(table_of(x, weight), x)
    dims = list(range(x.ndim - len(shape), x.ndim))
    smallest = torch.finfo(x.dtype).eps if eps is None else eps
    scale = torch.rsqrt((x * x).mean(dims, keepdim=True) + smallest)
    return _affine(x * scale, weight, None), scale


@operator_rule(aten.native_group_norm.default)
def _group_norm(
    x: Any, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x = lift(table_of(x, weight, bias), x)
    parts = x.reshape(n, groups, -1)
    made, mean, scale = _layer_norm(parts, [parts.shape[-1]], None, None, eps)
    per_channel = [v if v is None else v.reshape(c, *[1] * (x.ndim - 2)) for v in (weight, bias)]
    return _affine(made.reshape(x.shape), *per_channel), mean.squeeze(-1), scale.squeeze(-1)


# batch_norm(x) = (x - mean) / sqrt(var + eps) * weight + bias, with stored mean and variance
@operator_rule(aten._native_batch_norm_legit_no_training.default, aten.cudnn_batch_norm.default)
def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    table = table_of(x, weight, bias, mean, var)
    sizes = (-1, *[1] * (x.ndim - 2))
    mean, var, x = lift(table, mean), lift(table, var), lift(table, x)
    made = (x - mean.reshape(sizes)) * torch.rsqrt(var.reshape(sizes) + eps)
    made = _affine(made, *(v if v is None else v.reshape(sizes) for v in (weight, bias)))
    return made, torch.empty(0), torch.empty(0)


@operator_rule(aten.native_batch_norm.default)
def _native_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float,
    eps: float,
) -> tuple[Any, Any, Any]:
    if training:
        raise ProofError("batch_norm in training mode takes statistics of its batch; call .eval()")
    return _batch_norm(x, weight, bias, mean, var, momentum, eps)


@call_rule(aten.batch_norm.default, torch.batch_norm)
def _whole_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float,
    eps: float, *_: Any,
) -> Tensor:
    return _native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)[0]


def _affine(x: Tensor, weight: Any, bias: Any) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


# attention(q, k, v) = softmax(scale q k^T + mask) v
@call_rule(F.scaled_dot_product_attention, aten.scaled_dot_product_attention.default)
def attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:
    """Attention as a formula; masks of bool, or of 0 and -inf."""
    table = table_of(query, key, value, attn_mask)
    if dropout_p:
        raise ProofError("attention with dropout is random; call .eval()")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3)
                      for x in (key, value))
    scores = _scaled(query @ key.transpose(-2, -1), scale, query.shape[-1], table)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


@operator_rule(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _flash(
    query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Any = None, scale: float | None = None,
) -> tuple[Tensor, None]:
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale), None


def _scaled(scores: Tensor, scale: float | None, width: int, table: Table) -> Tensor:
    if scale is not None:
        return scores * scale
    return scores / wrapped(table, [table.root(table.number(width))], ())


# conv(x, W, b)[n, o, i] = sum_{c, k} x[n, c, s i + d k] W[o, c, k] + b[o]
@operator_rule(aten.convolution.default)
def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Tensor:
    if transposed:
        raise ProofError("transposed convolutions are not known; write the product itself")
    table = table_of(x, weight, bias)
    x, weight = lift(table, x), lift(table, weight)
    pads = [p for size in reversed(padding) for p in (size, size)]
    x = aten.constant_pad_nd.default(x, pads, 0.0)
    for axis, (s, d) in enumerate(zip(stride, dilation, strict=True)):
        k = weight.shape[2 + axis]
        x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    n, spatial, kernel = x.shape[0], x.shape[2: 2 + len(stride)], weight[0].numel()
    x = x.reshape(n, groups, x.shape[1] // groups, *x.shape[2:])
    x = x.movedim(2, 2 + len(stride)).reshape(n, groups, math.prod(spatial), kernel)
    filters = weight.reshape(groups, -1, kernel).mT
    made = (x @ filters).mT.reshape(n, -1, *spatial)
    return _affine(made, None, None if bias is None else bias.reshape(-1, *[1] * len(stride)))
