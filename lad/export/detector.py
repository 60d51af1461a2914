"""An exported detector on ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lad.errors import DataError, MissingPackageError
from lad.export.compare import Detections
from lad.export.rule import InputRule

import numpy as np

#: Names of the exported file's input and outputs.
INPUT, OUTPUTS = "images", ("boxes", "scores", "labels", "num")


def needed(*names: str) -> None:
    """Refuse to go on without the packages of the extra ``export``.

    Raises:
        MissingPackageError: one cannot be imported.
    """
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise MissingPackageError(
                f"the export needs the package {name}: pip install onnx onnxscript onnxruntime."
            ) from error


class OnnxDetector:
    """A file of :func:`lad.export.export_onnx` as a function of images.

    Args:
        path: The file.
        threads: Of ONNX Runtime for one operator; None for its default.

    Raises:
        DataError: the file cannot be loaded, or is not one of this package.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        needed("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common class but this
            raise DataError(f"{path} cannot be loaded by ONNX Runtime: {str(error)[:200]}") from error
        meta = self.session.get_modelmeta().custom_metadata_map
        if "rule" not in meta or "classes" not in meta:
            raise DataError(f"{path} has no class names and input rule: it is not of tools/export.py.")
        self.classes: tuple[str, ...] = tuple(json.loads(meta["classes"]))
        self.rule = InputRule.from_json(meta["rule"])
        self.dtype = np.uint8 if "uint8" in self.session.get_inputs()[0].type else np.float32

    def run(self, batch: np.ndarray) -> tuple[Any, ...]:
        """The file's outputs for (B, 3, height, width) prepared images: boxes, scores, labels and their number."""
        return tuple(self.session.run(list(OUTPUTS), {INPUT: batch.astype(self.dtype, copy=False)}))

    def raw(self, batch: np.ndarray) -> list[Detections]:
        """Detections of prepared images, in pixels of the input."""
        boxes, scores, labels, num = self.run(batch)
        return [
            Detections(boxes[image, :n], scores[image, :n], labels[image, :n]) for image, n in enumerate(num)
        ]

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of BGR images (h, w, 3) of any size, in pixels of each, clipped to it."""
        prepared = [self.rule.prepare(image) for image in images]
        results = []
        found = self.raw(np.stack([one for one, _ in prepared]))
        for image, (_, (x, y)), one in zip(images, prepared, found, strict=True):
            height, width = image.shape[:2]
            boxes = one.boxes / np.array([x, y, x, y], np.float32)
            results.append(Detections(boxes.clip(0, [width, height, width, height]), one.scores, one.labels))
        return results
