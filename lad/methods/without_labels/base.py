"""Base of methods that train on views of images without labels, and a step as such a method sees it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lad.base.progress import Progress
from lad.methods.without_labels.gathering import Gathered

from mmengine.model import BaseModule
from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """A network's embeddings of two views of N images.

    Attributes:
        first, second: (N, D) of the views of this process.
        every: Those of all processes.
    """

    first: Tensor
    second: Tensor
    every: Gathered


@dataclass(frozen=True)
class ViewsStep:
    """One step on views of images.

    Attributes:
        networks: Embeddings by the network's name.
        progress: Place of the step in the run.
    """

    networks: Mapping[str, Embeddings]
    progress: Progress


class WithoutLabelsMethod(BaseModule):
    """Base of methods that train networks on views of images without labels.

    Its own weights, if any, are saved under ``distillation.NAME.``.
    """

    def bind(self, networks: Sequence[str]) -> None:
        """Called once, when the model is built: refuse what does not fit.

        Args:
            networks: Names of the networks that are trained.

        Raises:
            ConfigError: names what does not fit.
        """

    @abstractmethod
    def losses(self, step: ViewsStep) -> dict[str, Tensor]:
        """Loss terms by name (``loss_...``); other names are only logged."""

    def loss_weights(self) -> dict[str, float]:
        """The weights of its loss terms by name, as far as they are numbers of its config."""
        return {}
