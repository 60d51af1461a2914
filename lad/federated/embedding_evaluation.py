"""Evaluation of a pretraining without labels on the server's labelled objects."""

from __future__ import annotations

import copy
from typing import Any

from lad.base.config import kind_of
from lad.engine.hooks import KNNAccuracyHook
from lad.engine.hooks.knn_accuracy import NAME
from lad.federated.aggregation import State

import torch
from mmdet.registry import MODELS
from mmengine.config import Config

HOOK = KNNAccuracyHook.__name__


class EmbeddingEvaluation:
    """k-NN accuracy of the features of one state dict after another, as the config's ``KNNAccuracyHook`` measures it.

    Args:
        cfg: The federation's config: a pretraining whose ``custom_hooks`` have a ``KNNAccuracyHook``.
    """

    def __init__(self, cfg: Config) -> None:
        settings = next(copy.deepcopy(hook) for hook in cfg.custom_hooks if is_knn_hook(hook))
        settings.pop("type")
        settings.pop("priority", None)
        self.hook = KNNAccuracyHook(**settings)
        self.model = MODELS.build(copy.deepcopy(cfg.model))

    def __call__(self, state: State) -> dict[str, float]:
        """The accuracy of each network by its name; of a single one, ``knn_accuracy``.

        Args:
            state: All that clients send: of each network, and of what is under ``distillation.``.
        """
        self.model.load_state_dict(dict(state), strict=True)
        # Evaluation must not move the random state on which later rounds depend.
        with torch.random.fork_rng(devices=[]):
            found = self.hook.accuracies(self.model)
        if len(found) == 1:
            return {NAME: next(iter(found.values()))}
        return {f"{name}.{NAME}": value for name, value in found.items()}


def is_knn_hook(hook: Any) -> bool:
    """Whether a hook's config is that of the server's evaluation of a pretraining."""
    return isinstance(hook, dict) and kind_of(hook) == HOOK
