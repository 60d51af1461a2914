"""Plain detectors as files that other runtimes load: ONNX with decoding and suppression, float or int8."""

from lad.errors import MissingPackageError

import torch

if not hasattr(torch.library, "register_vmap"):
    raise MissingPackageError(f"the export needs PyTorch 2.6 or newer; this is {torch.__version__}.")

from lad.export.detector import OnnxDetector
from lad.export.modules import ExportableDetector
from lad.export.onnx_file import ExportSettings, export_onnx
from lad.export.refusal import check_exportable
from lad.export.rule import InputRule, input_rule

__all__ = [
    "ExportSettings",
    "ExportableDetector",
    "InputRule",
    "OnnxDetector",
    "check_exportable",
    "export_onnx",
    "input_rule",
]
