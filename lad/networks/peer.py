"""Trained networks in the role of a teacher: their outputs of the step, detached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lad.base.capture import Outputs, find_module
from lad.networks.dry_run import dry_run
from lad.networks.forward import frozen_mode
from lad.networks.gives import OF_PEERS, Output
from lad.networks.speed import TeacherSpeed
from lad.networks.view import TeacherView

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor
from torch.utils._pytree import tree_map_only


class PeerTeacher:
    """A network (or an exit of one) that is trained in the same step, as the teacher of another.

    Has the interface of :class:`lad.networks.frozen.FrozenTeacher` that methods bind to. Nothing runs twice: methods
    read what the peer computed for its own loss. Its parameters never get a gradient from what it teaches.

    Args:
        model: The trained network.
    """

    config: dict | None = None
    classes: tuple[str, ...] | None = None
    speed = TeacherSpeed()
    gives: tuple[Output, ...] = OF_PEERS

    def __init__(self, model: BaseDetector) -> None:
        self.model = model

    def check_modules(self, modules: Iterable[str]) -> None:
        """Refuse names that the network does not have.

        Raises:
            ConfigError: names the module.
        """
        for name in modules:
            find_module(self.model, name)

    def dry_run(self, modules: Iterable[str]) -> Outputs:
        """Outputs of modules for zero images, to infer shapes."""
        return dry_run(self.model, tuple(modules))


class PeerView(TeacherView):
    """Outputs of a trained network for one batch, detached, as its own forward pass produces them.

    Args:
        model: The network.
        outputs: Its captured outputs, filled during the step.
        num_images: Size of the batch.
    """

    def __init__(self, model: BaseDetector, outputs: Outputs, num_images: int) -> None:
        self._model = model
        self._outputs = DetachedOutputs(outputs)
        self._num_images = num_images

    @property
    def model(self) -> BaseDetector:
        """The network itself; for its heads' settings and losses."""
        return self._model

    @property
    def outputs(self) -> Outputs:
        """Captured outputs, detached."""
        return self._outputs

    def target(self, module: str) -> list[Any]:
        """See :meth:`TeacherView.target`."""
        return self.outputs.calls(module)

    def evaluate(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`TeacherView.evaluate`; batch norm and dropout as in a frozen teacher."""
        with torch.no_grad(), frozen_mode(self._model):
            return function(self._model, self._outputs, *args)

    def forward_through(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`TeacherView.forward_through`."""
        with without_parameter_gradients(self._model), frozen_mode(self._model):
            return function(self._model, *args)

    def outputs_of(self, images: Sequence[int], module: str) -> Any:
        """See :meth:`TeacherView.outputs_of`."""
        output = self._outputs[module]
        if len(images) == self._num_images:
            return output
        return tree_map_only(Tensor, lambda value: value[list(images)], output)


class DetachedOutputs(Outputs):
    """The outputs of captured modules without their graph.

    Args:
        source: The captured outputs; may still be empty.
    """

    frozen = False

    def __init__(self, source: Outputs) -> None:
        super().__init__()
        self._source = source

    def calls(self, name: str) -> list[Any]:
        """See :meth:`Outputs.calls`."""
        return tree_map_only(Tensor, torch.Tensor.detach, self._source.calls(name))


@contextmanager
def without_parameter_gradients(model: BaseDetector) -> Iterator[None]:
    """Let operations of the block record gradients of their inputs, and none of the model's parameters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
