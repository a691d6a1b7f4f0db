"""Models fitted to a data set's images: by one forward, whose findings travel; and what is refused."""

from __future__ import annotations

import pytest
from torch import nn

from angularkd import InputError
from angularkd.models import (
    Classifier,
    Preprocessing,
    Traces,
    check_trained,
    cifar,
    fit_to_images,
    freeze_all_but_head,
)


def forwards(module: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of the images of every forward from now on."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _module, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


def classifier(module: nn.Module, classes: int = 10, **more) -> Classifier:
    return Classifier("mine.py:build", module, classes, Preprocessing((0.5,) * 3, (0.5,) * 3), **more)


def test_fitting_takes_one_forward_and_its_findings_travel() -> None:
    module = cifar.create("resnet8", 10)
    shapes = forwards(module)
    fitted = fit_to_images(classifier(module), (12, 16), None, "model")
    assert (fitted.preprocessing.size, fitted.trace.image_size) == (None, (12, 16))
    resized = fit_to_images(classifier(module), (12, 16), (8, 8), "model")
    assert (resized.preprocessing.size, resized.trace.image_size) == ((8, 8), (8, 8))
    freeze_all_but_head(resized)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["linear.weight", "linear.bias"]
    assert shapes == [(2, 3, 12, 16), (2, 3, 8, 8)]


class OfOneSize(nn.Module):
    """Takes images of 8x8 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 10)

    def forward(self, images):
        return self.linear(images.flatten(1))


def test_a_model_of_one_size_has_images_brought_to_it_unless_another_was_asked_for() -> None:
    fitted = fit_to_images(classifier(OfOneSize(), native_size=(8, 8)), (12, 16), None, "teacher")
    assert (fitted.preprocessing.size, fitted.trace.image_size) == ((8, 8), (8, 8))
    assert fitted.notes == ("the teacher takes no images of 12x16: each is resized to 8x8 for it",)
    reason = r"cannot take images of {} \(RuntimeError: mat1 and mat2 .*\): give another `image_size`, or `{}`"
    for role, native, requested, size, parameter in (
        ("student", (8, 8), (9, 9), "9x9", "student_input_size"),
        ("model", None, None, "12x16", "input_size"),
        ("teacher", (7, 7), None, "12x16", "teacher_input_size"),
    ):
        with pytest.raises(InputError, match=f"the {role} mine.py:build {reason.format(size, parameter)}"):
            fit_to_images(classifier(OfOneSize(), native_size=native), (12, 16), requested, role)


def test_a_network_that_is_built_again_is_not_run_again() -> None:
    traces, modules = Traces(), [cifar.create("resnet8", classes) for classes in (10, 10, 7)]
    runs = [forwards(module) for module in modules]
    first, again, wider = (
        fit_to_images(classifier(module, module.linear.out_features), (8, 8), None, "model", traces)
        for module in modules
    )
    assert again.trace is first.trace and again.module is modules[1]
    assert wider.trace is not first.trace and wider.trace.output_shape == (2, 7)
    fit_to_images(classifier(modules[1]), (8, 8), (12, 12), "model", traces)
    assert runs == [[(2, 3, 8, 8)], [(2, 3, 12, 12)], [(2, 3, 8, 8)]]


def test_a_network_that_is_built_again_takes_no_size_that_it_has_refused() -> None:
    traces, modules = Traces(), [OfOneSize(), OfOneSize()]
    runs = [forwards(module) for module in modules]
    first, again = (
        fit_to_images(classifier(module, native_size=(8, 8)), (12, 16), None, "student", traces) for module in modules
    )
    assert runs[0][-1] == (2, 3, 8, 8) and (2, 3, 12, 16) in runs[0] and not runs[1]
    assert again.trace is first.trace and again.preprocessing == first.preprocessing and again.notes == first.notes


def test_a_model_that_gives_no_logits_of_its_classes_is_refused() -> None:
    class Twice(nn.Module):
        def forward(self, images):
            return images, images

    for module, found in ((nn.Flatten(), r"\[2, 192\]"), (OfOneSize(), r"\[2, 10\]"), (Twice(), "tuple")):
        with pytest.raises(
            InputError, match=rf"mine.py:build gives {found} for a batch of 2 images, not logits \[2, 7\]"
        ):
            fit_to_images(classifier(module, 7), (8, 8), None, "model")


def test_a_model_without_a_classification_layer_cannot_be_trained_by_it() -> None:
    class Cut(OfOneSize):
        def forward(self, images):
            return super().forward(images)[:, :9]

    fitted = fit_to_images(classifier(Cut(), 9), (8, 8), None, "model")
    with pytest.raises(InputError, match=r"mine\.py:build has no layer whose output is its logits"):
        freeze_all_but_head(fitted)
    assert all(parameter.requires_grad for parameter in fitted.module.parameters())


def test_a_model_that_must_know_something_needs_weights() -> None:
    untrained = Classifier("cifar/resnet8", cifar.create("resnet8", 10), 10)
    with pytest.raises(
        InputError, match="the teacher cifar/resnet8 has no trained weights: give a file as `teacher_weights`"
    ):
        check_trained(untrained)
    with pytest.raises(InputError, match="give a file as `weights`, or a run's folder as the model"):
        check_trained(untrained, "model")
    check_trained(classifier(OfOneSize()))  # a user's own code may load what it likes
