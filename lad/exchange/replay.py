"""Replacement of a head's assigners for one batch, with checks of the number and order of their calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lad.base.replace import replaced
from lad.errors import UnsupportedError

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules import AssignResult
from mmengine.structures import InstanceData


@dataclass(frozen=True)
class AssignerCall:
    """Call of an assigner by a head, for one image.

    Attributes:
        site: Name of the head's attribute that holds the assigner.
        image: Index of the image in the batch.
        assigner: The head's own assigner.
        arguments: Arguments of the call by the assigner's names: ``pred_instances`` (``priors``, ``scores``,
            ``bboxes`` of the V priors that are used), ``gt_instances``, ``gt_instances_ignore``, and further ones of
            the head.
    """

    site: str
    image: int
    assigner: Any
    arguments: dict[str, Any]

    @property
    def pred_instances(self) -> InstanceData:
        """Predictions of the calling head."""
        return self.arguments["pred_instances"]

    @property
    def gt_instances(self) -> InstanceData:
        """Ground truth of the image, G objects."""
        return self.arguments["gt_instances"]

    def assign(self, **changed: Any) -> AssignResult:
        """Call the head's own assigner with some arguments changed."""
        return self.assigner.assign(**{**self.arguments, **changed})


AssignFunction = Callable[[AssignerCall], AssignResult]


class AssignerProxy:
    """Forwards the calls of an assigner to ``assign`` and checks their number and order.

    A head calls its assigner image by image in the order of the batch, and may skip images without objects. All other
    attributes are the assigner's.

    Args:
        head: The head, for messages.
        site: Name of its attribute that holds the assigner.
        assigner: The assigner.
        batch_gt_instances: Ground truth of each image of the batch.
        assign: Returns the result of each call.
    """

    def __init__(
        self,
        head: BaseDenseHead,
        site: str,
        assigner: Any,
        batch_gt_instances: Sequence[InstanceData],
        assign: AssignFunction,
    ) -> None:
        self._name = f"{type(head).__name__}.{site}"
        self._site = site
        self._assigner = assigner
        self._batch = batch_gt_instances
        self._assign = assign
        self._next = 0
        self.calls = 0
        self._signature = inspect.signature(assigner.assign)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assigner, name)

    def assign(self, *args: Any, **kwargs: Any) -> AssignResult:
        """Handle a call of the assigner; its own arguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        for name in list(arguments):  # flatten the assigner's **kwargs
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name))
        image = self._image_of(arguments["gt_instances"])
        self.calls += 1
        return self._assign(AssignerCall(self._site, image, self._assigner, arguments))

    def _image_of(self, gt_instances: InstanceData) -> int:
        while len(gt_instances) and self._next < len(self._batch) and len(self._batch[self._next]) == 0:
            self._next += 1
        image = self._next
        if image == len(self._batch):
            raise UnsupportedError(
                f"{self._name} was called once more than the {len(self._batch)} images of the batch: "
                "the teacher's decision is replayed image by image; give this head a seam of its own."
            )
        expected = self._batch[image]
        if gt_instances is not expected and (
            len(gt_instances) != len(expected) or any(gt_instances is other for other in self._batch)
        ):
            raise UnsupportedError(
                f"{self._name} was called out of order: for {len(gt_instances)} objects where image {image} of the "
                f"batch, with {len(expected)}, was next; give this head a seam of its own."
            )
        self._next += 1
        return image

    def check_finished(self) -> None:
        """Refuse a head that called its assigner for some of the images only.

        Raises:
            UnsupportedError: images with objects were skipped.
        """
        left = [image for image in range(self._next, len(self._batch)) if len(self._batch[image])]
        if left:
            raise UnsupportedError(
                f"{self._name} was called {self.calls} times and not for image {left[0]} of {len(self._batch)}, which "
                "has objects: no decision of the teacher was replayed there; keep the student's own loss "
                "(student_loss=True), or give this head a seam of its own."
            )


@contextmanager
def replace_assigners(
    head: BaseDenseHead,
    sites: Sequence[str],
    batch_gt_instances: Sequence[InstanceData],
    assign: AssignFunction,
    expects_calls: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Temporarily replace the assigners of a head by the function ``assign``.

    Args:
        head: The head.
        sites: Names of its attributes that hold assigners.
        batch_gt_instances: Ground truth of each image of the batch.
        assign: Returns the result of each call.
        expects_calls: Evaluated at the end of the block: whether an assigner that was never called is an error.

    Raises:
        UnsupportedError: the number or order of the calls is not that of the images.
    """
    proxies = [AssignerProxy(head, site, getattr(head, site), batch_gt_instances, assign) for site in sites]
    with ExitStack() as stack:
        for site, proxy in zip(sites, proxies, strict=True):
            stack.enter_context(replaced(head, site, proxy))
        yield
    for proxy in proxies:
        if proxy.calls or expects_calls():
            proxy.check_finished()
