"""Replaying one head's label decision in another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError

from mmdet.models.task_modules import AssignResult
from mmengine.structures import InstanceData
from torch import nn


@dataclass(frozen=True)
class AssignerCall:
    """A head's question which priors of one image are positive.

    Attributes:
        site: Name of the head's attribute that was asked.
        image: Number of the image in the batch.
        assigner: Who would have answered.
        arguments: What it was asked with, by the assigner's names: ``pred_instances`` (``priors``, ``scores``,
            ``bboxes`` of the V priors that take part), ``gt_instances``, ``gt_instances_ignore``, and the head's own.
    """

    site: str
    image: int
    assigner: Any
    arguments: dict[str, Any]

    @property
    def own(self) -> InstanceData:
        """The predictions of the head that asks."""
        return self.arguments["pred_instances"]

    @property
    def gt_instances(self) -> InstanceData:
        """The image's G objects."""
        return self.arguments["gt_instances"]

    def assign(self, **changed: Any) -> AssignResult:
        """The assigner's answer to the same question with some arguments changed."""
        return self.assigner.assign(**{**self.arguments, **changed})


Answer = Callable[[AssignerCall], AssignResult]


class AssignerStandIn:
    """Takes an assigner's place in a head, hands every call to ``answer`` and checks their number and order.

    A head asks image by image in the order of the batch, and may pass over images without objects.

    Args:
        head: The head, for messages.
        site: Name of its attribute.
        assigner: What stands there.
        batch_gt_instances: Objects of each image of the batch.
        answer: Gives the answers.
    """

    def __init__(
        self,
        head: nn.Module,
        site: str,
        assigner: Any,
        batch_gt_instances: Sequence[InstanceData],
        answer: Answer,
    ) -> None:
        self._name = f"{type(head).__name__}.{site}"
        self._site = site
        self._assigner = assigner
        self._batch = batch_gt_instances
        self._answer = answer
        self._next = 0
        self.calls = 0
        self._signature = inspect.signature(assigner.assign)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assigner, name)

    def assign(self, *args: Any, **kwargs: Any) -> AssignResult:
        """Answer in the assigner's place; its own arguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        for name in list(arguments):  # **kwargs of the assigner, laid flat
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        image = self._image_of(arguments["gt_instances"])
        self.calls += 1
        return self._answer(AssignerCall(self._site, image, self._assigner, arguments))

    def _image_of(self, gt_instances: InstanceData) -> int:
        while len(gt_instances) and self._next < len(self._batch) and len(self._batch[self._next]) == 0:
            self._next += 1
        image = self._next
        if image == len(self._batch):
            raise UnsupportedError(
                f"{self._name} was asked once more than the {len(self._batch)} images of the batch: "
                "the teacher's decision is replayed image by image; give this head a seam of its own."
            )
        expected = self._batch[image]
        if gt_instances is not expected and (
            len(gt_instances) != len(expected) or any(gt_instances is other for other in self._batch)
        ):
            raise UnsupportedError(
                f"{self._name} was asked out of order: for {len(gt_instances)} objects where image {image} of the "
                f"batch, with {len(expected)}, was next; give this head a seam of its own."
            )
        self._next += 1
        return image

    def check_finished(self) -> None:
        """Refuse a head that asked for some of the images only.

        Raises:
            UnsupportedError: images with objects were left out.
        """
        left = [image for image in range(self._next, len(self._batch)) if len(self._batch[image])]
        if left:
            raise UnsupportedError(
                f"{self._name} was asked {self.calls} times and not for image {left[0]} of {len(self._batch)}, which "
                "has objects: the teacher decided nothing there; keep the student's own loss (student_loss=True), or "
                "give this head a seam of its own."
            )


@contextmanager
def answering(
    head: nn.Module,
    sites: Sequence[str],
    batch_gt_instances: Sequence[InstanceData],
    answer: Answer,
    must_ask: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Let ``answer`` decide in the place of a head's assigners while the block runs.

    Args:
        head: The head.
        sites: Names of its attributes that hold assigners.
        batch_gt_instances: Objects of each image of the batch.
        answer: Gives the answers.
        must_ask: Asked at the end of the block: whether an assigner that was not asked at all is a mistake.

    Raises:
        UnsupportedError: the head asks in another number or order than image by image.
    """
    stand_ins = [
        AssignerStandIn(head, site, getattr(head, site), batch_gt_instances, answer) for site in sites
    ]
    with ExitStack() as places:
        for site, stand_in in zip(sites, stand_ins, strict=True):
            places.enter_context(replaced(head, site, stand_in))
        yield
    for stand_in in stand_ins:
        if stand_in.calls or must_ask():
            stand_in.check_finished()
