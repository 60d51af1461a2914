"""Recording of training batches with a non-finite loss, and search for the cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lad.engine.checkpoints import write_torch
from lad.errors import listed

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures.bbox import BaseBoxes
from mmengine.structures import BaseDataElement
from torch import Tensor


def plain(value: Any) -> Any:
    """Convert a value to tensors, numbers, text, dicts, lists and tuples, on the CPU.

    Data elements become dicts of their fields, with their metadata under ``metainfo``; any other object becomes its
    ``repr``.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, BaseBoxes):
        return plain(value.tensor)
    if isinstance(value, BaseDataElement):
        return dict(
            metainfo=plain(dict(value.metainfo_items())),
            **{name: plain(field) for name, field in value.items()},
        )
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            type(value)(map(plain, value))
            if type(value) in (list, tuple)
            else [plain(item) for item in value]
        )
    if isinstance(value, (np.ndarray, np.generic)):
        return torch.from_numpy(value.copy()) if value.ndim and value.dtype.kind in "biuf" else value.tolist()
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def write_batch(path: Path, batch: Any, **more: Any) -> None:
    """Write a batch to a file that :func:`lad.compat.safe_loading.load_safely` reads.

    Raises:
        CheckpointError: it cannot be written.
    """
    record = batch if isinstance(batch, Mapping) else dict(batch=batch)
    write_torch(path, plain({**more, **record}))


def samples_of(batch: Any) -> Iterator[BaseDataElement]:
    """Iterate over the data samples of a batch, at any depth of dicts, lists and tuples."""
    if isinstance(batch, BaseDataElement):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from samples_of(item)


def name_images(batch: Any, limit: int = 8) -> str:
    """Format the images of a batch as ``image 7 (a.jpg), image 9 (b.jpg)``."""
    return listed([_name(sample) for sample in samples_of(batch)], limit)


def _name(sample: BaseDataElement) -> str:
    return f"image {sample.get('img_id', '?')} ({sample.get('img_path', 'no path')})"


def bad_terms(losses: Mapping[str, Any]) -> dict[str, float]:
    """Values of the loss terms that are not finite, by name (``loss_cls[2]`` in a list of levels)."""
    values = {}
    for name, value in losses.items():
        if "loss" not in name:
            continue
        if isinstance(value, Tensor):
            values[name] = value
        elif len(value) == 1:
            values[name] = value[0]
        else:
            values.update({f"{name}[{level}]": item for level, item in enumerate(value)})
    means = {name: float(value.detach().float().mean()) for name, value in values.items()}
    return {name: mean for name, mean in means.items() if not np.isfinite(mean)}


def broken_weights(model: BaseDetector) -> list[str]:
    """Names of the parameters that contain NaN or infinity."""
    return [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]


def bad_input(batch: Any) -> str:
    """Describe an image or a box of a batch that no finite loss can come from; empty if there is none."""
    if isinstance(batch, Mapping):
        # The batch is not preprocessed yet: one tensor per image.
        for image, sample in zip(batch.get("inputs", ()), samples_of(batch), strict=False):
            if isinstance(image, Tensor) and not bool(image.isfinite().all()):
                return f"the pixels of {_name(sample)} are not finite: look at the pipeline"
    for sample in samples_of(batch):
        boxes = getattr(sample.get("gt_instances"), "bboxes", None)
        boxes = boxes.tensor if isinstance(boxes, BaseBoxes) else boxes
        if not isinstance(boxes, Tensor) or boxes.shape[-1:] != (4,):
            continue
        if not bool(boxes.isfinite().all()):
            return f"boxes of {_name(sample)} are not finite: see `lad check`"
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            return f"boxes of {_name(sample)} have no area: see `lad check`, or look at the pipeline"
    return ""
