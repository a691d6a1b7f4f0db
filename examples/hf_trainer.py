"""Distillation with Hugging Face's Trainer: AutoModelForImageClassification on both sides, and one method of the Trainer replaced.

teacher = AutoModelForImageClassification.from_pretrained("microsoft/resnet-50")
student = AutoModelForImageClassification.from_pretrained("microsoft/resnet-18")
DistillationTrainer(model=student, args=TrainingArguments(...), train_dataset=..., teacher=teacher).train()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import Trainer

from angularkd import Distiller


class DistillationTrainer(Trainer):
    """A Trainer whose model learns from a frozen teacher; evaluation, checkpoints and `save_model` are the student's alone."""

    def __init__(self, *args: Any, teacher: nn.Module, losses: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.distiller = Distiller(teacher, self.model, losses).to(self.args.device)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **options: Any
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **options)
        out = self.distiller(inputs["pixel_values"], inputs["labels"])
        return (out.total, {"logits": out.student_logits}) if return_outputs else out.total
