"""Hook that refuses weights that do not fit the detector."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from lad.datasets.configured import first_difference
from lad.detectors.networks import NetworksDetector
from lad.detectors.state import NETWORKS, PRETRAINED, PROJECTIONS, SNAPSHOTS, outside_name
from lad.engine.model import loaded_model
from lad.errors import CheckpointError, ConfigError
from lad.networks.fit import Fit, compare_state
from lad.networks.verified_checkpoint import BESIDE, class_names, refuse_misfit, state_dict_of

from mmdet.models.detectors import BaseDetector
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor


def compare_detector(model: BaseDetector, state: OrderedDict[str, Tensor]) -> Fit:
    """Compare a state dict with a detector by the names of keys in checkpoints; neither is changed.

    Snapshots are left out: the checkpoint's replace the run's where they fit, and are taken anew otherwise.
    """
    kept = OrderedDict((key, value) for key, value in state.items() if not key.startswith(SNAPSHOTS))
    if hasattr(state, "_metadata"):
        kept._metadata = state._metadata  # type: ignore[attr-defined]  # torch's own convention
    fit = compare_state(model, kept)
    return fit.renamed(outside_name) if isinstance(model, NetworksDetector) else fit


def needed(fit: Fit) -> Fit:
    """The part of a comparison that must agree, where weights are loaded and no run is resumed.

    A distillation's adapters and exits may be missing or of another shape, and whatever a checkpoint holds beside the
    detector is passed over. Trained networks are needed.
    """

    def is_needed(key: str) -> bool:
        return key.startswith(NETWORKS) or not key.startswith(BESIDE)

    return replace(
        fit,
        mismatched={key: shapes for key, shapes in fit.mismatched.items() if is_needed(key)},
        missing=[key for key in fit.missing if is_needed(key)],
        unexpected=[key for key in fit.unexpected if not key.startswith(BESIDE)],
    )


def _check_classes(runner: Runner, checkpoint: Any, source: str) -> None:
    """Refuse to test a detector on data that have its classes in another order; other names are a warning."""
    trained = class_names(checkpoint.get("meta")) if isinstance(checkpoint, dict) else None
    tested = getattr(runner.test_loop.dataloader.dataset, "metainfo", None)
    tested = tested.get("classes") if isinstance(tested, dict) else None
    if trained is None or not isinstance(tested, (list, tuple)):
        return
    label = first_difference(trained, tested)
    if label is None:
        return
    told = f"{source}: label {label} is {trained[label]!r} for it and {tested[label]!r} in the test data"
    if sorted(trained) == sorted(tested):
        raise CheckpointError(f"{told}: bring the classes of the test data (metainfo, file) into its order.")
    runner.logger.warning(f"{told}: they are taken for the same class.")


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuse a checkpoint (``load_from``, or that of a test) that does not fit the detector key by key.

    MMEngine loads what fits and prints the rest. With ``load_strict=False`` in the config it does so here too, and a
    warning lists what is not loaded; a checkpoint of which nothing fits is refused all the same.

    A distillation's adapters and exits may differ: a run may start from a plain detector's weights, and a student is
    tested alone. A pretraining's checkpoint (:class:`lad.detectors.SelfSupervisedPretraining`) has no heads: a training
    may start from it, whose heads keep their initial weights. Resuming is :class:`lad.engine.hooks.ResumeHook`'s.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape.
        ConfigError: ``load_strict`` is neither True nor False.
    """

    # Before EMA's hook, which loads the weights as well.
    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Compare the checkpoint with the detector before it is loaded."""
        if runner._resume:
            return
        strict = runner.cfg.get("load_strict", True)
        if not isinstance(strict, bool):
            raise ConfigError(f"load_strict must be True or False, got {strict!r}.")
        owner = "load_from" if isinstance(runner._train_loop, BaseLoop) else "test"
        source = f"{owner}: checkpoint {runner._load_from}"
        if owner == "test":
            _check_classes(runner, checkpoint, source)
        fit = compare_detector(loaded_model(runner), state_dict_of(checkpoint, source))
        wanted = needed(fit)
        if owner == "load_from" and any(key.startswith(PROJECTIONS) for key in fit.unexpected):
            wanted = replace(wanted, missing=[key for key in wanted.missing if key.startswith(PRETRAINED)])
        if strict or not fit.loaded:
            or_partly = ", or load what fits with load_strict=False" if fit.loaded else ""
            refuse_misfit(
                wanted, source, f"give the config that this checkpoint was trained with{or_partly}."
            )
        passed_over = [key for key in fit.unexpected if key.startswith(BESIDE)]
        rest = replace(fit, unexpected=[key for key in fit.unexpected if key not in passed_over])
        if not rest.is_whole:
            runner.logger.warning(f"{source}: {fit.loaded} keys are loaded. Not loaded: {rest.not_loaded()}.")
