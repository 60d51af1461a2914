"""Export of a detector as an ONNX file that is kept only if it detects what the detector does."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.errors import ConfigError, UnsupportedError
from lad.export.compare import TOLERANCE, Detections, Difference, compare
from lad.export.detector import INPUT, OUTPUTS, OnnxDetector, needed
from lad.export.modules import ExportableDetector
from lad.export.nms import TRANSLATIONS
from lad.export.preparation import Factors, own_inputs
from lad.export.refusal import OTHER_WAY, check_exportable
from lad.export.rule import InputRule

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from torch import Tensor

#: Of ONNX's operator set: the first with all that is used (GridSample of TOOD with the names of today).
OPSET = 20
#: Detections of an image where the detector's ``test_cfg`` sets no number (YOLOX).
DEFAULT_NUM = 300


@dataclass(frozen=True)
class ExportSettings:
    """What an exported file is made for.

    Attributes:
        rule: How images become inputs.
        classes: Names of the classes, in the order of the labels.
        num: Detections of an image, at most; None for the detector's ``max_per_img``.
        dtype: Type of the input's values, which go from 0 to 255.
        tolerance: Largest difference from PyTorch's scores, and coordinates in pixels of the input.
        pipeline: The config's own transforms, of :func:`lad.export.preparation.own_steps`, by which the check prepares
            the images for PyTorch; without them it prepares them by the rule, and does not check that.

    Raises:
        ConfigError: see :func:`check_numbers`.
    """

    rule: InputRule
    classes: tuple[str, ...]
    num: int | None = None
    dtype: torch.dtype = torch.uint8
    tolerance: float = TOLERANCE
    pipeline: Sequence[Mapping] = ()

    def __post_init__(self) -> None:
        check_numbers(self.num, self.tolerance)


def check_numbers(num: int | None, tolerance: float) -> None:
    """Refuse numbers with which an export makes no sense.

    Args:
        num: Detections of an image, at most; None for the detector's own.
        tolerance: Largest difference of scores and of pixels.

    Raises:
        ConfigError: the number is below 1; the tolerance is negative, infinite or not a number.
    """
    if num is not None and num < 1:
        raise ConfigError(
            f"the number of detections of an image (--max-per-image) must be at least 1, got {num}."
        )
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"--tolerance must be a finite number of at least 0, got {tolerance}.")


def export_onnx(
    detector: BaseDetector, path: Path, settings: ExportSettings, images: Sequence[np.ndarray], name: str = ""
) -> Difference:
    """Write a detector with its normalisation, decoding and suppression as an ONNX file.

    The file is written beside the path and gets its name when its rule makes of the images what the config's own
    pipeline makes of them, and ONNX Runtime finds in them what MMDetection's ``predict`` finds, in one batch and in the
    first image alone.

    Args:
        detector: A plain detector, on the CPU; put into eval mode.
        path: The file.
        settings: What it is made for.
        images: Real images, (h, w, 3) uint8 BGR of any size.
        name: Of the config, for the metadata.

    Returns:
        How far the detections of these images differ; those that are compared are counted once. A count of 0 says
        that nothing was detected, so nothing but the preparation is checked.

    Raises:
        DataError: an image is too thin for the rule.
        UnsupportedError: the detector is not covered, or the file prepares an image in another way than the pipeline,
            or detects something else.
        MissingPackageError: a package of the extra ``export`` is missing.
    """
    needed("onnx", "onnxscript", "onnxruntime")
    check_exportable(detector)
    detector.eval()
    # Before the file is written, which takes longer.
    inputs, _ = own_inputs(settings.pipeline, settings.rule, images)
    limit = most_detections(detector) if settings.num is None else settings.num
    module = ExportableDetector(detector, settings.rule.shape, limit).eval()
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(module, torch.from_numpy(inputs[:1]).to(settings.dtype), partial, settings, name)
        difference = verify(detector, module, partial, images, settings)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def most_detections(detector: BaseDetector) -> int:
    """``max_per_img`` of the detector's last stage.

    Raises:
        ConfigError: it is no limit (-1); a file has one.
    """
    head = getattr(detector, "roi_head", None) or detector.bbox_head
    num = int(head.test_cfg.get("max_per_img", DEFAULT_NUM))
    if num < 1:
        raise ConfigError(
            f"max_per_img of the config is {num}, but a file needs a limit: give --max-per-image."
        )
    return num


def _write(
    module: ExportableDetector, example: Tensor, path: Path, settings: ExportSettings, name: str
) -> None:
    # Of two images: a batch of one would be taken for a batch that is always of one.
    example = example.expand(2, -1, -1, -1).contiguous()
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Exported first: within torch.onnx.export MMDetection takes paths that are for the exporter of MMDetection 2.
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
        except Exception as error:  # what a network's code may raise when it is traced
            raise UnsupportedError(
                f"{type(module.detector).__name__} cannot be traced for any batch size: "
                f"{' '.join(str(error).split())[:200]}; {OTHER_WAY}."
            ) from error
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            custom_translation_table=TRANSLATIONS,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update(
        classes=json.dumps(settings.classes),
        rule=settings.rule.to_json(),
        channels="BGR, 0 to 255",
        detector=type(module.detector).__name__,
        config=name,
        max_detections=str(module.num),
    )
    onnx_program.save(str(path))


def verify(
    detector: BaseDetector,
    module: ExportableDetector,
    path: Path,
    images: Sequence[np.ndarray],
    settings: ExportSettings,
) -> Difference:
    """Compare what a file detects in images with what MMDetection's ``predict`` does; see :func:`export_onnx`.

    The file prepares the images itself, PyTorch gets what the config's own pipeline makes of them. Boxes are compared
    in pixels of the input.

    Raises:
        UnsupportedError: they differ by more than the tolerance.
    """
    exported = OnnxDetector(path)
    inputs, factors = own_inputs(settings.pipeline, settings.rule, images)
    expected = [
        within(own.best(module.num), image, factor)
        for own, image, factor in zip(
            reference(detector, module, torch.from_numpy(inputs)), images, factors, strict=True
        )
    ]

    def differences(count: int) -> list[Difference]:
        found = exported.detect(images[:count])
        return [
            compare(own, in_input(other, factor), settings.tolerance)
            for own, other, factor in zip(expected[:count], found, factors[:count], strict=True)
        ]

    together = differences(len(images))
    (alone,) = differences(1)
    total = sum(together[1:], together[0].or_worse(alone))
    if total.unmatched:
        raise UnsupportedError(
            f"the exported file does not detect what PyTorch does: {total.unmatched} detections of {total.count} in "
            f"{len(images)} images have no counterpart within {settings.tolerance:g} (score, pixels); nothing is kept. "
            "Export with onedl-mmdeploy, or with a larger --tolerance where the differences do not matter."
        )
    return total


def within(found: Detections, image: np.ndarray, factor: Factors) -> Detections:
    """Detections in pixels of the input, clipped to the image (h, w, C) that is in its top left corner."""
    width, height = image.shape[1] * factor[0], image.shape[0] * factor[1]
    boxes = found.boxes.clip(0, np.array([width, height, width, height], np.float32))
    return Detections(boxes, found.scores, found.labels)


def in_input(found: Detections, factor: Factors) -> Detections:
    """Detections in pixels of an image, as pixels of the input."""
    return Detections(found.boxes * np.array([*factor, *factor], np.float32), found.scores, found.labels)


@torch.no_grad()
def reference(detector: BaseDetector, module: ExportableDetector, batch: Tensor) -> list[Detections]:
    """What MMDetection finds in prepared images (B, 3, height, width), each of which fills its input.

    Normalised by the detector's own data preprocessor.
    """
    shape = module.shape
    meta = dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, pad_shape=shape)
    samples = [DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0))) for _ in batch]
    data = detector.data_preprocessor(dict(inputs=list(batch), data_samples=samples), False)
    found = detector.predict(data["inputs"], data["data_samples"], rescale=False)
    instances = [sample.pred_instances for sample in found]
    return [Detections(one.bboxes.numpy(), one.scores.numpy(), one.labels.numpy()) for one in instances]
