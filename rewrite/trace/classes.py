"""Configurations and classes of models, by what their files say.

Files may bring Python code of their own, and name code to download.  It is run only where the
user says that it is trusted; transformers would ask at a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewrite.errors import TraceError

CONFIG = "config.json"


def config_of(place: str | Path, trusted: bool, **options: Any) -> Any:
    """The configuration in a folder, a file or on the hub.

    Raises `TraceError` for one that only code of its own can read or run, unless `trusted`.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not trusted:
        said, _ = transformers.PreTrainedConfig.get_config_dict(place, **options)
        if "AutoConfig" in _own(said) and said.get("model_type") not in CONFIG_MAPPING:
            raise refused(place, "code of its own")
    elif Path(place).name == CONFIG and Path(place).is_file():
        place = Path(place).parent  # where its code is
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=trusted, **options)
    for kernel in () if trusted else _kernels(config):
        raise refused(place, f"the kernel {kernel!r} to download, which is code")
    return config


def refused(place: str | Path, what: str) -> TraceError:
    """What is said of a model that cannot be loaded without running its own code."""
    return TraceError(f"{place} brings {what}, which is not run unless you trust it: if you do, as "
                      f"you trust a program, rw.trace({str(place)!r}, trust_remote_code=True)")


def _own(config: Any) -> Mapping[str, str]:
    """The classes that files define themselves, by the classes of transformers they stand for."""
    found = config.get("auto_map") if isinstance(config, dict) else getattr(
        config, "auto_map", None)
    return found if isinstance(found, dict) else {}


def _kernels(config: Any) -> Iterator[str]:
    """Implementations of attention and experts that are repositories on the hub."""
    inner = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    for each in (config, *inner):
        for name in ("_attn_implementation", "_experts_implementation"):
            chosen = getattr(each, name, None)
            if isinstance(chosen, str) and "/" in chosen:
                yield chosen


def class_of(config: Any, place: str | Path, trusted: bool) -> Any:
    """The class that a configuration names; `AutoModel` if it names none."""
    listed = getattr(config, "architectures", None)
    name = listed[0] if listed else "AutoModel"
    own = {where.rpartition(".")[2]: where for kind, where in _own(config).items()
           if kind.startswith("AutoModel")}
    if trusted and own:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        folder = Path(place).parent if Path(place).is_file() else place
        return get_class_from_dynamic_module(own.get(name, next(iter(own.values()))), str(folder))
    found = named_class(name)
    if found is None and name in own:
        raise refused(place, f"code of its own for {name}")
    if found is None:
        raise TraceError(f"{str(place)!r} is a {name}, which is no model of this version of "
                         "transformers; load the model yourself and pass the object")
    return found


def named_class(name: str) -> Any:
    """The model of transformers that is called so; None for other things."""
    import transformers

    found = getattr(transformers, name, None) if isinstance(name, str) else None
    model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if model or name == "AutoModel" else None


def class_for(config: Any, place: str | Path = "", trusted: bool = False) -> Any:
    """The class that the configuration names, else the one that transformers gives it a head of.

    Without a name, encoder-decoders and encoders get the head that they are trained with.
    """
    import transformers

    if getattr(config, "architectures", None):
        return class_of(config, place or type(config).__name__, trusted)
    kinds = ["AutoModelForCausalLM", "AutoModel"]
    if getattr(config, "is_encoder_decoder", False):
        kinds.insert(0, "AutoModelForSeq2SeqLM")
    elif not getattr(config, "is_decoder", False):
        kinds.insert(0, "AutoModelForMaskedLM")
    for name in kinds:
        kind = getattr(transformers, name)
        if type(config) in kind._model_mapping:
            return kind
    raise TraceError(f"transformers has no model for a {type(config).__name__}; set "
                     'config.architectures = ["NameOfTheModelClass"]')
