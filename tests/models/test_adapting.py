"""A teacher of other classes, or for other image sizes: mapped, fitted, resized for; and what is refused."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import angularkd
from angularkd import Distiller, InputError
from angularkd.config import TrainConfig
from angularkd.distillation import LiveTeacher
from angularkd.models import (
    ClassMapping,
    cifar,
    fingerprint,
    read_metadata,
    save_weights,
)
from angularkd.training import Silent
from helpers import DIGITS, distillation_job, same, saved_weights, training_job

LOSSES = {"ce": 0.1, "kd": 0.9, "amd": 10.0}
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
"""Where each digit stands among the classes of a teacher."""


def classes_of(folder: Path) -> dict:
    return read_metadata(folder / "student.safetensors")


def widened(ten: dict[str, Tensor]) -> nn.Module:
    """The same network with two classes more, those of the digits shuffled by ORDER."""
    model = cifar.create("resnet8", 12)
    state = {**ten, "linear.weight": torch.zeros(12, 64), "linear.bias": torch.full((12,), 2.0)}
    for name in ("linear.weight", "linear.bias"):
        state[name][list(ORDER)] = ten[name]
    model.load_state_dict(state)
    return model


def wider(digits: Path, folder: Path, names: tuple[str, ...] | None) -> Path:
    """A folder of the same teacher with two classes more."""
    metadata = {key: value for key, value in classes_of(digits).items() if key != "classes"}
    folder.mkdir(exist_ok=True)
    model = widened(saved_weights(digits))
    save_weights(folder / "student.safetensors", model, {**metadata, **({"classes": list(names)} if names else {})})
    return folder


def options(teacher: Path | str, out: Path, **more) -> dict:
    return {
        **DIGITS,
        "teacher": str(teacher),
        "student": "cifar/resnet8",
        "loss": LOSSES,
        "out": str(out),
        "epochs": 1,
        **more,
    }


def mapping_file(folder: Path) -> str:
    (folder / "map.yaml").write_text("".join(f"{digit}: {index}\n" for digit, index in enumerate(ORDER)))
    return str(folder / "map.yaml")


def test_a_mapped_teacher_is_as_good_as_it_was(digits_teacher, tmp_path) -> None:
    teacher, file = wider(digits_teacher, tmp_path / "wide", None), mapping_file(tmp_path)
    with pytest.raises(InputError, match="the teacher tells apart 12 classes, the data has 10"):
        angularkd.distill(**options(teacher, tmp_path / "a"))
    mapped = angularkd.distill(**options(teacher, tmp_path / "a", teacher_classes=file))
    plain = angularkd.evaluate(data="digits", model=str(digits_teacher), device="cpu")["metrics"][str(digits_teacher)]
    for name in ("accuracy", "nll"):
        assert mapped.results["metrics"]["teacher"][name] == pytest.approx(plain[name], rel=1e-5)
    plan = json.loads((tmp_path / "a/plan.json").read_text())
    assert plan["teacher_validation"]["accuracy"] > 0.8
    assert [pair["teacher"] for pair in plan["pairs"]] == ["layer1", "layer2", "layer3"]
    assert f"the 12 classes of {teacher} are mapped to the data's 10 by {file}" in plan["notes"]
    beside = angularkd.evaluate(
        data="digits", model=str(teacher), classes=file, teacher=str(teacher), teacher_classes=file, device="cpu"
    )["metrics"]
    assert beside[str(teacher)]["agreement"] == 1.0
    assert beside[str(teacher)]["accuracy"] == plain["accuracy"]


def test_a_mapped_teacher_teaches_the_same() -> None:
    """The first step's terms and gradients, in float64: there rounding is far below what a wrong class would change."""
    torch.manual_seed(0)
    plain, student = cifar.create("resnet8", 10), cifar.create("resnet8", 10).double()
    wide = widened(plain.state_dict()).double()
    plain.double()
    images, labels = torch.rand(8, 3, 8, 8, dtype=torch.float64), torch.arange(8)
    found = []
    for teacher in (LiveTeacher(wide, mapping=ClassMapping(tuple((i,) for i in ORDER))), LiveTeacher(plain)):
        out = Distiller(teacher, student, LOSSES)(images, labels)
        student.zero_grad()
        out.total.backward()
        found.append((out.terms, {name: parameter.grad.clone() for name, parameter in student.named_parameters()}))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_equal_names_are_mapped_by_themselves(digits_teacher, tmp_path) -> None:
    names = [""] * 12
    names[10:] = ["A", "B"]
    for digit, index in enumerate(ORDER):
        names[index] = str(digit)
    teacher = wider(digits_teacher, tmp_path / "wide", tuple(names))
    found = angularkd.plan(**options(teacher, tmp_path / "never"))
    assert found.teacher_validation["accuracy"] > 0.8
    assert f"the 12 classes of {teacher} are mapped to the data's 10 by their names" in found.notes
    assert not any("mapped" in note for note in angularkd.plan(**options(digits_teacher, tmp_path / "never")).notes)


def test_a_wrong_mapping_is_found_before_anything_is_written(digits_teacher, tmp_path) -> None:
    (tmp_path / "map.yaml").write_text("0: 1\n")
    with pytest.raises(InputError, match="maps no class of the teacher to '1', '2'"):
        angularkd.distill(**options(digits_teacher, tmp_path / "run", teacher_classes=tmp_path / "map.yaml"))
    with pytest.raises(InputError, match="leave out `teacher_classes`"):
        angularkd.distill(**options(digits_teacher, tmp_path / "run", teacher_classes="a", teacher_train=1))
    assert not (tmp_path / "run").exists()


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, classes)

    def forward(self, images):
        return self.linear(self.body(images).mean((2, 3)))


@pytest.mark.parametrize("groups", [((3,), (0,)), ((3, 1), (0,))])
def test_losses_on_logits_see_the_mapped_ones(groups) -> None:
    torch.manual_seed(0)
    teacher, student, images, mapping = Head(5), Head(2), torch.rand(4, 3, 8, 8), ClassMapping(groups)
    distiller = Distiller(LiveTeacher(teacher, mapping=mapping), student, {"kd": {"weight": 1.0, "temperature": 1.0}})
    probabilities = teacher(images).softmax(1)
    chosen = torch.stack([probabilities[:, list(group)].sum(1) for group in groups], dim=1)
    target = chosen / chosen.sum(1, keepdim=True)
    expected = (target * (target.log() - student(images).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(distiller(images).total, expected)


def test_a_loss_through_the_teachers_head_gets_the_mapped_rows_or_is_refused() -> None:
    teacher, student, images = Head(5), Head(2), torch.rand(4, 3, 8, 8)
    more = {"losses": {"srrl": 1.0}, "example": images}
    distiller = Distiller(LiveTeacher(teacher, mapping=ClassMapping(((3,), (0,)))), student, **more)
    assert torch.equal(distiller.losses.losses["srrl"].head_weight, teacher.linear.weight[[3, 0]])
    grouped = LiveTeacher(teacher, mapping=ClassMapping(((3, 1), (0,))))
    with pytest.raises(InputError, match="no single row for a class that is mapped to several"):
        Distiller(grouped, student, **more)
    Distiller(grouped, student, {"rkd": 1.0}, example=images)(images)


@pytest.fixture(scope="module")
def letters(digits_teacher, tmp_path_factory) -> str:
    """Weights of seven classes, none of which is a digit: the body of the digits' teacher, and a head that knows nothing."""
    folder = tmp_path_factory.mktemp("letters")
    torch.manual_seed(3)
    model = cifar.create("resnet8", 7)
    ten = saved_weights(digits_teacher)
    model.load_state_dict({**model.state_dict(), **{n: v for n, v in ten.items() if not n.startswith("linear.")}})
    save_weights(folder / "letters.safetensors", model, {"classes": list("abcdefg")})
    return str(folder / "letters.safetensors")


def test_training_the_head_alone_leaves_everything_else_as_it_was(letters, tmp_path) -> None:
    base = {**DIGITS, "model": "cifar/resnet8", "weights": letters, "epochs": 2, "train_only_head": True}
    run = angularkd.train(**base, new_head=True, out=str(tmp_path / "run"))
    assert run.results["metrics"]["last epoch"]["accuracy"] > 0.8
    before, after = load_file(letters), saved_weights(run.folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"linear.weight", "linear.bias"}


def test_a_head_needs_something_below_it(tmp_path) -> None:
    for more, message in (
        ({"train_only_head": True}, "has no trained weights below its head: give `pretrained`, or `weights`"),
        ({"pretrained": True}, "offers no weights of its own: give a file as `weights`"),
    ):
        with pytest.raises(InputError, match=message):
            angularkd.train(**DIGITS, model="cifar/resnet8", out=str(tmp_path / "run"), **more)
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "class Cut(torch.nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images)[:, :10]\n"
        "def build():\n"
        "    return Cut(torch.nn.Flatten(), torch.nn.Linear(192, 20))\n"
    )
    with pytest.raises(InputError, match="cannot be trained by its head alone"):
        angularkd.train(**DIGITS, model=f"{file}:build", train_only_head=True, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_librarys_own_weights_are_where_training_starts(monkeypatch) -> None:
    import torchvision

    torch.manual_seed(0)
    pretrained, build = torchvision.models.squeezenet1_1(), torchvision.models.get_model
    monkeypatch.setattr(
        "torchvision.models.get_model", lambda name, **more: pretrained if "weights" in more else build(name, **more)
    )
    base = {**DIGITS, "model": "torchvision/squeezenet1_1", "image_size": 32, "epochs": 1, "pretrained": True}
    with pytest.raises(InputError, match="1000 classes, the data has 10: give `new_head`"):
        training_job(**base)
    job = training_job(**base, new_head=True, train_only_head=True)
    assert fingerprint(job.student.module.features) == fingerprint(pretrained.features)
    assert [name for name, p in job.student.module.named_parameters() if p.requires_grad] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    job.distiller.train()
    assert not job.student.module.features.training  # frozen, so it stays as it is evaluated
    assert job.student.module.classifier[0].training  # the head's dropout


@pytest.mark.parametrize("what", ["head", "all"])
def test_a_teacher_of_other_classes_is_fitted_first(letters, tmp_path, what) -> None:
    base = options("cifar/resnet8", tmp_path / "run", teacher_weights=letters, teacher_train=2, teacher_train_what=what)
    planned = angularkd.plan(**base)
    assert planned.teacher_validation == {}
    assert any("fitted to the training images first" in note for note in planned.notes)
    assert not (tmp_path / "run").exists()
    done = angularkd.distill(**base)
    assert done.results["metrics"]["teacher"]["accuracy"] > 0.8
    plan = json.loads((done.folder / "plan.json").read_text())
    assert plan["teacher_validation"]["accuracy"] > 0.8
    assert plan["teacher"]["spec"] == str(tmp_path / "run/teacher")
    fitted, before = saved_weights(tmp_path / "run/teacher"), load_file(letters)
    assert torch.equal(fitted["conv1.weight"], before["conv1.weight"]) == (what == "head")
    assert len((tmp_path / "run/teacher/metrics.jsonl").read_text().splitlines()) == 2


def in_two_parts(letters: str, out: Path) -> dict:
    return options("cifar/resnet8", out, teacher_weights=letters, teacher_train=2, epochs=2)


@pytest.fixture(scope="module")
def whole(letters, tmp_path_factory) -> angularkd.Run:
    """A run in two parts, the teacher's and the student's, which nobody stopped."""
    return angularkd.distill(**in_two_parts(letters, tmp_path_factory.mktemp("parts") / "whole"))


@pytest.mark.parametrize("stop_in", ["teacher", "student"])
def test_a_run_stopped_in_either_part_goes_on(letters, whole, tmp_path, monkeypatch, stop_in) -> None:
    base = in_two_parts(letters, tmp_path / "stopped")
    epochs_before = 1 if stop_in == "teacher" else 3
    calls: list[int] = []
    step = Silent.epoch

    def stop(self, row) -> None:
        calls.append(1)
        if len(calls) == epochs_before:
            raise KeyboardInterrupt
        step(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Silent, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            angularkd.distill(**base)
    assert (tmp_path / "stopped/teacher/student.safetensors").exists() == (stop_in == "student")
    with pytest.raises(InputError, match=r"was started with other options \(epochs\)"):
        angularkd.distill(**{**base, "teacher_train": 3}, resume=True)
    resumed = angularkd.distill(**base, resume=True)
    for part in ("student.safetensors", "teacher/student.safetensors"):
        assert same(saved_weights(whole.folder, part), saved_weights(resumed.folder, part))


def test_a_student_that_cannot_be_taught_is_found_before_the_teacher_is_fitted(letters, tmp_path) -> None:
    base = options("cifar/resnet8", tmp_path / "run", teacher_weights=letters, teacher_train=2)
    with pytest.raises(InputError, match="has no module 'nowhere'"):
        angularkd.distill(**base, pairs="nowhere:layer1")
    with pytest.raises(InputError, match="has no trained weights"):
        angularkd.distill(**{**base, "teacher_weights": None})
    assert not (tmp_path / "run").exists()


def vit(folder: Path) -> Path:
    """A run's folder with a transformer for 224 pixels, which takes no other images."""
    import timm

    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    metadata = {"model": "timm/vit_tiny_patch16_224", "mean": [0.5] * 3, "std": [0.5] * 3}
    save_weights(folder / "student.safetensors", model, metadata)
    return folder


def sizes(job) -> list[tuple[int, int]]:
    """What teacher and student really get of a batch of the job."""
    seen: list[tuple[int, int]] = []
    for module in (job.teacher.module, job.student.module):
        module.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    batch = next(job.batches.epoch(0))
    assert job.distiller(batch.images, batch.labels, batch.indices).total.isfinite()
    return seen


def test_a_transformer_of_one_size_teaches_and_learns_at_another(digits_teacher, tmp_path) -> None:
    base = {**DIGITS, "batch_size": 4, "image_size": 32, "loss": {"ce": 1.0, "kd": 1.0, "amd": 10.0}}
    job = distillation_job(**base, teacher=str(vit(tmp_path / "vit")), student="cifar/resnet8")
    assert sizes(job) == [(224, 224), (32, 32)]
    assert "the teacher takes no images of 32x32: each is resized to 224x224 for it" in job.notes
    assert "resized to 224x224" in str(job.teacher.preprocessing)
    job = distillation_job(**base, teacher=str(digits_teacher), student="timm/vit_tiny_patch16_224")
    assert sizes(job) == [(32, 32), (224, 224)]


def test_each_model_gets_the_size_asked_for(digits_teacher) -> None:
    base = {**DIGITS, "teacher": str(digits_teacher), "student": "cifar/resnet8", "loss": LOSSES, "image_size": 16}
    assert sizes(distillation_job(**base)) == [(16, 16), (16, 16)]
    given = {"teacher_input_size": 8, "student_input_size": (12, 20)}
    job = distillation_job(**base, **given)
    assert sizes(job) == [(8, 8), (12, 20)]
    assert job.config.image_size == (16, 16)


def test_a_size_that_does_not_fit_is_refused(tmp_path) -> None:
    base = {**DIGITS, "student": "cifar/resnet8", "teacher": str(vit(tmp_path / "vit"))}
    with pytest.raises(
        InputError,
        match=r"the teacher .* cannot take images of 64x64 .*: give another `image_size`, or `teacher_input_size`",
    ):
        distillation_job(**base, teacher_input_size=64)
    with pytest.raises(InputError, match="`input_size`: must be at least 1 pixel"):
        TrainConfig.from_options(data="digits", model="cifar/resnet8", input_size=0)


def test_a_student_remembers_the_size_it_was_given(tmp_path) -> None:
    run = angularkd.train(**DIGITS, model="cifar/resnet8", epochs=1, input_size=12, out=str(tmp_path / "run"))
    measured = angularkd.evaluate(data="digits", model=str(run.folder), device="cpu")
    assert "resized to 12x12" in measured["preprocessing"]
    expected = run.results["metrics"]["last epoch"]
    assert measured["metrics"][str(run.folder)] == pytest.approx(expected, rel=1e-5)
    other = angularkd.evaluate(data="digits", model=str(run.folder), input_size=8, device="cpu")
    assert "resized to 8x8" in other["preprocessing"]


def test_an_imagenet_teacher_knows_the_classes_of_imagenette(shared_folder, tmp_path) -> None:
    """Ten of its thousand classes: the teacher's accuracy among these is stated beside its weights (98.0 %)."""
    with tarfile.open(shared_folder / "data/imagenette_224_subset.tar") as archive:
        described = json.load(archive.extractfile("imagenette/README.json"))
        taken: dict[str, int] = {}
        for member in archive:
            folder = str(Path(member.name).parent)
            taken[folder] = taken.get(folder, 0) + member.isfile()
            if member.isfile() and folder.count("/") == 2 and taken[folder] <= 12:
                archive.extract(member, tmp_path, filter="data")
    (tmp_path / "map.json").write_text(json.dumps(described["imagenet_1k_index"]))
    found = angularkd.plan(
        data=str(tmp_path / "imagenette"),
        teacher="torchvision/mobilenet_v2",
        teacher_weights=shared_folder / "weights/imagenet_mobilenet_v2_coral.safetensors",
        teacher_classes=tmp_path / "map.json",
        student="cifar/resnet8",
        student_input_size=64,
        image_size=224,
        batch_size=4,
        val_fraction=0.4,
        device="cpu",
        epochs=1,
        loss={"kd": 1.0},
    )
    assert found.data["val"] >= 40
    assert found.teacher["classes"] == 1000
    assert found.teacher_validation["accuracy"] > 0.9
