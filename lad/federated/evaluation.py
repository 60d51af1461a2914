"""Evaluation of the server's model on the server's validation data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lad.base.config import kind_of
from lad.detectors.configs import PRETRAINING
from lad.detectors.state import DISTILLATION
from lad.engine.plain_config import student_only
from lad.federated.aggregation import State
from lad.federated.embedding_evaluation import EmbeddingEvaluation, is_knn_hook

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor


class GlobalEvaluation:
    """The validation of a config, for one state dict after another.

    The detector and the data set are built once. COCO's metric gives the AP of each class too.

    Args:
        cfg: The federation's config; a distillation is evaluated as its student.
        folder: For logs.
    """

    def __init__(self, cfg: Config, folder: Path) -> None:
        cfg = student_only(copy.deepcopy(cfg))
        for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
            cfg[key] = None
        for key in ("test_dataloader", "test_evaluator", "test_cfg", "custom_hooks"):
            cfg[key] = None
        for evaluator in _evaluators(cfg.val_evaluator):
            if str(evaluator.get("type")).endswith("CocoMetric"):
                evaluator.setdefault("classwise", True)
        cfg.load_from, cfg.resume, cfg.launcher = None, False, "none"
        cfg.work_dir = str(folder)
        # What belongs to a training.
        hooks = cfg.get("default_hooks") or {}
        cfg.default_hooks = {
            name: hooks[name] for name in ("timer", "logger", "runtime_info") if hooks.get(name)
        }
        cfg.experiment_name = f"global_{folder.resolve().name}"
        self.runner = Runner.from_cfg(cfg)

    def __call__(self, state: State) -> dict[str, float]:
        """Metrics of a state dict by name; what is under ``distillation.`` is left out."""
        self.runner.model.load_state_dict(deployed_state(state), strict=True)
        # Evaluation must not move the random state on which later rounds depend.
        with torch.random.fork_rng(devices=[]):
            return {name: float(value) for name, value in self.runner.val().items()}


def evaluation_of(cfg: Config, folder: Path) -> Callable[[State], dict[str, float]] | None:
    """What the server evaluates its model with; None where it has no data for it.

    A self-supervised pretraining, which predicts nothing, is evaluated as its ``KNNAccuracyHook`` does.

    Args:
        cfg: The federation's config.
        folder: For logs.
    """
    if kind_of(cfg.model) == PRETRAINING:
        has_hook = any(map(is_knn_hook, cfg.get("custom_hooks") or ()))
        return EmbeddingEvaluation(cfg) if has_hook else None
    return GlobalEvaluation(cfg, folder) if cfg.get("val_dataloader") is not None else None


def deployed_state(state: State) -> dict[str, Tensor]:
    """A plain detector's or a pretrained backbone's part of a state dict: what is not under ``distillation.``."""
    return {name: value for name, value in state.items() if not name.startswith(DISTILLATION)}


def _evaluators(config: Any) -> list[dict]:
    found = config if isinstance(config, (list, tuple)) else [config]
    return [one for one in found if isinstance(one, dict)]
