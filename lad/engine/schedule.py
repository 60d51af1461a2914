"""Optimizer and learning rate schedule of a run that is resumed: the checkpoint's or the config's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lad.engine.saved_config import UNKNOWN
from lad.errors import ConfigError, listed

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler

# Of an optimizer wrapper's config what a checkpoint's optimizer state holds the values of.
_RESTORED = ("optimizer", "paramwise_cfg", "constructor")


def restored_settings(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a config that a checkpoint's state replaces when a run is resumed, as plain data.

    None for a run whose optimizer is no part of its config. Optimizers with their settings by parameter, schedulers,
    and the scaling of the learning rate. A scheduler without ``end`` ends with the training, which is filled in.
    """
    wrapper = cfg.get("optim_wrapper")
    if not isinstance(wrapper, Mapping):
        return None
    settings: dict[str, Any] = dict(
        optim_wrapper=_optimizers(wrapper),
        param_scheduler=_with_ends(cfg.get("param_scheduler"), cfg.get("train_cfg")),
    )
    scaling = cfg.get("auto_scale_lr")
    if isinstance(scaling, Mapping) and scaling.get("enable"):
        # What the learning rate is scaled by.
        settings["auto_scale_lr"] = dict(scaling, batch_size=_batch_size(cfg))
    return plain(settings)


def followed_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a config that concern the schedule and take effect on resuming, as plain data by dotted name."""
    loop = cfg.get("train_cfg")
    loop = loop if isinstance(loop, Mapping) else {}
    settings = {"train_dataloader.batch_size": _batch_size(cfg)}
    settings |= {f"train_cfg.{key}": loop[key] for key in ("max_epochs", "max_iters") if key in loop}
    wrapper = cfg.get("optim_wrapper")
    if isinstance(wrapper, Mapping):
        defaults = dict(type="OptimWrapper", accumulative_counts=1, clip_grad=None)
        kept = plain({**defaults, **wrapper})
        settings |= {f"optim_wrapper.{key}": kept[key] for key in defaults}
    return plain(settings)


def learnt_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a config that say what is learnt from what, as plain data by dotted name: the model and its data."""
    loader = cfg.get("train_dataloader")
    dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
    return {"model": plain(cfg.get("model")), "train_dataloader.dataset": plain(dataset)}


def _optimizers(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    if "optimizer" in wrapper:
        return {key: wrapper[key] for key in _RESTORED if wrapper.get(key) is not None}
    return {name: _optimizers(value) for name, value in wrapper.items() if isinstance(value, Mapping)}


def _with_ends(schedulers: Any, loop: Any) -> Any:
    if isinstance(schedulers, Mapping):
        if "type" in schedulers:
            return _with_ends([schedulers], loop)
        return {name: _with_ends(value, loop) for name, value in schedulers.items()}
    if not isinstance(schedulers, (list, tuple)):
        return schedulers
    loop = loop if isinstance(loop, Mapping) else {}
    filled = []
    for scheduler in schedulers:
        if isinstance(scheduler, Mapping) and "end" not in scheduler:
            end = loop.get("max_epochs" if scheduler.get("by_epoch", True) else "max_iters")
            scheduler = {**scheduler, "end": end} if end is not None else scheduler
        filled.append(scheduler)
    return filled


def _batch_size(cfg: Mapping[str, Any]) -> Any:
    loader = cfg.get("train_dataloader")
    return loader.get("batch_size") if isinstance(loader, Mapping) else None


def plain(value: Any) -> Any:
    """A copy of a config's value of dicts, lists, numbers and text; classes by name, the rest as text."""
    if isinstance(value, Mapping):
        result = {str(key): plain(item) for key, item in value.items()}
        if isinstance(result.get("type"), str):
            result["type"] = result["type"].rpartition(".")[2]
        return result
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, type):
        return value.__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


# -- Comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A setting that differs between a checkpoint's config and the current one.

    Attributes:
        path: Its dotted name.
        saved: The checkpoint's value; None if it has none.
        current: The current config's.
    """

    path: str
    saved: Any
    current: Any


def changes(saved: Any, current: Any) -> list[Change]:
    """Compare two configs of plain data; values of which one is unknown count as equal."""
    return list(_changes(saved, current, ""))


def _changes(saved: Any, current: Any, path: str) -> Iterator[Change]:
    if UNKNOWN in (saved, current):
        return
    start = f"{path}." if path else ""
    if isinstance(saved, dict) and isinstance(current, dict) and saved.get("type") == current.get("type"):
        for key in [*saved, *(key for key in current if key not in saved)]:
            yield from _changes(saved.get(key), current.get(key), start + key)
    elif _are_configs(saved) and _are_configs(current) and len(saved) == len(current):
        for number, pair in enumerate(zip(saved, current, strict=True)):
            yield from _changes(*pair, f"{start}{number}")
    elif saved != current:
        yield Change(path, saved, current)


def _are_configs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def described(found: Sequence[Change], form: str) -> str:
    """The changes in one line.

    Args:
        found: The changes.
        form: Format of each, with ``path``, ``saved`` and ``current``.
    """
    parts = [
        form.format(path=one.path, saved=_short(one.saved), current=_short(one.current)) for one in found
    ]
    return listed(parts, 8)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        settings = ", ".join(f"{key}={_short(item)}" for key, item in value.items() if key != "type")
        return f"{value.get('type', '')}({settings})"
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return repr(value)


# -- Position ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Place in a run at which it is resumed.

    Attributes:
        epochs: Number of finished epochs that schedulers by epoch have counted; 0 for a loop that counts iterations.
        epoch_length: Iterations of each of them.
        iterations: Iterations after them.
    """

    epochs: int
    epoch_length: int
    iterations: int


def fast_forward(schedulers: Sequence[_ParamScheduler], position: Position) -> None:
    """Step newly built schedulers to a place in the run, as an undisturbed run would have.

    They change their optimizer's settings step by step, from the present value: the result is that of the run to the
    bit. Schedulers that follow a validation's metric are where they began.

    Raises:
        ConfigError: a scheduler ends before the place (``OneCycleLR``).
    """
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    by_epoch = [scheduler for scheduler in schedulers if scheduler.by_epoch]

    def step(chosen: Sequence[_ParamScheduler], count: int) -> None:
        for _ in range(count if chosen else 0):
            for scheduler in chosen:
                scheduler.step()

    try:
        with warnings.catch_warnings():
            # No step of the optimizer belongs to these.
            warnings.filterwarnings("ignore", "Detected call of `scheduler.step", UserWarning)
            warnings.filterwarnings("ignore", "Seems like `optimizer.step", UserWarning)
            for _ in range(position.epochs):
                step(by_iteration, position.epoch_length)
                step(by_epoch, 1)
            step(by_iteration, position.iterations)
    except ValueError as error:
        raise ConfigError(
            f"--resume-schedule config: a param_scheduler of the config ends before the checkpoint ({error}): make it "
            "longer."
        ) from error


def wrappers(optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """The wrappers of a runner by name; the only one, without a name, if it has one optimizer."""
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {"": optim_wrapper}


def replace_settings(state: dict[str, Any], wrapper: OptimWrapper) -> None:
    """Put an optimizer's settings by parameter group into a checkpoint's state of it, in place; the rest is kept.

    Args:
        state: The checkpoint's state, whose groups are those of the optimizer in number and size.
        wrapper: Optimizer with the settings, such as the learning rates.
    """
    for saved, own in zip(state["param_groups"], wrapper.optimizer.param_groups, strict=True):
        params = saved["params"]
        saved.clear()
        saved.update({key: copy.copy(value) for key, value in own.items() if key != "params"}, params=params)
    # Without it the wrapper keeps its own.
    state.pop("base_param_settings", None)
