"""Training: one run from its configuration to its finished folder, the plan before it, the loop in it, and what it saves."""

from angularkd.training.build import build_distillation, build_training
from angularkd.training.build_data import CIFAR_SIZE, PHOTOGRAPH_SIZE, Data, as_size, open_dataset
from angularkd.training.build_evaluation import Evaluation, build_evaluation
from angularkd.training.compilation import compile_step, compile_teacher
from angularkd.training.job import Job, predictor
from angularkd.training.loop import Training, fit
from angularkd.training.measuring import teacher_speed
from angularkd.training.meter import TrainingMeter
from angularkd.training.modules import Modules, taken_out
from angularkd.training.plan import Plan
from angularkd.training.progress import Reporter, Silent, duration
from angularkd.training.replay import Replay, replay
from angularkd.training.run import plan_distillation, run_distillation, run_training
from angularkd.training.state import TrainingState
from angularkd.training.untrained import save_untrained

__all__ = [
    "CIFAR_SIZE",
    "PHOTOGRAPH_SIZE",
    "Data",
    "Evaluation",
    "Job",
    "Modules",
    "Plan",
    "Replay",
    "Reporter",
    "Silent",
    "Training",
    "TrainingMeter",
    "TrainingState",
    "as_size",
    "build_distillation",
    "build_evaluation",
    "build_training",
    "compile_step",
    "compile_teacher",
    "duration",
    "fit",
    "open_dataset",
    "plan_distillation",
    "predictor",
    "replay",
    "run_distillation",
    "run_training",
    "save_untrained",
    "taken_out",
    "teacher_speed",
]
