"""Image classifiers of Hugging Face transformers: by their name on the hub, or from a folder of save_pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from angularkd.errors import InputError
from angularkd.models.classifier import Classifier, Preprocessing, Size
from angularkd.models.downloads import fetched


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
        config = transformers.AutoConfig.from_pretrained(place, **options)
        kind = transformers.AutoModelForImageClassification
        if not pretrained:
            module = kind.from_config(config, dtype=torch.float32)
        else:
            module, found = kind.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=new_head,
            )
            absent = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
            body = f"{module.base_model_prefix}."
            _check_complete(spec, sorted(key for key in absent if not new_head or key.startswith(body)))
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(place)
        except (OSError, ValueError):  # there is none: the training images' own statistics do
            processor = None
        return module, processor

    what = f"the {'model' if pretrained else 'configuration'} of {spec}"
    remedy = "fetch it where there is a network, save it with save_pretrained, and name the folder: hf/FOLDER"
    module, processor = fetched(what, load, remedy)
    module.config.return_dict = True
    module.register_forward_hook(_logits_alone)
    count = module.config.num_labels
    names = tuple(module.config.id2label[index] for index in range(count))
    size = _size_of(processor)
    return Classifier(
        spec,
        module,
        count,
        _preprocessing_of(processor),
        names if not all(name == f"LABEL_{index}" for index, name in enumerate(names)) else None,
        pretrained=pretrained,
        image_size=size if pretrained else None,
        native_size=_pair(getattr(module.config, "image_size", None)) or size,
    )


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


def _preprocessing_of(processor: Any) -> Preprocessing | None:
    described = getattr(processor, "data_config", None) or {}  # of timm's models on the hub
    mean = described.get("mean") or getattr(processor, "image_mean", None)
    std = described.get("std") or getattr(processor, "image_std", None)
    if processor is not None and getattr(processor, "do_normalize", True) is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return Preprocessing(tuple(mean), tuple(std), source="its image processor's") if mean and std else None


def _size_of(processor: Any) -> Size | None:
    """Return the size to which the processor brings images in the end: its crop, else its size."""
    described = getattr(processor, "data_config", None) or {}
    if "input_size" in described:
        return _pair(described["input_size"][-2:])
    crops = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = crops or getattr(processor, "size", None)
    if size is None:
        return None
    given = dict(size) if not hasattr(size, "height") else {**vars(size)}
    height, width = given.get("height"), given.get("width")
    return (height, width) if height and width else _pair(given.get("shortest_edge"))


def _pair(size: Any) -> Size | None:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None
