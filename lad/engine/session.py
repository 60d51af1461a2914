"""Training of a detector a step at a time, on batches that the caller brings: streams, rounds, experiments.

MMEngine's runner owns the data, the loop and the schedule. Where batches come one by one and nobody knows how many
there will be, a :class:`TrainingSession` has the rest: the config's optimizer wrapper (mixed precision, clipping,
accumulation), random numbers of its own for each step, and a state from which it goes on as if it had not stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lad.base.progress import tell_place
from lad.base.replace import replaced
from lad.engine.hooks.bad_batch import bad_terms
from lad.engine.hooks.numerical_faults import DeviceFlag, not_finite
from lad.engine.randomness import seed_step
from lad.errors import CheckpointError, ConfigError

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class StepResult:
    """Outcome of a training step.

    Attributes:
        losses: Terms and their sum (``loss``), scalars on the detector's device.
        fault: Why the step was left out; empty where it was made.
    """

    losses: dict[str, Tensor]
    fault: str = ""


class TrainingSession:
    """Trains a detector one step at a time.

    A step whose loss or gradient is not finite is left out: parameters, buffers and the optimizer's state are as
    before it, and the gradients accumulated so far are dropped. Infinite gradients of mixed precision with loss scaling
    are its scaler's own affair.

    Args:
        detector: On its device, with its weights. Which parameters learn is as ``requires_grad`` says.
        optim_wrapper: Config of the optimizer wrapper, as in a training config.
        seed: Of the random numbers of the steps: each step's are a function of seed and number.
        norm_eval: Whether batch norm normalises by its running statistics, and leaves them as they are. Batches of one
            image have no statistics to learn from.
        epoch: The epoch for heads that change their label assignment in the course of a training.

    Raises:
        ConfigError: nothing learns, or the optimizer wrapper is none for a single optimizer.
    """

    def __init__(
        self,
        detector: BaseDetector,
        optim_wrapper: Mapping[str, Any],
        *,
        seed: int = 0,
        norm_eval: bool = True,
        epoch: int = 0,
    ) -> None:
        if not any(parameter.requires_grad for parameter in detector.parameters()):
            raise ConfigError("the detector has no parameter that learns.")
        self.detector = detector
        self.seed = seed
        self.norm_eval = norm_eval
        self.epoch = epoch
        #: Steps that were begun; those that were left out count.
        self.steps = 0
        self._optim_wrapper = build_optim_wrapper(detector, ConfigDict(optim_wrapper))
        if not isinstance(self._optim_wrapper, OptimWrapper):
            raise ConfigError(f"optim_wrapper must be of one optimizer, got {optim_wrapper.get('type')!r}.")
        self._checks_gradients = not isinstance(self._optim_wrapper, AmpOptimWrapper)

    @property
    def is_accumulating(self) -> bool:
        """Whether steps since the optimizer's last one have left gradients that its next one will use."""
        return not self._optim_wrapper.should_update()

    def train_mode(self) -> None:
        """Set the detector to training mode, batch norm as ``norm_eval`` says."""
        self.detector.train()
        if self.norm_eval:
            for module in self.detector.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def step(self, batch: Mapping[str, Any]) -> StepResult:
        """Train on a batch; the detector is left in training mode.

        Args:
            batch: ``inputs``, images as a pipeline leaves them, and ``data_samples`` with ``gt_instances``.
        """
        tell_place(self.steps, self.epoch)
        seed_step(self.seed, self.steps)
        self.steps += 1
        self.train_mode()
        buffers = {name: buffer.clone() for name, buffer in self._changing_buffers().items()}
        try:
            result = self._train(batch)
        except FloatingPointError as error:  # label assignment refuses NaN
            self._optim_wrapper._inner_count += 1
            result = StepResult({}, str(error))
        if result.fault:
            self._optim_wrapper.zero_grad()
            now = self._changing_buffers()
            with torch.no_grad():
                for name, buffer in buffers.items():
                    now[name].copy_(buffer)
        return result

    def _train(self, batch: Mapping[str, Any]) -> StepResult:
        detector, wrapper = self.detector, self._optim_wrapper
        with wrapper.optim_context(detector):
            # A preprocessor may change the batch in place, which may be trained on again.
            data = detector.data_preprocessor(copy.deepcopy(dict(batch)), True)
            losses = detector._run_forward(data, mode="loss")
        total, logged = detector.parse_losses(losses)
        bad_loss = DeviceFlag(not_finite(total))
        should_update: Callable[[], bool] = wrapper.should_update
        fault = ""

        def decide() -> bool:
            nonlocal fault
            # The weights must not change before this is known, so the host waits for the backward pass.
            if bad_loss.value():
                terms = bad_terms(losses)
                fault = (
                    ", ".join(f"{name} is {value}" for name, value in terms.items())
                    or "the loss is not finite"
                )
            elif self._checks_gradients and bool(self._bad_gradient()):
                fault = "the gradient is not finite"
            return not fault and should_update()

        with replaced(wrapper, "should_update", decide):
            wrapper.update_params(total)
        return StepResult(logged, fault)

    def _bad_gradient(self) -> Tensor:
        gradients = [p.grad for p in self.detector.parameters() if p.grad is not None]
        if not gradients:
            return torch.zeros((), dtype=torch.bool)
        return ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()

    def _changing_buffers(self) -> dict[str, Tensor]:
        """Buffers that a step may change: none where batch norm is frozen and the detector has no others."""
        frozen = {
            id(buffer)
            for module in self.detector.modules()
            if self.norm_eval and isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        }
        return {name: buffer for name, buffer in self.detector.named_buffers() if id(buffer) not in frozen}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on; tensors are the session's own and change with it.

        Copy them (:func:`copy.deepcopy`) to keep a state in memory.
        """
        gradients = {}
        if self.is_accumulating:
            gradients = {n: p.grad for n, p in self.detector.named_parameters() if p.grad is not None}
        return dict(
            steps=self.steps,
            inner_count=self._optim_wrapper.inner_count,
            state_dict=self.detector.state_dict(),
            optimizer=self._optim_wrapper.state_dict(),
            gradients=gradients,
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the steps that follow are those of the session that it is of, bit for bit.

        Raises:
            CheckpointError: it is of another detector or optimizer.
        """
        try:
            self.detector.load_state_dict(state["state_dict"])
            self._optim_wrapper.load_state_dict(copy.deepcopy(state["optimizer"]))
            steps, count, gradients = state["steps"], state["inner_count"], state["gradients"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the state of a training does not fit this one: {reason}") from error
        self.steps = steps
        self._optim_wrapper._inner_count = count
        self._optim_wrapper.zero_grad()
        for name, parameter in self.detector.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device, parameter.dtype).clone()
