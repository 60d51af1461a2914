"""Frozen teachers: hidden from the owner, placed on its device, run once for each batch, without gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from lad.base.capture import Capture, Outputs, find_module, root_of
from lad.base.modes import evaluating
from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.networks.dry_run import dry_run
from lad.networks.forward import DENSE_HEADS, dense_parts, part_of, run_dense, set_head_flags
from lad.networks.gives import OF_DETECTORS, Output
from lad.networks.mask_boxes import with_boxes
from lad.networks.preprocessing import Renormalisation
from lad.networks.speed import COMPILED, TeacherSpeed
from lad.networks.view import TeacherView

import torch
from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor


class FrozenTeacher:
    """Frozen detector that teaches: it runs without gradient and is never changed.

    Not an ``nn.Module``, so that the module that owns it does not register it: it appears in no parameter list,
    optimizer, checkpoint, EMA copy or DDP bucket. The owner forwards ``_apply`` to :meth:`move` so that the
    teacher follows ``.to()`` and ``.cuda()``. Copies (EMA) share the network, which is read-only, and do not move it.

    Args:
        model: The detector with its weights loaded.
        renormalisation: From the student's images to the teacher's.
        classes: The class names its checkpoint records, if any.
        config: The model config it was built from; names its records in a cache.
        speed: Options that make its forward pass cheaper.
    """

    #: Whether training images need their fingerprint (see :mod:`lad.networks.cache`).
    needs_fingerprints: bool = False

    def __init__(
        self,
        model: BaseDetector,
        renormalisation: Renormalisation,
        classes: tuple[str, ...] | None = None,
        config: dict | None = None,
        speed: TeacherSpeed | None = None,
    ) -> None:
        self._is_copy = False
        self._captures: dict[tuple[str, ...], Capture] = {}
        self.config = config
        self.speed = speed or TeacherSpeed()
        self.model = self.speed.prepare(model.requires_grad_(False).eval())
        self.renormalisation = renormalisation
        self.classes = classes
        # Modules stay in eval mode (batch norm statistics, dropout); the flag of the detector and its heads alone
        # makes them return what a training student's heads return.
        set_head_flags(self.model)

    @property
    def gives(self) -> tuple[Output, ...]:
        """What methods can read of it; see :mod:`lad.networks.gives`."""
        return getattr(self.model, "gives", OF_DETECTORS)

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        twin = copy.copy(self)
        twin._is_copy = True
        return twin

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply what the owner's ``_apply`` applies: a device or dtype change.

        A copy does not move the network that it shares: an EMA model kept on the CPU would take it along.
        """
        if self._is_copy:
            return
        self.model._apply(function)
        self.renormalisation._apply(function)

    def view(
        self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str], shared: bool = False
    ) -> TeacherView:
        """A lazy view of one batch; see :class:`TeacherView` for the arguments."""
        return TeacherView(self, inputs, data_samples, modules, shared)

    def run(self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str]) -> Outputs:
        """Run no further than the named modules need and return their outputs; without gradient."""
        modules = tuple(modules)
        if not modules:
            return Outputs()
        with self.speed.running(inputs.device):
            return self._run(inputs, data_samples, modules)

    def _run(self, inputs: Tensor, data_samples: SampleList, modules: tuple[str, ...]) -> Outputs:
        inputs = self.renormalisation(inputs, data_samples)
        if self.speed.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        roots = set(map(part_of, modules))
        if modules not in self._captures:
            self._captures[modules] = Capture(self.model, modules)
        with self._captures[modules].record() as outputs:
            if roots <= dense_parts(self.model):
                run_dense(self.model, inputs, roots, data_samples)
            else:
                self.model._forward(inputs, data_samples)
        return outputs

    def detect(
        self, inputs: Tensor, data_samples: SampleList, features: Any | None = None
    ) -> list[InstanceData]:
        """Detections in each image, best first; see :attr:`TeacherView.detections`. Waits for the device.

        Args:
            inputs, data_samples: The images.
            features: Maps of the neck (of the backbone, without a neck) for them, if they are known already.
        """
        samples = [sample.new() for sample in data_samples]  # predictions are written into them
        with evaluating(self.model), self.speed.running(inputs.device), ExitStack() as known:
            if features is None:
                images = self.renormalisation(inputs, samples)
            else:
                images = inputs
                known.enter_context(replaced(self.model, "extract_feat", lambda images: features))
            roi_head = getattr(self.model, "roi_head", None)
            if roi_head is not None and roi_head.with_mask:
                # Its masks are predicted for the boxes that are found, and nobody reads them.
                known.enter_context(replaced(roi_head, "mask_head", None))
            results = self.model.predict(images, samples, rescale=False)
        found = []
        for result in results:
            own = with_boxes(result.pred_instances)
            # On the host: suppression has waited for the device already.
            scores, order = own.scores.float().cpu().sort(descending=True, stable=True)
            # Boxes without area, clipped at the border, are no objects that a loss can compare with.
            has_area = (own.bboxes[:, 2:] > own.bboxes[:, :2]).all(dim=1).cpu()[order]
            scores, order = scores[has_area], order[has_area].to(own.bboxes.device)
            found.append(InstanceData(bboxes=own.bboxes[order], labels=own.labels[order], scores=scores))
        return found

    def check_ready(self) -> None:
        """Refuse to train before all is there that the teacher needs; called before each step.

        Raises:
            ConfigError: names what is missing.
        """

    def dry_run(self, modules: Iterable[str]) -> Outputs:
        """Outputs of modules for zero images, to infer shapes; see :func:`dry_run`.

        Raises:
            UnsupportedError: outputs of one of the modules cannot be captured.
        """
        self._check_capturable(modules := tuple(modules))
        return dry_run(self.model, modules)

    def _check_capturable(self, modules: Sequence[str]) -> None:
        """Refuse modules inside of compiled ones, whose hooks do not run."""
        for name in modules if self.speed.compile else ():
            if "." in name and root_of(name) in COMPILED:
                raise UnsupportedError(
                    f"speed=dict(compile=True): {name!r} is inside of what is compiled, whose outputs cannot be "
                    f"captured: name {root_of(name)!r} itself, or leave out compile."
                )

    def check_modules(self, modules: Iterable[str]) -> None:
        """Refuse names that the teacher does not have, and what its later layers overwrite.

        Raises:
            ConfigError: names the module.
            UnsupportedError: outputs of one of them cannot be captured.
        """
        modules = tuple(modules)
        for name in modules:
            find_module(self.model, name)
        self._check_capturable(modules)
        if self.speed.inference_mode:
            # Its tensors do not count what is written to them: those of a dry run do.
            heads = () if isinstance(self.model, DetectionTransformer) else DENSE_HEADS
            inner = [
                name for name in modules if "." in name and root_of(name) in ("backbone", "neck", *heads)
            ]
            if inner:
                outputs = self.dry_run(inner)
                for name in inner:
                    outputs.calls(name)
