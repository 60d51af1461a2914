"""Base of methods that train on views of images without labels, and a step as such a method sees it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

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
        references: (R, D) of the other images of all processes; None where no method needs them.
    """

    first: Tensor
    second: Tensor
    every: Gathered
    references: Tensor | None = None


@dataclass(frozen=True)
class SnapshotEmbeddings:
    """Embeddings by a network and its projection as they were when the run began, constant.

    Attributes:
        second: (N, D) of the second view of the images of this process.
        references: (R, D) of the other images of all processes.
    """

    second: Tensor
    references: Tensor


@dataclass(frozen=True)
class ViewsStep:
    """One step on views of images.

    Attributes:
        networks: Embeddings by the network's name.
        progress: Place of the step in the run.
        snapshots: Embeddings by each network's snapshot, where a method needs them.
    """

    networks: Mapping[str, Embeddings]
    progress: Progress
    snapshots: Mapping[str, SnapshotEmbeddings] = field(default_factory=dict)


class WithoutLabelsMethod(BaseModule):
    """Base of methods that train networks on views of images without labels.

    Its own weights, if any, are saved under ``distillation.NAME.``.
    """

    #: Whether it needs views of other images, :attr:`Embeddings.references`.
    needs_references = False
    #: Whether it needs :attr:`ViewsStep.snapshots`, and with them references.
    needs_snapshots = False

    def bind(self, networks: Mapping[str, int]) -> None:
        """Called once, when the model is built: refuse what does not fit, build what depends on the networks.

        Args:
            networks: The width of the embeddings of each network that is trained, by its name.

        Raises:
            ConfigError: names what does not fit.
        """

    @abstractmethod
    def losses(self, step: ViewsStep) -> dict[str, Tensor]:
        """Loss terms by name (``loss_...``); other names are only logged."""

    def loss_weights(self) -> dict[str, float]:
        """The weights of its loss terms by name, as far as they are numbers of its config."""
        return {}
