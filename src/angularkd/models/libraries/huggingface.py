"""Image classifiers of Hugging Face transformers: by their name on the hub, or from a folder of save_pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.classifier import Classifier
from angularkd.models.downloads import fetched
from angularkd.models.libraries.processors import pair, preprocessing_of, size_of


def from_huggingface(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    """Build the classifier that AutoModelForImageClassification makes of `name`, giving a tensor of logits.

    It is the library's own module, so module paths (for pairs) and names of weights are those of transformers.
    Mean, standard deviation and image size are those of its image processor, class names those of its configuration.

    Args:
        spec: 'hf/NAME', for errors.
        name: on the hub, or a folder written by save_pretrained.
        num_classes: of a head that is built anew.
        pretrained: whether to load the weights; else only the configuration is used.
        new_head: whether the pretrained network gets a new classification layer, unless it has one of as many classes.

    Raises:
        InputError: for a folder that does not exist, a name that cannot be loaded, weights without a part of the network, and
            where transformers is not installed.
    """
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path and not Path(name).expanduser().is_dir():
        raise InputError(
            f"there is no folder {name}: hf/ takes a name on the hub, or a folder written by save_pretrained"
        )
    place = str(Path(name).expanduser()) if is_path else name
    transformers = _library(spec)

    def load() -> tuple[Any, Any]:
        options: dict[str, Any] = {} if pretrained and not new_head else {"num_labels": num_classes}
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        kind = transformers.AutoModelForImageClassification
        if not pretrained:
            module = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
        else:
            module, found = kind.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=new_head,
                trust_remote_code=False,
            )
            absent = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
            body = f"{module.base_model_prefix}."
            _check_complete(spec, sorted(key for key in absent if not new_head or key.startswith(body)))
        return module, _processor(transformers, place, is_path)

    def load_own_code_never() -> tuple[Any, Any]:
        try:
            return load()
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise InputError(
                f"{spec} needs code that comes with its weights, which is never run: read it, and give its class as FILE.py:CALLABLE"
            ) from None

    what = f"the {'model' if pretrained else 'configuration'} of {spec}"
    remedy = "fetch it where there is a network, save it with save_pretrained, and name the folder: hf/FOLDER"
    module, processor = fetched(what, load_own_code_never, remedy)
    module.config.return_dict = True
    module.register_forward_hook(_logits_alone)
    count = module.config.num_labels
    names = tuple(module.config.id2label[index] for index in range(count))
    size = size_of(processor)
    return Classifier(
        spec,
        module,
        count,
        preprocessing_of(processor, spec) if processor is not None else None,
        names if not all(name == f"LABEL_{index}" for index, name in enumerate(names)) else None,
        pretrained=pretrained,
        image_size=size if pretrained else None,
        native_size=pair(getattr(module.config, "image_size", None)) or size,
    )


def renamed(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return weights under the names of a module of this library, which has changed its names and reads the former ones.

    Args:
        module: of transformers.
        state: by name, as a file of save_pretrained holds it.

    Returns:
        The state; of what has another shape, the file's own values. None where the library does not know all of its names either.
    """
    load: Any = type(module).from_pretrained  # type: ignore[attr-defined]
    try:
        loaded, found = fetched(
            "the weights",
            lambda: load(
                None,
                config=module.config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            ),
            "",
        )
    except InputError:
        return None
    misfits = {key for key, *_ in found["mismatched_keys"]}
    if found["missing_keys"] - misfits or found["unexpected_keys"] or not misfits <= state.keys():
        return None
    return {**loaded.state_dict(), **{key: state[key] for key in misfits}}


def _processor(transformers: Any, place: str, is_path: bool) -> Any:
    """Return the image processor; None where there is none: the training images' own statistics do."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        described = Path(place) / "preprocessor_config.json"
        if "trust_remote_code" in str(error):
            raise
        if is_path and described.is_file():
            reason = (str(error).splitlines() or ["it is damaged"])[0].rstrip(".")
            raise InputError(f"{described} cannot be used ({reason}): mend or remove it") from None
        return None


def _logits_alone(_module: nn.Module, _images: Any, output: Any) -> Tensor:
    """Return the logits alone, as any other classifier does: a forward hook."""
    return output.logits


def _library(spec: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(f"{spec} needs transformers: pip install 'angularkd[hf]'") from None
    return transformers


def _check_complete(spec: str, missing: list[str]) -> None:
    """Raise InputError for parts of the network that the weights do not hold: they would be random."""
    if missing:
        raise InputError(
            f"the weights of {spec} hold no values for {', '.join(missing)}: "
            "name a model that was trained as an image classifier, or train it with a new head first"
        )
