"""Models from where people keep them: an object, a hub name, a folder, a GGUF file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from rewrite.errors import TraceError
from rewrite.ir.text_sizes import DTYPES
from rewrite.trace.classes import class_for, class_of, config_of
from rewrite.trace.packaged import PACKAGED, folder
from rewrite.trace.shortfall import REPORT, shortfall
from rewrite.trace.wrapped import instead_of, unwrapped
from rewrite.world import LONGEST, check_is_file, reading, turned

LAYERS, MODULES = 10_000, 100_000  # the largest models have fewer
PACKED = 16  # how many times smaller weights may be in files than in memory
SPARE = 2**26  # bytes of weights that no file needs to hold


def load(
    model: Any, dtype: torch.dtype | None = None, *, allow_missing: bool = False,
    trust_remote_code: bool = False,
) -> nn.Module:
    """The model behind `model`, in eval mode if it is loaded here.

    A module is returned as it is, without what is wrapped around it to compile it, to share it
    among devices, to serve or to train it.  A string or path is a folder in Hugging Face format,
    a `.gguf` file, a packaged model (`smollm2-135m`), or a name on the hub (looked up there
    unless `HF_HUB_OFFLINE` is set); it is loaded as `dtype` (default: float32).
    A configuration of transformers, or the path of a `config.json`, is a model without
    weights, on the meta device, in `dtype` (default: the type that it names, else float32).
    Files with code of their own are refused unless `trust_remote_code`.
    Raises `TraceError` for anything that is no model, for a module of another type than
    `dtype`, and for files that lack weights of the model, or hold others: with `allow_missing`
    such a model is loaded all the same, with random numbers in place of what is missing.
    """
    return loaded(model, dtype, allow_missing, trust_remote_code)[0]


def loaded(
    model: Any, dtype: torch.dtype | None = None, allow_missing: bool = False,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, tuple[str, ...]]:
    """What `load` returns, and notes on weights that were missing."""
    model = unwrapped(model)
    if isinstance(model, nn.Module):
        _check_dtype(model, dtype)
        return model, ()
    if _is_config(model):
        return _build_empty(model, dtype), ()
    if not isinstance(model, (str, Path)):
        raise TraceError(f"cannot trace a {type(model).__name__}: pass an nn.Module, a folder, "
                         "a .gguf file, the name of a model on the Hugging Face hub, or, to trace "
                         f"without weights, a configuration of transformers{instead_of(model)}")
    if model in PACKAGED:
        model = folder(str(model))
    path = Path(model)
    with turned(TraceError, lambda why: f"{str(model)[:80]!r} cannot be looked up: {why}"):
        there, is_folder = os.path.lexists(path), path.is_dir()
    if there and not is_folder:
        check_is_file(path, LONGEST if path.suffix == ".json" else None)
        return ((_read_empty(path, dtype, trust_remote_code), ()) if path.suffix == ".json"
                else _load_gguf(path, dtype, allow_missing))
    if (path / "adapter_config.json").is_file():
        raise TraceError(f"{path} holds an adapter, which is not loaded by itself: load it with "
                         "peft, and pass peft.AutoPeftModelForCausalLM.from_pretrained(folder)"
                         ".merge_and_unload()")
    if is_folder and not (path / "config.json").is_file():
        raise TraceError(f"{path} is a folder without config.json, so it holds no model; save "
                         "one there with model.save_pretrained(folder)")
    if is_folder:
        _check_files(path)
    return _load_pretrained(str(model), dtype, allow_missing, trust_remote_code)


def _check_files(folder: Path) -> None:
    """Libraries open whatever has the right name: a pipe would be waited for."""
    with reading(folder):
        for path in folder.iterdir():
            if path.exists() and not path.is_dir():
                check_is_file(path, LONGEST if path.suffix == ".json" else None)


def _check_size(empty: nn.Module, files: Iterable[Path]) -> None:
    """Weights that files have no room for would be made up, and may fill the memory."""
    needed = sum(p.numel() * p.element_size() for p in empty.parameters())
    held = sum(path.stat().st_size for path in files if path.is_file())
    if needed > PACKED * held + SPARE:
        raise TraceError(f"it asks for {needed:,} bytes of weights, and the files hold {held:,}: "
                         "its configuration is of another model")


@contextmanager
def few_modules() -> Iterator[None]:
    """Give up on a model of more modules than any has, before it fills the memory."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > MODULES:
            raise TraceError(f"it asks for more than {MODULES:,} modules: look at its numbers of "
                             "layers and experts")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtype is not None and types and dtype not in types:
        found = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
        name = str(dtype).removeprefix("torch.")
        raise TraceError(f"asked for {name}, and {type(model).__name__} is {found}: a module is "
                         f"traced in the type that it has, so call model.to(torch.{name}) first")


def _is_config(model: Any) -> bool:
    import transformers

    return isinstance(model, transformers.PreTrainedConfig)


def _read_empty(path: Path, dtype: torch.dtype | None, trusted: bool) -> nn.Module:
    with turned(TraceError, lambda why: f"{path} is no configuration of a model: {why} (it needs "
                "the key model_type, as in the config.json beside a model's weights)"):
        config = config_of(path, trusted)
    return _build_empty(config, dtype, path, trusted)


def _build_empty(
    config: Any, dtype: torch.dtype | None, place: str | Path = "", trusted: bool = False
) -> nn.Module:
    """A model on the meta device: shapes and types of its weights, and no memory for them."""
    with turned(TraceError, lambda why: f"no model can be built from this "
                f"{type(config).__name__}: {why}"):
        named = getattr(config, "dtype", None)
        wanted = dtype or (DTYPES.get(named) if isinstance(named, str) else named)
        return _empty(config, class_for(config, place, trusted), wanted or torch.float32)


def _empty(config: Any, kind: Any, dtype: torch.dtype) -> nn.Module:
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > LAYERS:
        raise TraceError(f"{layers:,} layers are more than any model has")
    config = copy.deepcopy(config)  # building writes the type into it
    with torch.device("meta"), few_modules():
        build = getattr(kind, "_from_config", None) or kind.from_config
        made = build(config, dtype=dtype).eval()
    return made.to("meta")  # old constructors such as torch.FloatTensor ignore the device


def _load_pretrained(
    name: str, dtype: torch.dtype | None, allow_missing: bool, trusted: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    with turned(TraceError, lambda why: f"{name!r} could not be loaded as a model: {why} "
                "(a folder needs config.json and weights, its config.json alone is traced without "
                "weights; a hub name needs the network or a filled cache)"):
        config = config_of(name, trusted)
        kind = class_of(config, name, trusted)
        if (files := Path(name)).is_dir():
            empty = _empty(config, kind, dtype or torch.float32)
            _check_size(empty, files.iterdir())
            if getattr(config, "quantization_config", None) is None:
                _check_types(empty, files.glob("*.safetensors"))
        model, info = kind.from_pretrained(name, dtype=dtype or torch.float32,
                                           trust_remote_code=trusted, **REPORT)
    return model.eval(), shortfall(name, kind.__name__, info, allow_missing)


def _check_types(empty: nn.Module, files: Iterable[Path]) -> None:
    """Raise `TraceError` for integers where a model has floats: they are other bits."""
    prefix = f"{getattr(empty, 'base_model_prefix', '')}."
    known = {name.removeprefix(prefix) for name, weight in empty.named_parameters()
             if weight.is_floating_point()}
    for file in files:
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118, it is no dict
                found = held.get_slice(name).get_dtype()
                if found[0] in "IU" and name.removeprefix(prefix) in known:
                    raise TraceError(f"{file.name} holds {name} as integers ({found}), and the "
                                     "model has floating numbers there: copy the file again, or "
                                     "save the model again")


def _load_gguf(
    path: Path, dtype: torch.dtype | None, allow_missing: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    if path.suffix != ".gguf":
        raise TraceError(f"{path} is a file, and the only model files that can be read are "
                         ".gguf; for safetensors pass the folder that holds config.json")
    from transformers import AutoModelForCausalLM

    with turned(TraceError, lambda why: f"{path} could not be read as GGUF: {why}"):
        config = config_of(path.parent, False, gguf_file=path.name)
        _check_size(_empty(config, AutoModelForCausalLM, dtype or torch.float32), [path])
        found: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype or torch.float32,
            trust_remote_code=False, **REPORT)
    model, info = found
    return model.eval(), shortfall(path.name, type(model).__name__, info, allow_missing)
