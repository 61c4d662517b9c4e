"""What a measurement is of: kept in its file, and compared when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import fx

from rewrite.errors import DataError
from rewrite.ir.values import attribute
from rewrite.measure import Metric, Pairs
from rewrite.measure.metrics import Custom
from rewrite.parts import Components
from rewrite.run.digest import Digest, digest


def identity(parts: Components, pairs: Pairs, metric: Metric) -> dict[str, Any]:
    """All that a number depends on beside the paths, by what it is called in errors.

    Sizes of batches and chunks, devices, compilation and backends do not count: numbers are
    the same up to rounding.

    >>> list(identity(parts, pairs, rw.kl_divergence()))[:4]
    ['model', 'names', 'inputs', 'labels']

    Raises `DataError` for a metric that reads what cannot be compared.
    """
    return {
        "model": model_digest(parts),
        "names": digest((parts.granularity, repr(parts.dag.nodes), parts.dag.outputs)),
        "inputs": digest({run: [dict(example) for example in examples]
                          for run, examples in pairs.runs.items()}),
        "labels": digest({name: list(values) for name, values in pairs.labels.items()}),
        "positions": digest({name: list(values) for name, values in pairs.positions.items()}),
        "reference": pairs.reference,
        "metric": str(metric), "code of the metric": metric_digest(metric),
        "precision": _precision(), "versions": _versions(),
    }


def model_digest(parts: Components) -> str:
    """Equal for models that compute the same: operators, functions put in, and all weights."""
    made, module, number = Digest(), parts.graph.module, dict[fx.Node, int]()
    pieces = []
    for node in module.graph.nodes:
        number[node] = len(number)
        target = attribute(module, node.target) if node.op in ("get_attr", "call_module") else (
            node.target)
        arguments = fx.map_arg((node.args, node.kwargs), lambda n: f"node {number[n]}")
        pieces.append(made.of((node.op, target, arguments), f"{node.name} of {parts.graph.name}"))
    return digest((pieces, parts.graph.constants, parts.graph.outputs.names))


def metric_digest(metric: Metric) -> str:
    """Equal for metrics of the same class and options and, of a function, the same code."""
    if isinstance(metric, Custom) and metric.version is not None:
        return f"version {metric.version}, {metric.position}, {metric.output}, {metric.axes}"
    try:
        return digest(metric, f"metric {metric.name!r}")
    except DataError as error:
        raise DataError(
            f"{error}: leave out file=, or say which version of the function it is by "
            f"rw.custom(function, {metric.name!r}, version='1'), and change that with the "
            "function") from error


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the identity in a file and that of the call, in words.

    >>> differences({"metric": "kl_divergence"}, {"metric": "logit_diff", "labels": "5f"})
    'metric was kl_divergence, now logit_diff; it does not say its labels'
    """
    return "; ".join(
        f"{name} was {was[name]}, now {value}" if name in was else f"it does not say its {name}"
        for name, value in now.items() if name not in was or was[name] != value)


def _precision() -> str:
    """How exactly matrices are multiplied, where it is not as usual."""
    found = {"matmul": torch.get_float32_matmul_precision()}
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            found[f"autocast on {device}"] = str(torch.get_autocast_dtype(device))
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _versions() -> str:
    try:
        ours = version("rewrite")
    except PackageNotFoundError:
        ours = "from source"
    return f"rewrite {ours}, torch {torch.__version__}"
