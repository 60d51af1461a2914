"""Export of a detector as an ONNX file that is kept only if it detects what the detector does."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.errors import UnsupportedError
from lad.export.compare import TOLERANCE, Detections, Difference, compare
from lad.export.detector import INPUT, OUTPUTS, OnnxDetector, needed
from lad.export.modules import ExportableDetector
from lad.export.nms import TRANSLATIONS
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
        tolerance: Largest difference from PyTorch's scores, and coordinates in pixels.
    """

    rule: InputRule
    classes: tuple[str, ...]
    num: int | None = None
    dtype: torch.dtype = torch.uint8
    tolerance: float = TOLERANCE


def export_onnx(
    detector: BaseDetector, path: Path, settings: ExportSettings, images: Sequence[np.ndarray], name: str = ""
) -> Difference:
    """Write a detector with its normalisation, decoding and suppression as an ONNX file.

    The file is written beside the path and gets its name when ONNX Runtime has found in the images what MMDetection's
    ``predict`` finds, image by image and in one batch.

    Args:
        detector: A plain detector, on the CPU; put into eval mode.
        path: The file.
        settings: What it is made for.
        images: Real images, (h, w, 3) uint8 BGR of any size.
        name: Of the config, for the metadata.

    Returns:
        How far the detections of these images differ.

    Raises:
        UnsupportedError: the detector is not covered, or the file detects something else.
        MissingPackageError: a package of the extra ``export`` is missing.
    """
    needed("onnx", "onnxscript", "onnxruntime")
    check_exportable(detector)
    detector.eval()
    batch = torch.from_numpy(np.stack([settings.rule.prepare(image)[0] for image in images]))
    limit = settings.num or most_detections(detector)
    module = ExportableDetector(detector, settings.rule.shape, limit).eval()
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(module, batch[:1].to(settings.dtype), partial, settings, name)
        difference = verify(detector, module, partial, batch, settings)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def most_detections(detector: BaseDetector) -> int:
    """``max_per_img`` of the detector's last stage."""
    head = getattr(detector, "roi_head", None) or detector.bbox_head
    return int(head.test_cfg.get("max_per_img", DEFAULT_NUM))


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
    detector: BaseDetector, module: ExportableDetector, path: Path, batch: Tensor, settings: ExportSettings
) -> Difference:
    """Compare a file's detections with MMDetection's ``predict``; see :func:`export_onnx`.

    Raises:
        UnsupportedError: they differ by more than the tolerance.
    """
    exported = OnnxDetector(path)
    expected = reference(detector, module, batch)
    inputs = batch.numpy()
    total = Difference(0, 0, 0.0, 0.0)
    for count in (len(expected), 1):
        for own, other in zip(expected[:count], exported.raw(inputs[:count]), strict=True):
            total += compare(own.best(module.num), other, settings.tolerance)
    if total.unmatched:
        raise UnsupportedError(
            f"the exported file does not detect what PyTorch does: {total.unmatched} detections of {total.count} in "
            f"{len(batch)} images have no counterpart within {settings.tolerance:g} (score, pixels); nothing is kept. "
            "Export with onedl-mmdeploy, or with a larger --tolerance where the differences do not matter."
        )
    return total


@torch.no_grad()
def reference(detector: BaseDetector, module: ExportableDetector, batch: Tensor) -> list[Detections]:
    """What ``detector.predict`` finds in prepared images, each of which fills its input."""
    shape = module.shape
    meta = dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, pad_shape=shape)
    samples = [DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0))) for _ in batch]
    found = detector.predict(module.normalise(batch.float()), samples, rescale=False)
    instances = [sample.pred_instances for sample in found]
    return [Detections(one.bboxes.numpy(), one.scores.numpy(), one.labels.numpy()) for one in instances]
