"""Hook that draws the label assignment during training."""

from __future__ import annotations

import copy
import logging
from typing import Any

from lad.engine.model import detector_of
from lad.errors import ConfigError, UnsupportedError

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class AssignmentVisualizationHook(Hook):
    """Draws every ``interval`` iterations which priors are positive for the objects of some images, and why.

    The images are the first ones of the run's first batch, as the training pipeline made them, and stay the same, so
    that pictures of one run can be compared; after a resume they are those of the first batch that comes then. They go
    to the visualizer as ``assignment_0``, ``assignment_1`` and so on: TensorBoard, where its backend is configured, and
    PNG files in ``vis_data/vis_image``. What is in them: see
    :func:`lad.analysis.pictures.assignments.assignment_pictures`. The first process draws,
    and nothing of the training changes: no weights, statistics, gradients or random numbers.

    Args:
        interval: Iterations between two pictures of an image; the first is drawn after the first iteration.
        max_images: How many images.
        max_objects: How many objects of each, in the order of the annotations.

    Raises:
        ConfigError: a number is less than 1; when training starts, a detector whose assignment cannot be drawn.
    """

    priority = "LOW"

    def __init__(self, interval: int = 500, max_images: int = 2, max_objects: int = 2) -> None:
        for name, value in (("interval", interval), ("max_images", max_images), ("max_objects", max_objects)):
            if value < 1:
                raise ConfigError(f"AssignmentVisualizationHook: {name} must be at least 1, got {value}.")
        self.interval = interval
        self.max_images = max_images
        self.max_objects = max_objects
        self._data: dict[str, Any] | None = None
        self._drawn = False

    def before_train(self, runner: Runner) -> None:
        """Refuse detectors whose assignment cannot be drawn."""
        # Here and below: registering this hook must not load what draws.
        from lad.analysis.pictures.assignments import check_drawable

        try:
            check_drawable(detector_of(runner))
        except UnsupportedError as error:
            raise ConfigError(
                f"AssignmentVisualizationHook: {error} Take the hook out of custom_hooks."
            ) from error

    @master_only
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Keep the images of the first batch, before the detector sees (and may change) them."""
        if self._data is None and data_batch is not None:
            kept = {key: data_batch[key][: self.max_images] for key in ("inputs", "data_samples")}
            self._data = copy.deepcopy(kept)

    @master_only
    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: Any) -> None:
        """Draw them."""
        if self._data is None or (self._drawn and not self.every_n_train_iters(runner, self.interval)):
            return
        from lad.analysis.pictures.assignment_drawing import draw_assignment
        from lad.analysis.pictures.assignments import assignment_pictures

        self._drawn = True
        try:
            pictures = assignment_pictures(detector_of(runner), self._data, _classes(runner))
        except FloatingPointError as error:
            # The numerical checks of the training handle it.
            print_log(f"no pictures of the assignment: {error}", logger="current", level=logging.WARNING)
            return
        for number, picture in enumerate(pictures):
            objects = range(min(self.max_objects, len(picture.bboxes)))
            drawn = draw_assignment(picture, objects)
            runner.visualizer.add_image(f"assignment_{number}", drawn, step=runner.iter + 1)


def _classes(runner: Runner) -> list[str] | None:
    metainfo = getattr(runner.train_dataloader.dataset, "metainfo", None) or {}
    return metainfo.get("classes")
