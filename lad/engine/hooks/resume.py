"""Hook that verifies what a run is resumed from, and restores what MMEngine leaves out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lad.base.config import kind_of
from lad.detectors.distillation import DistillationDetector
from lad.detectors.self_supervised import SelfSupervisedPretraining
from lad.engine.accumulation import ACCUMULATED, accumulated_gradients, restore_accumulated
from lad.engine.checkpoints import check_training_state
from lad.engine.hooks.checkpoint_fit import compare_detector
from lad.engine.loops import DATA_ORDER
from lad.engine.model import loaded_model
from lad.engine.saved_config import UNKNOWN, read_saved_config
from lad.engine.schedule import (
    Position,
    changes,
    described,
    fast_forward,
    followed_settings,
    learnt_settings,
    replace_settings,
    restored_settings,
    wrappers,
)
from lad.errors import CheckpointError, ConfigError
from lad.networks.verified_checkpoint import refuse_misfit, state_dict_of

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

#: Key in a checkpoint of the settings that its optimizer and schedulers were made with.
SCHEDULE = "schedule"
_SOURCES = ("checkpoint", "config")


@HOOKS.register_module()
class ResumeHook(Hook):
    """Refuse to resume another run, and say which settings of a changed config have no effect.

    MMEngine loads of a checkpoint what fits, then the optimizer's state, then each scheduler's. Here all of it is
    compared with the run before anything is loaded. A resumed run's optimizer settings (learning rate, weight decay,
    momentum, also by parameter) and schedulers are the checkpoint's; a warning names those that the config wants
    otherwise.

    Gradients of an accumulation that a checkpoint interrupts are saved and restored.

    Args:
        schedule: ``'checkpoint'``, or ``'config'``: optimizer settings and schedulers are the config's, at the values
            that a run of this config would have reached. The optimizer's state (momentum) stays the checkpoint's.

    Raises:
        CheckpointError: the checkpoint holds no training, or that of another network or optimizer.
        ConfigError: unknown ``schedule``; a scheduler of the config that ends before the checkpoint.
    """

    # Before EMA's hook, which loads the weights as well.
    priority = "VERY_HIGH"

    def __init__(self, schedule: str = "checkpoint") -> None:
        if schedule not in _SOURCES:
            raise ConfigError(f"ResumeHook: schedule must be 'checkpoint' or 'config', got {schedule!r}.")
        self.schedule = schedule
        self._settings: dict[str, Any] | None = None
        self._accumulated: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Note the settings that the run begins with."""
        if isinstance(runner._train_loop, BaseLoop):
            self._settings = restored_settings(runner.cfg)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the settings in effect, and the gradients of an unfinished accumulation."""
        if "optimizer" not in checkpoint:
            return
        if self._settings is not None:
            checkpoint[SCHEDULE] = self._settings
        accumulated = accumulated_gradients(runner)
        if accumulated is not None:
            checkpoint[ACCUMULATED] = accumulated

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Verify the checkpoint, and decide whose schedule the run goes on with."""
        if not runner._resume:
            return
        source = f"--resume: checkpoint {runner._load_from}"
        check_training_state(checkpoint, source)
        saved_config = read_saved_config(str(checkpoint["meta"].get("cfg") or ""))
        saved = checkpoint.pop(SCHEDULE, None)
        if not isinstance(saved, dict):  # written without this hook
            saved = restored_settings(saved_config)
        self._check_same_run(runner, checkpoint, saved, source)
        self._accumulated = checkpoint.pop(ACCUMULATED, None)
        if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            runner.logger.warning(
                f"{source} has averaged weights (EMAHook) and the config has no EMAHook: training goes on from the "
                "average."
            )
        _check_same_kind(saved_config, runner, source)
        self._report_followed(runner, saved_config, checkpoint)
        self._choose_schedule(runner, checkpoint, saved)

    def before_train(self, runner: Runner) -> None:
        """Restore the gradients of an unfinished accumulation."""
        accumulated, self._accumulated = self._accumulated, None
        if accumulated is None:
            return
        counts = runner.optim_wrapper._accumulative_counts
        if counts != accumulated["counts"]:
            runner.logger.warning(
                f"The checkpoint has gradients accumulated for a step of {accumulated['counts']} iterations "
                f"(accumulative_counts) and the config's have {counts}: they are left out."
            )
            return
        restore_accumulated(runner, accumulated["gradients"])
        runner.logger.info(
            "The gradients that were accumulated before the checkpoint are restored: none are lost, whatever "
            "MMEngine warns of."
        )

    def _check_same_run(
        self, runner: Runner, checkpoint: dict, saved: dict[str, Any] | None, source: str
    ) -> None:
        """Refuse the training of another network or optimizer.

        Raises:
            CheckpointError: names what differs.
        """
        advice = (
            "resume with the config of that run, or start a new one from its weights: leave out --resume and set "
            "load_from."
        )
        fit = compare_detector(loaded_model(runner), state_dict_of(checkpoint, source))
        refuse_misfit(fit, source, advice)
        own = wrappers(runner.optim_wrapper)
        states = {"": checkpoint["optimizer"]} if "" in own else checkpoint["optimizer"]
        if set(states) != set(own) or not all(_is_optimizer_state(state) for state in states.values()):
            raise CheckpointError(f"{source} has other optimizers than the config; {advice}")
        saved_kinds, kinds = (
            _optimizer_types((settings or {}).get("optim_wrapper")) for settings in (saved, self._settings)
        )
        for name, wrapper in own.items():
            if name in saved_kinds and name in kinds and saved_kinds[name] != kinds[name]:
                problem = f"was trained with {saved_kinds[name]} and the config has {kinds[name]}"
            else:
                problem = _other_optimizer(states[name], wrapper)
            if problem:
                raise CheckpointError(f"{source} {problem}; {advice}")

    def _report_followed(self, runner: Runner, saved_config: dict[str, Any], checkpoint: dict) -> None:
        if not saved_config:
            return
        found = changes(followed_settings(saved_config), followed_settings(runner.cfg))
        learnt = changes(learnt_settings(saved_config), learnt_settings(runner.cfg))
        if any(one.path.startswith("model") for one in learnt):
            # What is not computed any more would be logged with its last value for ever.
            scalars = checkpoint["message_hub"].get("log_scalars", {})
            for name in [name for name in scalars if name.startswith("train/") and "loss" in name]:
                del scalars[name]
        found += learnt
        if found:
            runner.logger.warning(
                "Changed since the checkpoint and in effect from here on: "
                f"{described(found, '{path} {saved} -> {current}')}."
            )

    def _choose_schedule(self, runner: Runner, checkpoint: dict, saved: dict[str, Any] | None) -> None:
        found = [] if saved is None or self._settings is None else changes(saved, self._settings)
        if self.schedule == "config":
            self._take_config(runner, checkpoint)
            if found:
                runner.logger.info(
                    "--resume-schedule config: from here on "
                    f"{described(found, '{path} is {current} (checkpoint: {saved})')}."
                )
            return
        if saved is not None:
            self._settings = saved
        if found:
            runner.logger.warning(
                "Optimizer and schedule are those of the checkpoint, not of the changed config: "
                f"{described(found, '{path} is {saved} (config: {current})')}. --resume-schedule config takes the "
                "config's."
            )
        if saved is not None and any(one.path.startswith("param_scheduler") for one in found):
            # Their states say neither how many there are nor of which kind.
            schedulers = copy.deepcopy(saved.get("param_scheduler"))
            runner.param_schedulers = None if schedulers is None else runner.build_param_scheduler(schedulers)
        _check_schedulers(runner, checkpoint)

    def _take_config(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the optimizer's settings and the schedulers' state in a checkpoint by those of the config."""
        own = wrappers(runner.optim_wrapper)
        states = {"": checkpoint["optimizer"]} if "" in own else checkpoint["optimizer"]
        built = runner.param_schedulers or []
        position = _position(runner, checkpoint)
        for name, wrapper in own.items():
            schedulers = built if isinstance(built, list) else built[name]
            if any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers):
                runner.logger.warning(
                    "--resume-schedule config: a scheduler that follows a metric (ReduceOnPlateau) begins anew."
                )
            fast_forward(schedulers, position)
            replace_settings(states[name], wrapper)
        checkpoint.pop("param_schedulers", None)


def _is_optimizer_state(state: Any) -> bool:
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        return False
    groups = state.get("param_groups")
    return isinstance(groups, list) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )


def _optimizer_types(settings: Any) -> dict[str, str]:
    """The types of the optimizers of a config's ``optim_wrapper`` by name."""
    if not isinstance(settings, dict):
        return {}
    named = {"": settings} if "optimizer" in settings else settings
    kinds = {}
    for name, one in named.items():
        optimizer = one.get("optimizer") if isinstance(one, dict) else None
        if isinstance(optimizer, dict) and isinstance(optimizer.get("type"), str):
            kinds[name] = optimizer["type"]
    return kinds


#: Settings that tell kinds of optimizers apart where a checkpoint does not name its own; no version of torch adds them.
_TELLTALE = ("betas", "momentum", "alpha", "rho", "lr_decay", "etas", "d_coef")


def _telltale(groups: list[dict]) -> set[str]:
    keys = set().union(*groups) & set(_TELLTALE)
    # MMEngine's momentum schedulers add a momentum to Adam's.
    return keys - {"momentum"} if "betas" in keys else keys


def _other_optimizer(state: dict, wrapper: OptimWrapper) -> str:
    """What keeps an optimizer from taking over a saved state; empty if nothing does."""
    optimizer = wrapper.optimizer
    groups, own = state["param_groups"], optimizer.param_groups
    if _telltale(groups) != _telltale(own):
        return f"was trained with another optimizer than {type(optimizer).__name__}"
    count, own_count = (sum(len(group["params"]) for group in each) for each in (groups, own))
    if len(groups) != len(own) or count != own_count:
        return (
            f"has an optimizer of {count} parameters in {len(groups)} groups and the config's has {own_count} in "
            f"{len(own)} (paramwise_cfg, or what is trained)"
        )
    if any(len(one["params"]) != len(two["params"]) for one, two in zip(groups, own, strict=True)):
        return "has an optimizer whose parameters are grouped in another way (paramwise_cfg)"
    if any(two.get("amsgrad") and not one.get("amsgrad") for one, two in zip(groups, own, strict=True)):
        return "was trained without amsgrad and the config has it"
    numbers = [number for group in groups for number in group["params"]]
    parameters = [parameter for group in own for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key in ("momentum_buffer", "exp_avg"):
            average = (state["state"].get(number) or {}).get(key)
            if average is not None and average.shape != parameter.shape:
                return (
                    f"has an optimizer whose parameters come in another order: {key} {tuple(average.shape)} for a "
                    f"parameter {tuple(parameter.shape)}"
                )
    return ""


def _check_same_kind(saved_config: dict[str, Any], runner: Runner, source: str) -> None:
    """Refuse to go on with a distillation as with a plain detector, and the reverse: the weights may fit all the same.

    Raises:
        CheckpointError: names the detectors.
    """
    models = [cfg.get("model") for cfg in (saved_config, runner.cfg)]
    saved, own = (kind_of(model) if isinstance(model, Mapping) else None for model in models)
    ours = {one.__name__ for one in (DistillationDetector, SelfSupervisedPretraining)}
    if saved not in (None, UNKNOWN, own) and {saved, own} & ours:
        raise CheckpointError(
            f"{source} is of a training of a {saved} and the config's is one of a {own}: resume with the config of "
            "that run, or start a new one from its weights: leave out --resume and set load_from."
        )


def _check_schedulers(runner: Runner, checkpoint: dict) -> None:
    """Refuse states of another number of schedulers than the run has.

    Raises:
        CheckpointError: MMEngine would give the states to the wrong ones, or to none.
    """
    saved, own = checkpoint.get("param_schedulers"), runner.param_schedulers
    if saved is None or own is None:
        return
    counts = [
        {name: len(each) for name, each in one.items()} if isinstance(one, dict) else len(one)
        for one in (saved, own)
    ]
    if counts[0] != counts[1]:
        raise CheckpointError(
            f"--resume: checkpoint {runner._load_from} has {counts[0]} param_schedulers and the config has "
            f"{counts[1]}: restore param_scheduler, or take the config's with --resume-schedule config."
        )


def _position(runner: Runner, checkpoint: dict) -> Position:
    """The place in the run at which a checkpoint was written, in epochs as long as this run's."""
    epoch, iteration = checkpoint["meta"]["epoch"], checkpoint["meta"]["iter"]
    length = len(runner.train_dataloader)
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return Position(0, length, iteration)
    order = checkpoint["message_hub"].get("runtime_info", {}).get(DATA_ORDER)
    rest = iteration - epoch * length
    # Where epochs are of another length now, the loop begins the interrupted one anew.
    same = order is None or order["batches"] == length
    return Position(epoch, length, rest if same and 0 <= rest < length else 0)
