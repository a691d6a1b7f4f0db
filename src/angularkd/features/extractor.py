"""Features of any model by hooks on module paths. The model is never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from angularkd.errors import InputError
from angularkd.features.attention import ClassToken, GradCAM
from angularkd.features.checkpoints import NoFusedAttention
from angularkd.features.feature_maps import MAX_PREFIX, Stage, Tap
from angularkd.features.outputs import heads_of
from angularkd.features.pre_activation import PreActivation
from angularkd.features.taps import TapHooks
from angularkd.features.token_attention import TokenAttention
from angularkd.features.tracing import Head
from angularkd.types import Features, Reduction


@dataclass(frozen=True)
class ModelOutput:
    """What one forward of a model gives.

    Attributes:
        logits: [batch, classes]; None where nothing asks for them and the model did not run.
        features: of its stages, by reduction, but for the reductions that need gradients (`with_class_maps` adds them).
        embedding: its head's input [batch, dim], where a head is known.
        stage_outputs: of the stages' modules, unreduced, where a reduction needs gradients.
        distillation_logits: [batch, classes] of a second head, where the model gives a pair.
    """

    logits: Tensor | None
    features: Mapping[Reduction | None, Features]
    embedding: Tensor | None
    stage_outputs: tuple[Tensor, ...] = ()
    distillation_logits: Tensor | None = None


class FeatureExtractor:
    """Runs a model and returns the features of some of its stages, and its embedding, beside its logits.

    Also a context manager, which closes it at the end.

    Args:
        model: any module; it runs unchanged, and carries hooks while it does so alone. Its logits may be inside of what it gives
            (`heads_of`).
        stages: whose features to extract, from `find_stages` or `stages_at`.
        reductions: to what maps to reduce each stage's features, inside of the hook, so that whole features are never
            all held; `None` stands for the features whole. Where one needs gradients, the forward records them in any case.
        head: the classification layer, whose input is the embedding, before any dropout.
        forward: from images to logits, calling the model (with preprocessing before it, say); by default the model itself.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        reductions: Sequence[Reduction | None] = (None,),
        head: Head | None = None,
        forward: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.model = model
        self.stages = tuple(stages)
        self.reductions = tuple(reductions)
        self._forward = forward if forward is not None else model
        self._needs_gradients = any(isinstance(r, GradCAM) for r in reductions)
        self._rollouts = [r.rollout for r in reductions if isinstance(r, ClassToken)]
        self._attention: TokenAttention | None = None
        self._embedding: Tensor | None = None
        self._embeds_output = head is not None and not head.path
        self._readings = _readings(self.stages, reductions)
        self._stored: list[tuple[Tensor, ...] | None] = [None] * len(self._readings)
        self._stage_outputs: list[Tensor | None] = [None] * len(self.stages)
        self._returns_whole = any(r is None or isinstance(r, PreActivation) for r in reductions)
        taps = [reading.tap for reading in self._readings]
        if head is not None and head.path:
            taps.append(head.before_dropout or Tap(head.path, "input", (0, 0)))
        self._hooks = TapHooks(model, taps, self._store)

    def __call__(self, images: Tensor) -> ModelOutput:
        """Run the model on images [batch, 3, height, width].

        Raises:
            InputError: where the forward does not reach a stage, a stage lacks what a reduction needs, or there are no logits; and
                once it is closed.
        """
        if not self._hooks.attached and torch.compiler.is_compiling():
            _attach_for_good(self._hooks)
        if not self._needs_gradients:
            with self.attached():
                return self._extract(images)
        with self.attached(), torch.inference_mode(False), self._differentiable():
            return self._extract(images.clone() if images.is_inference() else images)

    def attached(self) -> AbstractContextManager[None]:
        """Return a context in which the hooks are on the model, as calls of compiled code need it, which puts none on itself.

        Raises:
            InputError: once it is closed.
        """
        if self._hooks.closed:
            raise InputError(
                f"what extracts the features of the {type(self.model).__name__} was closed: make a new Distiller, and close it after its "
                "last batch"
            )
        return nullcontext() if self._hooks.attached else self._hooks.on_the_model()

    def close(self) -> None:
        """Remove every hook, for good, which leaves the model as it was."""
        self._hooks.close()

    def __enter__(self) -> FeatureExtractor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extract(self, images: Tensor) -> ModelOutput:
        self._attention = TokenAttention(any(self._rollouts)) if self._rollouts and self.stages else None
        try:
            with torch.set_grad_enabled(self._needs_gradients or torch.is_grad_enabled()):
                output, second = heads_of(self._run(images))
            stored = [values for values in self._stored if values is not None]
            stage_outputs = tuple(values for values in self._stage_outputs if values is not None)
            embedding = self._embedding
        finally:
            self._hooks.stop()
            self._attention = None
            self._forget()
        if len(stored) < len(self._readings):
            raise InputError(_not_reached(self.model))
        if not isinstance(output, Tensor):
            raise InputError(
                f"the model gives a {type(output).__name__}, not logits: return a tensor, or an object whose `logits` they are"
            )
        features: dict[Reduction | None, Features] = {}
        for reading, values in zip(self._readings, stored, strict=True):
            for reduction, value in zip(reading.reductions, values, strict=True):
                features.setdefault(reduction, []).append(value)
        return ModelOutput(output, features, output if self._embeds_output else embedding, stage_outputs, second)

    def _run(self, images: Tensor) -> Any:
        """Run the model once; or twice, as if it were once, where it turns out that it overwrites in training what was read."""
        functions = self._hooks.start(self._returns_whole or torch.is_grad_enabled())
        before = None if self._hooks.settled else _state_of(self.model)
        with (
            functions or nullcontext(),
            self._attention or nullcontext(),
            # the other kernels have no second derivative
            sdpa_kernel(SDPBackend.MATH) if self._needs_gradients else nullcontext(),
            NoFusedAttention() if self._needs_gradients else nullcontext(),
        ):
            output = self._forward(images)
        if not self._hooks.overwritten() or before is None:
            return output
        _restore(self.model, before)
        self._forget()
        return self._run(images)

    def _forget(self) -> None:
        self._embedding = None
        self._stored, self._stage_outputs = [None] * len(self._readings), [None] * len(self.stages)

    def _store(self, index: int, tensor: Tensor, values: Tensor) -> None:
        """Take in what a tap reads: the tensor itself, and the tensor to take its values from."""
        if index == len(self._readings):
            self._embedding = values.flatten(1)
            return
        reading = self._readings[index]
        if self._needs_gradients and index < len(self.stages):
            if not torch.is_grad_enabled():
                raise InputError(
                    f"stage {reading.stage} runs without gradients, which Grad-CAM needs: checkpoint its gradients with "
                    "use_reentrant=False, leave out torch.no_grad, or use another attention mechanism"
                )
            self._stage_outputs[index] = tensor
        features = reading.stage.as_map(values.dequantize() if values.is_quantized else values)
        self._stored[index] = tuple(self._reduce(reading.stage, features, each) for each in reading.reductions)

    def _reduce(self, stage: Stage, features: Tensor, reduction: Reduction | None) -> Tensor:
        if reduction is None:
            return features
        return reduction(self._class_attention(stage, reduction) if isinstance(reduction, ClassToken) else features)

    def _class_attention(self, stage: Stage, mechanism: ClassToken) -> Tensor:
        """Return the class token's attention to the patches of a stage, as [batch, height, width]."""
        row = self._attention.row(mechanism.rollout) if self._attention is not None else None
        if row is None or not 0 < row.shape[1] - stage.positions <= MAX_PREFIX:
            found = "no self-attention" if row is None else f"attention among {row.shape[1]} tokens"
            raise InputError(
                f"stage {stage} has {found} with a class token before its {stage.positions} patches: "
                "use attention=token_norm, a transformer with a class token, or images of the size that it was paired for"
            )
        return row[:, -stage.positions :].reshape(len(row), stage.height, stage.width)

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """Let images of a frozen model require gradients inside: nothing in it could be differentiated otherwise."""
        frozen = not any(parameter.requires_grad for parameter in self.model.parameters())
        handle = self.model.register_forward_pre_hook(_require_gradients) if frozen else None
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()


def _require_gradients(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].detach().requires_grad_(), *inputs[1:]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attach_for_good(hooks: TapHooks) -> None:
    """Put hooks on a model whose extractor is inside of code that is being compiled, which cannot put them on itself."""
    if not hooks.closed:
        hooks.attach()


def _state_of(model: nn.Module) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Return copies of what a forward in training changes: the model's statistics, and the states of the random generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [buffer.clone() for buffer in model.buffers()], torch.get_rng_state(), cuda


def _restore(model: nn.Module, state: tuple[list[Tensor], Tensor, list[Tensor]]) -> None:
    buffers, cpu, cuda = state
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def _not_reached(model: nn.Module) -> str:
    """Return the reason why no hook of a stage has run, with a remedy."""
    parts = list(model.modules())
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        return "a ScriptModule does not show what its parts give: pass the module that it was made of, or use losses on logits"
    if any(hasattr(part, "_orig_mod") for part in parts):
        return (
            "the model was compiled and run before, and such code does not show what its parts give: pass the module that was compiled "
            "(`model._orig_mod`), and compile by `distiller.compile()`"
        )
    return "a stage was not reached by this forward: pair stages that every forward runs through"


@dataclass(frozen=True)
class _Reading:
    """What is read of one stage at one place, and the maps to which it is reduced there."""

    stage: Stage
    tap: Tap
    reductions: tuple[Reduction | None, ...]


def _readings(stages: Sequence[Stage], reductions: Sequence[Reduction | None]) -> list[_Reading]:
    """Return what is read of all stages: their features first, whose gradients Grad-CAM takes too, then those before activations."""
    of_features = tuple(r for r in reductions if not isinstance(r, GradCAM | PreActivation))
    before = tuple(r for r in reductions if isinstance(r, PreActivation))
    needs_features = len(before) < len(reductions)
    readings = [_Reading(stage, stage.tap, of_features) for stage in stages if needs_features]
    return readings + [_Reading(stage, stage.before_activation or stage.tap, before) for stage in stages if before]
