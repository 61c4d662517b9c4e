"""Models from where people keep them: an object, a hub name, a folder, a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewrite.errors import TraceError
from rewrite.trace.packaged import PACKAGED, folder


def load(model: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model behind `model`, in eval mode if it is loaded here.

    A module is returned as it is.  A string or path is a folder in Hugging Face format,
    a `.gguf` file, a packaged model (`smollm2-135m`), or a name on the hub (looked up there
    unless `HF_HUB_OFFLINE` is set).
    Raises `TraceError` for anything that is no model.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, (str, Path)):
        raise TraceError(f"cannot trace a {type(model).__name__}: pass an nn.Module, a folder, "
                         "a .gguf file or the name of a model on the Hugging Face hub")
    if model in PACKAGED:
        model = folder(str(model))
    path = Path(model)
    if path.is_file():
        return _load_gguf(path, dtype)
    if path.is_dir() and not (path / "config.json").is_file():
        raise TraceError(f"{path} is a folder without config.json, so it holds no model; save "
                         "one there with model.save_pretrained(folder)")
    return _load_pretrained(str(model), dtype)


def _load_pretrained(name: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name)
        listed = getattr(config, "architectures", None) or ["AutoModel"]
        kind = getattr(transformers, listed[0], None)
        if kind is None:
            raise TraceError(f"{name!r} is a {listed[0]}, which this version of transformers does "
                             "not have; load the model yourself and pass the object")
        return kind.from_pretrained(name, dtype=dtype).eval()
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise TraceError(f"{name!r} could not be loaded as a model: {first} "
                         "(a folder needs config.json and weights; a hub name needs the "
                         "network or a filled cache)") from error


def _load_gguf(path: Path, dtype: torch.dtype) -> nn.Module:
    if path.suffix != ".gguf":
        raise TraceError(f"{path} is a file, and the only model files that can be read are "
                         ".gguf; for safetensors pass the folder that holds config.json")
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, IndexError) as error:
        raise TraceError(f"{path} could not be read as GGUF: {error}") from error
    return model.eval()
