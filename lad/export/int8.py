"""Static quantisation of an exported file to int8, on calibration images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lad.errors import DataError
from lad.export.detector import INPUT, OnnxDetector, needed

import numpy as np

#: What is quantised: the network. Decoding and suppression stay in float32.
OPERATORS = ("Conv", "Gemm", "MatMul")


def quantize(source: Path, target: Path, images: Sequence[np.ndarray], exclude: Sequence[str] = ()) -> int:
    """Write an exported detector with int8 weights, a scale for each channel, and uint8 activations.

    The activations' ranges are the least and greatest values on the calibration images. Nodes are
    ``QuantizeLinear`` and ``DequantizeLinear`` around the operators (QDQ), which TensorRT and OpenVINO read too.

    Args:
        source: A file of :func:`lad.export.export_onnx`.
        target: The file to write.
        images: Calibration images, (h, w, 3) uint8 BGR of any size.
        exclude: Names of nodes that stay in float32.

    Returns:
        The number of nodes that were quantised.

    Raises:
        DataError: there are no images.
        MissingPackageError: ONNX Runtime is not installed.
    """
    needed("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not images:
        raise DataError("there are no calibration images.")
    detector = OnnxDetector(source)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.batches, None)
            if image is None:
                return None
            prepared, _ = detector.rule.prepare(image)
            return {INPUT: prepared[None].astype(detector.dtype)}

    partial = target.with_name(f".{target.name}.partial")
    try:
        with TemporaryDirectory() as folder:
            ready = Path(folder) / "ready.onnx"
            # Shapes are in the file; ONNX Runtime's own optimiser fuses what would otherwise be quantised twice.
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            graph = onnx.load(ready).graph
            weights = {tensor.name for tensor in graph.initializer}
            # With weights: products of two activations are the decoding's.
            names = [
                node.name
                for node in graph.node
                if node.op_type in OPERATORS and node.name not in exclude and weights & set(node.input)
            ]
            quantize_static(
                str(ready),
                str(partial),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_quantize=names,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        model = onnx.load(partial)
        del model.metadata_props[:]
        model.metadata_props.extend(onnx.load(source, load_external_data=False).metadata_props)
        onnx.save(model, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return len(names)
