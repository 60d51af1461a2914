"""Hook that stops a run, or skips a step, when the loss is NaN or infinite."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lad.base.replace import replaced
from lad.engine.hooks.bad_batch import bad_input, bad_terms, broken_weights, name_images, write_batch
from lad.engine.hooks.bad_teachers import bad_teachers
from lad.engine.model import detector_of
from lad.errors import ConfigError, NumericalError, listed

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

BAD_BATCH = "bad_batch.pth"
#: Key of the number of skipped steps in the message hub, and so in the checkpoint.
SKIPPED_STEPS = "skipped_steps"
POLICIES = ("stop", "skip")


class DeviceFlag:
    """Boolean scalar that is copied from the device asynchronously.

    On a GPU the copy starts at once and :meth:`value` waits only for the work that was queued before it: read after the
    backward pass was queued, it does not block, since the forward pass is done by then.

    Args:
        flag: A boolean scalar.
    """

    def __init__(self, flag: Tensor) -> None:
        self._event = None
        if flag.is_cuda:
            # The copy goes to pinned memory.
            self._flag = flag.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._flag = flag

    def value(self) -> bool:
        """Wait for the copy and return the value."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)


def not_finite(loss: Tensor) -> Tensor:
    """Whether the loss of any rank is NaN or infinite, as a boolean scalar equal on all ranks; does not synchronise.

    A term that is not finite makes the sum so too, so one number is enough.
    """
    bad = ~loss.detach().isfinite().all()
    if get_world_size() > 1:
        bad = bad.to(torch.int32)
        all_reduce(bad, op="max")
        bad = bad.bool()
    return bad


@HOOKS.register_module()
class NumericalFaultHook(Hook):
    """Stop at a step whose loss is NaN or infinite, or skip that step.

    The loss is checked before any weight changes: between the backward pass and the optimizer's step
    (``OptimWrapper.should_update``). Infinite gradients are not checked: mixed precision produces them on purpose, and
    its scaler skips such steps itself. The batch (images as the pipeline left them, boxes and metadata, losses) is
    written to ``bad_batch.pth`` in the work_dir, for :func:`lad.compat.safe_loading.load_safely`; with several
    processes each one with a bad loss writes its own, rank 1 to ``bad_batch_rank1.pth`` and so on. All ranks take the
    same decision.

    The message names what is to blame as far as it can be told: weights that were not finite before the step, pixels,
    boxes, or a teacher whose weights or outputs are not finite (:func:`lad.engine.hooks.bad_teachers.bad_teachers`
    runs the teachers once more, after the fault).

    A ``FloatingPointError`` raised during the forward pass (label assignment refuses NaN) is treated likewise, except
    that several processes always stop: the others wait in another collective.

    Args:
        policy: ``'stop'``, or ``'skip'``: the step is skipped, together with the gradients accumulated so far
            (``accumulative_counts``); buffers (running statistics of batch norm) are as before the step, and
            its losses are in no average. The run stops if the weights themselves are not finite.
        max_skips: Number of steps that may be skipped in the whole run, resumed parts included; one more stops it.
        interval: Check every n-th iteration only. A NaN in between reaches the weights and stays there, so that the
            next check finds it.

    Raises:
        ConfigError: an unknown policy, or a number below 1.
        NumericalError: while training.
    """

    def __init__(self, policy: str = "stop", max_skips: int = 10, interval: int = 1) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"NumericalFaultHook: policy must be 'stop' or 'skip', got {policy!r}.")
        if max_skips < 1 or interval < 1:
            raise ConfigError(
                f"NumericalFaultHook: max_skips and interval must be at least 1, got {max_skips} and {interval}."
            )
        self.policy = policy
        self.max_skips = max_skips
        self.interval = interval
        self._wrapped = ExitStack()
        self._batch: Any = None
        self._losses: dict[str, Any] = {}
        self._total: Tensor | None = None
        self._is_bad: DeviceFlag | None = None
        self._skipped = False
        self._buffers: list[Tensor] = []
        self._saved_buffers: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Wrap the training step, the parsing of losses and the optimizer wrapper's ``should_update``."""
        model = detector_of(runner)
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            runner.logger.warning(
                f"NumericalFaultHook: losses are not checked with {type(runner.optim_wrapper).__name__}."
            )
            return
        if self.policy == "skip":
            self._buffers = list(model.buffers())
            self._saved_buffers = [buffer.clone() for buffer in self._buffers]
        train_step, parse_losses = runner.model.train_step, model.parse_losses
        should_update = runner.optim_wrapper.should_update

        def watched_step(data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
            self._begin(data)
            try:
                outputs = train_step(data, optim_wrapper)
            except NumericalError:
                raise
            except FloatingPointError as error:
                # No backward pass counted this iteration; the accumulation must stay in phase with it.
                optim_wrapper._inner_count += 1
                self._handle(runner, model, str(error), together=False)
            return {} if self._end() else outputs

        def watched_losses(losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            total, logged = parse_losses(losses)
            if isinstance(total, Tensor) and (runner.iter + 1) % self.interval == 0:
                self._losses, self._total = losses, total.detach()
                self._is_bad = DeviceFlag(not_finite(total))
            return total, logged

        def watched_update() -> bool:
            # The flag is equal on all ranks.
            if self._is_bad is not None and self._is_bad.value():
                self._handle(runner, model)
                return False
            return should_update()

        self._wrapped.enter_context(replaced(runner.model, "train_step", watched_step))
        self._wrapped.enter_context(replaced(model, "parse_losses", watched_losses))
        self._wrapped.enter_context(replaced(runner.optim_wrapper, "should_update", watched_update))

    def after_train(self, runner: Runner) -> None:
        """Restore the wrapped methods and report the number of skipped steps."""
        self._wrapped.close()
        skipped = self._skipped_steps(runner)
        if skipped:
            runner.logger.warning(f"{skipped} steps were left out: their losses were not finite.")

    def _begin(self, batch: Any) -> None:
        self._batch = batch
        _copy(self._buffers, self._saved_buffers)

    def _end(self) -> bool:
        """Clear the state of the step; returns whether it was skipped."""
        skipped, self._skipped = self._skipped, False
        self._batch, self._losses, self._total, self._is_bad = None, {}, None, None
        return skipped

    def _handle(self, runner: Runner, model: BaseDetector, reason: str = "", together: bool = True) -> None:
        """Record the batch; raise, or undo the step.

        Args:
            reason: Message of the error that prevented the loss; empty if there is a loss.
            together: Whether all ranks reached this point.
        """
        terms = bad_terms(self._losses)
        if not terms and self._total is not None and not bool(self._total.isfinite().all()):
            terms = {"the sum of the losses": float(self._total)}
        own = ("", "")
        if terms or reason:
            own = self._record(runner, terms, reason), self._cause(runner, model)
        faults = all_gather_object(own) if together and get_world_size() > 1 else [own]
        message, cause = (
            "; ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*faults, strict=True)
        )
        broken = broken_weights(model)
        if broken:
            cause = (
                f"the weights were not finite before this step ({listed(broken, 2)}): an earlier gradient was not; "
                "resume from a checkpoint with a lower learning rate, or clip gradients (optim_wrapper.clip_grad)"
            )
        elif not cause:
            cause = (
                "weights and images are finite: lower the learning rate, clip gradients (optim_wrapper.clip_grad), or "
                "leave such steps out (default_hooks.numerical_faults.policy=skip)"
            )
        skipped = self._skipped_steps(runner) + 1
        if self.policy == "stop" or broken or not (together or get_world_size() == 1):
            raise NumericalError(f"{message}; {cause}.")
        if skipped > self.max_skips:
            raise NumericalError(
                f"{message}; {self.max_skips} steps were left out before, as max_skips allows; {cause}."
            )
        runner.message_hub.update_info(SKIPPED_STEPS, skipped)
        runner.logger.warning(f"{message}; step left out ({skipped} of at most {self.max_skips}).")
        _copy(self._saved_buffers, self._buffers)
        runner.optim_wrapper.zero_grad()
        self._skipped = True

    def _cause(self, runner: Runner, model: BaseDetector) -> str:
        """What this rank's fault comes from, as far as its batch and its teachers tell; empty if they do not."""
        if cause := bad_input(self._batch):
            return cause
        # In the precision of the step: half precision may be the cause.
        with runner.optim_wrapper.optim_context(runner.model):
            return bad_teachers(model, self._batch)

    def _record(self, runner: Runner, terms: dict[str, float], reason: str) -> str:
        """Write the batch to a file; returns a description of the fault."""
        rank = get_rank()
        path = Path(runner.work_dir) / (BAD_BATCH if rank == 0 else f"bad_batch_rank{rank}.pth")
        what = reason or listed([f"{name} is {value}" for name, value in terms.items()], 4)
        where = f"iteration {runner.iter + 1} of epoch {runner.epoch + 1}"
        if get_world_size() > 1:
            where += f", rank {rank}"
        place = dict(iter=runner.iter, epoch=runner.epoch, rank=rank)
        write_batch(path, self._batch, losses=self._losses, reason=what, **place)
        return f"{where}: {what} for {name_images(self._batch)}; the batch is in {path}"

    @staticmethod
    def _skipped_steps(runner: Runner) -> int:
        hub = runner.message_hub
        return hub.get_info(SKIPPED_STEPS) if SKIPPED_STEPS in hub.runtime_info else 0


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    if sources:
        # One call for all: a hundred batch norms are two hundred small copies.
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)
