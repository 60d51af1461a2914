"""Lazy view of a frozen teacher on one batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from lad.base.capture import Outputs
from lad.networks.forward import PLAIN_FEATURES

from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from lad.networks.frozen import FrozenTeacher

T = TypeVar("T")


class TeacherView:
    """Outputs of a teacher for one batch: computed when first read, once, without gradient.

    Args:
        teacher: The teacher.
        inputs: Images normalised for the detector that owns the teacher, (N, C, H, W).
        data_samples: Their metadata.
        modules: Names of the teacher's modules that methods read.
        shared: Whether several methods read them.
    """

    #: Whether the outputs are combined from several teachers.
    is_ensemble: bool = False

    def __init__(
        self,
        teacher: FrozenTeacher,
        inputs: Tensor,
        data_samples: SampleList,
        modules: Iterable[str],
        shared: bool = False,
    ) -> None:
        self._teacher = teacher
        self._inputs = inputs
        self._data_samples = data_samples
        self._modules = tuple(modules)
        self._shared = shared

    @property
    def model(self) -> BaseDetector:
        """The teacher's detector; for its heads' settings and losses."""
        return self._teacher.model

    @cached_property
    def outputs(self) -> Outputs:
        """Outputs of the modules that methods read."""
        return self._teacher.run(self._inputs, self._data_samples, self._modules)

    @cached_property
    def detections(self) -> list[InstanceData]:
        """Detections in each image, best first: boxes (k, 4) in pixels of the batch's images, labels and scores.

        The scores are on the host.
        """
        features = None
        maps = "neck" if self.model.with_neck else "backbone"
        if maps in self._modules and type(self.model).extract_feat in PLAIN_FEATURES:
            # Other methods read them: backbone and neck run once for both.
            features = self.outputs[maps]
        return self._teacher.detect(self._inputs, self._data_samples, features)

    def target(self, module: str) -> list[Any]:
        """Outputs of a module, one an element for each of its calls, as targets that a loss can take.

        Tensors of ``inference_mode`` cannot be saved for a backward pass; these can. They are read only: methods share
        them.
        """
        return self.once(
            ("target", module), lambda: tree_map_only(Tensor, _ordinary, self.outputs.calls(module))
        )

    def once(self, what: Hashable, derive: Callable[[], T]) -> T:
        """What methods derive from the outputs alike: computed for the first that asks, and shared by all.

        Args:
            what: Names it.
            derive: Computes it of :meth:`target`; what it gives is read only.
        """
        if what not in self._derived:
            self._derived[what] = derive()
        return self._derived[what]

    @cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}

    def evaluate(self, function: Callable[..., Any], *args: Any) -> Any:
        """Evaluate modules of the teacher on more than the images (on boxes, for instance), without gradient.

        Args:
            function: Called with the teacher's detector and :attr:`outputs`, then ``args``, under the teacher's speed
                options.
            args: Its further arguments.

        Returns:
            The function's result, in tensors that a loss can take.
        """
        outputs = self.outputs
        with self._teacher.speed.running(self._inputs.device):
            result = function(self.model, outputs, *args)
        return tree_map_only(Tensor, _ordinary, result)

    def forward_through(self, function: Callable[..., Any], *args: Any) -> Any:
        """Pass tensors of the student through modules of the teacher; gradients reach the student's tensors.

        The teacher's parameters get no gradient.

        Args:
            function: Called with the teacher's detector, then ``args``, under the teacher's precision.
            args: Tensors of the student, in any nesting, and further arguments.

        Returns:
            The function's result.
        """
        with self._teacher.speed.precision(self._inputs.device):
            return function(self.model, *args)

    def outputs_of(self, images: Sequence[int], module: str) -> Any:
        """Output of one module for some images of the batch, by their numbers.

        The teacher runs for these images alone, unless the whole batch is needed anyway: here, or by another method.
        The output must be tensors with the images first.
        """
        if len(images) == len(self._data_samples):
            return self.outputs[module]
        if self._shared or "outputs" in self.__dict__:
            return tree_map_only(Tensor, lambda value: value[list(images)], self.outputs[module])
        samples = [self._data_samples[image] for image in images]
        return self._teacher.run(self._inputs[list(images)], samples, [module])[module]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
