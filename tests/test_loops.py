"""The examples for loops of other people: each trains a student, leaves the teacher alone, and saves the student alone."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from angularkd.models import cifar
from helpers import same

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LONGEST = 40
NAMES = ("plain_pytorch", "lightning_module", "hf_trainer", "accelerate_loop", "timm_loss")


def example(name: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries when they are imported
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def images() -> Tensor:
    """Dark images and bright ones, [32, 3, 16, 16]."""
    torch.manual_seed(0)
    return torch.rand(32, 3, 16, 16) * 0.3 + torch.arange(32)[:, None, None, None] % 2 * 0.7


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(32) % 2


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(1)
    return cifar.create("resnet8", 2)


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(2)
    return cifar.create("resnet8", 2)


def loader(images: Tensor, labels: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=8)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_what_it_is(name) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < LONGEST and text.startswith('"""')


def test_a_plain_loop(images, labels, teacher, student, capsys) -> None:
    before, started = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    trained = example("plain_pytorch").distil(teacher, student, list(loader(images, labels)), epochs=2)
    assert trained is student and not same(student.state_dict(), started) and same(teacher.state_dict(), before)
    assert "epoch 2: ce " in capsys.readouterr().out


def test_the_plain_loop_runs_as_its_header_says() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "plain_pytorch.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "amd " in done.stdout, done.stderr


def test_lightning(images, labels, teacher, student, tmp_path) -> None:
    pl = pytest.importorskip("pytorch_lightning")
    before, started = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    module = example("lightning_module").DistilledClassifier(teacher, student)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own: few workers, few batches
        trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **quiet)
        trainer.fit(module, loader(images, labels), loader(images, labels))
    assert trainer.global_step == 4 and {"train/ce", "train/amd", "val/accuracy"} <= set(trainer.callback_metrics)
    assert not same(student.state_dict(), started) and same(teacher.state_dict(), before)
    (file,) = tmp_path.rglob("*.ckpt")
    stored = torch.load(file, weights_only=False)["state_dict"]
    assert len(stored) == len(student.state_dict()) and all(name.startswith("distiller.student.") for name in stored)


class Pixels(Dataset):
    """Images and labels under the names of transformers."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.rows[index]


def test_the_trainer_of_transformers(images, labels, tmp_path) -> None:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

    def network(width: int) -> nn.Module:
        sizes = {"embedding_size": width, "hidden_sizes": [width, 2 * width], "depths": [1, 1], "layer_type": "basic"}
        config = transformers.ResNetConfig(num_labels=2, downsample_in_first_stage=False, **sizes)
        return transformers.AutoModelForImageClassification.from_config(config)

    teacher, student = network(16), network(8)
    before, started = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
        }
        arguments = transformers.TrainingArguments(output_dir=str(tmp_path), save_strategy="no", **given)
        trainer = example("hf_trainer").DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=Pixels(images, labels),
            eval_dataset=Pixels(images, labels),
            teacher=teacher,
        )
        assert trainer.train().training_loss > 0
        assert trainer.evaluate()["eval_loss"] > 0
        trainer.save_model(str(tmp_path / "student"))
    assert not same(student.state_dict(), started) and same(teacher.state_dict(), before)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert same(again.state_dict(), student.state_dict())


def test_accelerate(images, labels, teacher, student, capsys) -> None:
    accelerate = pytest.importorskip("accelerate")
    before, started = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    accelerator = accelerate.Accelerator(cpu=True)
    trained = example("accelerate_loop").distil(teacher, student, loader(images, labels), 1, accelerator)
    assert trained is student and not same(student.state_dict(), started) and same(teacher.state_dict(), before)
    assert "epoch 1: loss" in capsys.readouterr().out


def test_timms_loop(images, labels, teacher, student) -> None:
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    before, started = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    model = example("timm_loss").DistilledModel(teacher, student)
    optimizer, average = create_optimizer_v2(model, opt="sgd", lr=0.05), ModelEmaV3(model)
    model.train()
    for input, target in loader(images, labels):  # as in timm's train_one_epoch
        output = model(input)
        loss = model.loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
    assert not same(student.state_dict(), started) and same(teacher.state_dict(), before)
    model.eval()
    torch.testing.assert_close(model(images), student(images))
    assert average.module(images).shape == (32, 2) and len(model.state_dict()) == len(student.state_dict())


def test_timms_mixup(images, labels, teacher, student) -> None:
    model = example("timm_loss").DistilledModel(teacher, student, {"ce": 1.0, "kd": 1.0}).train()
    mixed = F.one_hot(labels, 2).float() * 0.8 + 0.1
    model.loss(model(images), mixed).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
