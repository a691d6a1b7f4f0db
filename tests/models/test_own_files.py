"""Models of one's own files: what they may be, how many classes they have, whose code runs, and what is refused in one line."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import angularkd
from angularkd import InputError
from angularkd.models import Classifier, Preprocessing, fit_to_images, open_classifier
from angularkd.models.preprocessing import LUMA
from helpers import DIGITS, same, saved_weights

HEAD = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Options:
    width: int = 4
    classes: int | None = None

class Net(nn.Module):
    def __init__(self, classes, channels=3, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3, 2, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, classes)
    def forward(self, images):
        return self.head(self.pool(torch.relu(self.body(images))).flatten(1))

def net(num_classes):
    return Net(num_classes, width=Options().width)
"""

OTHERS = """
class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Net(3).body
    def forward(self, images):
        return self.body(images)

class Embedding(Net):
    num_classes = 0
    def __init__(self):
        super().__init__(3)
        del self.head
    def forward(self, images):
        return self.pool(torch.relu(self.body(images))).flatten(1)

class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))
        self.head = nn.LazyLinear(num_classes)
    def forward(self, images):
        return self.head(self.body(images).flatten(1))

class Stateful(Net):
    def __init__(self):
        super().__init__(12)
    def get_extra_state(self):
        return {"step": 3}
    def set_extra_state(self, state):
        pass

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(7)
    def forward(self, images):
        return {"logits": self.net(images)}

def thousand(): return Net(1000)
def grey(num_classes): return Net(num_classes, channels=1)
def twelve_channels(num_classes): return Net(num_classes, channels=12)
def half(num_classes): return Net(num_classes).half()
def bfloat(num_classes): return Net(num_classes).bfloat16()
def double(num_classes): return Net(num_classes).double()
def meta(num_classes):
    with torch.device("meta"):
        return Net(num_classes)
def compiled(num_classes): return torch.compile(Net(num_classes), backend="eager")
def scripted(num_classes): return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)))
def exported(num_classes): return torch.export.export(Net(num_classes).eval(), (torch.zeros(2, 3, 8, 8),)).module()
def program(num_classes): return torch.export.export(Net(num_classes).eval(), (torch.zeros(2, 3, 8, 8),))
def int8():
    return torch.ao.quantization.quantize_dynamic(Net(12).eval(), {nn.Linear}, dtype=torch.qint8)
def leaves(num_classes): raise SystemExit(3)
"""


@pytest.fixture
def mine(tmp_path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + OTHERS)
    return file


def distilling(teacher: Any, student: Any = "cifar/resnet8", **more: Any) -> dict[str, Any]:
    return {
        **DIGITS,
        "teacher": str(teacher),
        "student": str(student),
        "epochs": 1,
        "loss": {"ce": 1.0, "amd": 1.0},
        **more,
    }


def one_line(message: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_files_are_modules_so_that_dataclasses_and_pickle_find_them(mine) -> None:
    first, second = (open_classifier(f"{mine}:net", 5).module for _ in range(2))
    assert type(first) is not type(second)  # each opening runs the file anew
    assert sys.modules[type(first).__module__].Net is type(first)
    assert isinstance(pickle.loads(pickle.dumps(first)), type(first))
    before = set(sys.modules)
    mine.write_text("raise KeyError('x\\ny')")
    one_line("failed at line 1 of .*KeyError", open_classifier, f"{mine}:net", 5)
    assert set(sys.modules) == before


def test_a_file_that_ends_the_process_does_not_end_ours(mine) -> None:
    one_line("failed at line .* SystemExit: 3", open_classifier, f"{mine}:leaves", 5)


def test_a_cache_takes_a_teacher_of_an_own_file(mine, tmp_path) -> None:
    options = distilling(f"{mine}:Maps", cache=str(tmp_path / "cache"), augment=("flip",), loss={"ce": 1.0, "amd": 1.0})
    cold = angularkd.distill(**options, out=str(tmp_path / "a"))
    warm = angularkd.distill(**options, out=str(tmp_path / "b"))
    assert same(saved_weights(cold.folder), saved_weights(warm.folder))
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "count"), [("net", 5), ("thousand", 1000), ("Maps", 0), ("Embedding", 0), ("Named", 7)]
)
def test_an_own_model_says_how_many_classes_it_has(mine, name, count) -> None:
    assert open_classifier(f"{mine}:{name}", 5).num_classes == count


def test_an_own_teacher_of_other_classes_is_mapped_or_teaches_its_maps_alone(mine, tmp_path) -> None:
    (tmp_path / "map.yaml").write_text("".join(f"{digit}: {digit + 500}\n" for digit in range(10)))
    one_line(
        "no better than chance", angularkd.plan, **distilling(f"{mine}:thousand", teacher_classes=tmp_path / "map.yaml")
    )
    found = angularkd.plan(**distilling(f"{mine}:thousand"))
    assert any("tells apart 1000 classes, the data has 10: its maps teach" in note for note in found.notes)
    one_line("tells apart 1000 classes", angularkd.plan, **distilling(f"{mine}:thousand", loss={"kd": 1.0}))
    for name in ("Maps", "Embedding"):
        found = angularkd.plan(**distilling(f"{mine}:{name}"))
        assert any("the teacher has no classification layer" in note for note in found.notes)
    one_line("not an embedding", angularkd.plan, **distilling(f"{mine}:Maps", loss={"ce": 1.0, "rkd": 1.0}))
    one_line(
        "give it a layer for as many, or let it take `num_classes`",
        angularkd.plan,
        **distilling(f"{mine}:Maps", f"{mine}:thousand"),
    )
    one_line("can only be a teacher", angularkd.plan, **distilling(f"{mine}:Maps", f"{mine}:Maps"))


def test_models_of_one_channel_get_the_luma_and_say_so(mine, tmp_path) -> None:
    run = angularkd.train(**DIGITS, model=f"{mine}:grey", epochs=1, out=str(tmp_path / "run"))
    again = open_classifier(str(run.folder), 10, trust=[str(mine)])
    assert again.preprocessing.channels == LUMA and len(again.preprocessing.mean) == 1
    metrics = angularkd.evaluate(data="digits", model=str(run.folder), device="cpu", trust=str(mine))["metrics"]
    found = next(iter(metrics.values()))
    assert found["accuracy"] == pytest.approx(run.results["metrics"]["last epoch"]["accuracy"])
    plan = angularkd.plan(**distilling(f"{mine}:Maps", f"{mine}:grey"))
    assert (
        "the student takes images of one channel: it gets their luma, 0.299 red + 0.587 green + 0.114 blue"
        in plan.notes
    )
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    grey = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).grey()
    torch.testing.assert_close(grey(red), torch.tensor((0.299 - 0.5) / 0.25).view(1, 1, 1, 1))


def test_what_takes_other_channels_is_told_what_is_the_matter(mine) -> None:
    classifier = open_classifier(f"{mine}:twelve_channels", 5)
    ready = Classifier(classifier.spec, classifier.module, 5, Preprocessing((0.5,) * 3, (0.5,) * 3))
    one_line(
        "takes 12 channels, and images have 3: give a model of colour images",
        fit_to_images,
        ready,
        (8, 8),
        None,
        "student",
    )


@pytest.mark.parametrize("name", ["half", "bfloat", "double"])
def test_other_precisions_are_computed_with_as_float32(mine, name) -> None:
    classifier = open_classifier(f"{mine}:{name}", 5)
    assert {parameter.dtype for parameter in classifier.module.parameters()} == {torch.float32}
    assert any("are computed with as float32" in note for note in classifier.notes)


def test_layers_without_shapes_get_them_and_train(mine, tmp_path) -> None:
    run = angularkd.train(**DIGITS, model=f"{mine}:Lazy", epochs=1, out=str(tmp_path / "run"))
    again = open_classifier(str(run.folder), 10, trust=[str(mine)])
    assert same(again.module.state_dict(), saved_weights(run.folder))
    angularkd.plan(**distilling(run.folder, f"{mine}:Lazy", trust=str(mine)))


def test_a_compiled_model_is_taken_as_it_was_written(mine) -> None:
    assert type(open_classifier(f"{mine}:compiled", 5).module).__name__ == "Net"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta", "on the meta device, which has no values: build it on the CPU"),
        ("exported", "exported graph, which has neither stages nor an evaluation mode"),
        ("scripted", "ScriptModule, whose parts do not show what they give: give the module that it was made of"),
        ("program", "returned a ExportedProgram: it must return a torch.nn.Module"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_written(mine, tmp_path, name, message) -> None:
    out = str(tmp_path / "run")
    one_line(message, angularkd.train, **DIGITS, model=f"{mine}:{name}", epochs=1, out=out)
    one_line(message, angularkd.distill, **distilling(f"{mine}:{name}", out=out))
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["int8", "Stateful"])
def test_what_no_file_can_hold_teaches_and_is_no_student(mine, tmp_path, name) -> None:
    one_line(
        "can only be a teacher", angularkd.train, **DIGITS, model=f"{mine}:{name}", epochs=1, out=str(tmp_path / "run")
    )
    assert not (tmp_path / "run").exists()
    run = angularkd.distill(
        **distilling(f"{mine}:{name}", out=str(tmp_path / "run"), insist=True, teacher_classes=None)
    )
    assert run.results["teacher_fingerprint"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_given_in_python_teaches_and_learns_by_logits_alone() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    for scripted in (torch.jit.script(network()), nn.Sequential(torch.jit.script(network()))):
        for pair in ((scripted, network()), (network(), scripted)):
            assert torch.isfinite(angularkd.Distiller(*pair, {"ce": 1.0, "kd": 1.0})(images, labels).total)
            one_line(
                "is a ScriptModule, whose parts do not show|no stage of the .* can be paired",
                angularkd.Distiller(*pair, {"amd": 1.0}),
                images,
                labels,
            )


def test_a_module_of_the_caller_is_not_converted() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).half()
    one_line("are float16, and images float32: pass module.float", angularkd.train, **DIGITS, model=module, epochs=1)
    assert module[1].weight.dtype == torch.float16
