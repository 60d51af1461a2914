"""Phases of a distillation: pretraining, then the task; the optimizer passes over what rests."""

from __future__ import annotations

from typing import Any

from lad.base.phases import Pretraining
from lad.detectors.distillation import DistillationDetector
from lad.detectors.inspection import bound_methods, frozen_teachers
from lad.detectors.places import check_places
from lad.detectors.pretraining import pretrained
from lad.engine.model import detector_of
from lad.errors import ConfigError
from lad.networks.snapshot import Snapshot

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.optim import Optimizer


@HOOKS.register_module()
class PhaseHook(Hook):
    """Keeps the weights that rest in a phase of a distillation (pretraining, or the task) out of the optimizer.

    The phase is a function of the iteration (or epoch) that comes next, and so the same after a resume as without one.
    The optimizer passes over what rests in a phase: neither momentum nor weight decay moves it. Learning rate
    schedules, validation and checkpoints count all iterations of the run, those of the pretraining included. The log's
    averages of losses begin anew with the task.

    Other models, and detectors none of whose methods pretrains, are passed over.

    Raises:
        ConfigError: the pretraining is as long as the run or ends between two steps of the optimizer; or it, a schedule
            or a window counts epochs where the run does not.
    """

    priority = "VERY_HIGH"
    _model: DistillationDetector | None = None
    _pretraining: Pretraining
    _was_pretraining: bool | None = None
    _task_begins: int  # the task's first iteration

    def before_train(self, runner: Runner) -> None:
        """Refuse a pretraining that never ends; take the place before the optimizer's step."""
        model = detector_of(runner)
        for name, teacher in frozen_teachers(model).items():
            each_epoch = isinstance(teacher, Snapshot) and teacher.at == "epoch"
            if each_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
                raise ConfigError(
                    f"teachers.{name}: at='epoch' takes a snapshot before each epoch, and this run counts iterations; "
                    "use at='start', or an epoch-based train_cfg."
                )
        by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        for warning in check_places(
            bound_methods(model), runner.max_epochs if by_epoch else None, runner.max_iters
        ):
            runner.logger.warning(warning)
        pretraining = getattr(model, "pretraining", None)
        if pretraining is None:
            return
        self._model, self._pretraining = model, pretraining
        if pretraining.epochs is not None and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                "pretrain=dict(epochs=...): this run counts iterations: use pretrain=dict(iters=...)."
            )
        if pretraining.covers(runner.max_iters - 1, runner.max_epochs - 1):
            raise ConfigError(
                f"pretraining takes {pretraining.length} and the whole run is no longer: make pretrain shorter, or "
                "train_cfg longer."
            )
        self._task_begins = pretraining.iters or pretraining.epochs * len(runner.train_dataloader)
        accumulated = runner.optim_wrapper._accumulative_counts
        if self._task_begins % accumulated:
            raise ConfigError(
                f"pretraining ends after {self._task_begins} iterations, in the middle of {accumulated} whose "
                f"gradients are accumulated (accumulative_counts): make it a multiple of {accumulated} iterations."
            )
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._skip_resting)
        model.optimizer_skips_resting = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Log the beginning of a phase."""
        if self._model is None:
            return
        is_pretraining = self._pretraining.covers(runner.iter, runner.epoch)
        if is_pretraining == self._was_pretraining:
            return
        self._was_pretraining = is_pretraining
        names = pretrained(self._model.bound)
        if is_pretraining:
            length = self._pretraining.length
            runner.logger.info(
                f"Iteration {runner.iter + 1}: pretraining of {', '.join(names)}, {length} in all."
            )
        else:
            runner.logger.info(
                f"Iteration {runner.iter + 1}: the task; {', '.join(names)} pretrained before."
            )
        if runner.iter == self._task_begins:
            # They would be logged to the end of the run, and averaged with the task's.
            losses = [name for name in runner.message_hub.log_scalars if "loss" in name]
            for name in losses:
                del runner.message_hub.log_scalars[name]

    def _skip_resting(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self._model is not None and self._model.phase is not None:
            self._model.phase.drop_gradients()
