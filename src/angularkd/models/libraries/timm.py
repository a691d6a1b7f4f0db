"""Models of timm, by their names there."""

from __future__ import annotations

from typing import Any

from angularkd.errors import InputError, nearest
from angularkd.models.classifier import Classifier
from angularkd.models.downloads import fetch_weights
from angularkd.models.preprocessing import Preprocessing


def from_timm(spec: str, name: str, num_classes: int, pretrained: bool, new_head: bool) -> Classifier:
    """Build the model that timm creates of `name`, with its preprocessing and size, and ImageNet's classes where they are known.

    Args:
        spec: 'timm/NAME', for errors.
        name: the model's, with or without a tag of weights.
        num_classes: of a head that is built anew.
        pretrained: whether to load timm's weights, with their own head unless `new_head`.
        new_head: whether to put a head for `num_classes` on the pretrained body.

    Raises:
        InputError: for an unknown name or tag, and for weights that cannot be fetched.
    """
    import timm
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if not timm.is_model(name):
        raise InputError(
            f"timm has no model '{name}'.{nearest(name, timm.list_models())} See: angularkd list models 'timm/*'"
        )
    head: dict[str, Any] = {} if pretrained and not new_head else {"num_classes": num_classes}
    if pretrained:
        module: Any = fetch_weights(spec, lambda: timm.create_model(name, pretrained=True, **head))
    else:
        try:
            module = timm.create_model(name, pretrained=False, **head)
        except RuntimeError as error:
            raise InputError(
                f"timm cannot make '{name}' ({str(error).splitlines()[0]}): leave out what follows the dot"
            ) from None
    described = module.pretrained_cfg
    preprocessing = Preprocessing(tuple(described["mean"]), tuple(described["std"]), source="timm's own")
    size = tuple(described["input_size"][-2:])
    imagenet = infer_imagenet_subset(module) if pretrained and not new_head else None
    return Classifier(
        spec,
        module,
        module.num_classes,
        preprocessing,
        tuple(ImageNetInfo(imagenet).label_names()) if imagenet else None,  # type: ignore[no-untyped-call]
        pretrained=pretrained,
        image_size=size if pretrained else None,
        native_size=size,
    )


def timm_names() -> list[str]:
    """Return the name of every model."""
    import timm

    return list(timm.list_models())
