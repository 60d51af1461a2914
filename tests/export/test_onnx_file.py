"""Exported files on ONNX Runtime: what they detect, what they say of themselves, and when they are kept."""

import json
import shutil
import sys

from lad.errors import DataError, UnsupportedError
from lad.export import ExportSettings, OnnxDetector, export_onnx, onnx_file
from lad.export.compare import compare
from lad.export.evaluation import evaluate
from lad.export.int8 import quantize
from lad.export.modules import ExportableDetector
from lad.export.onnx_file import reference, verify

import numpy as np
import onnx
import pytest
import torch
from documentation.project import make_coco
from export_detectors import FAMILIES, RULE, SHAPE, photographs, trained
from mmengine.config import Config

SETTINGS = ExportSettings(rule=RULE, classes=("a", "b", "c"), num=50)


def prepared(images):
    return torch.from_numpy(np.stack([RULE.prepare(image)[0] for image in images]))


@pytest.fixture(scope="module")
def detector():
    return trained("retinanet")


@pytest.fixture(scope="module")
def file(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "detector.onnx"
    difference = export_onnx(detector, path, SETTINGS, photographs(3), "configs/mine.py")
    assert difference.count == 200  # three images at once and one alone
    assert difference.box < 1e-3
    assert difference.score < 1e-5
    return path


def test_detections_are_mmdetections_for_any_batch_size(detector, file):
    exported = OnnxDetector(file)
    module = ExportableDetector(detector, SHAPE, 50)
    for num in (1, 2, 5):
        batch = prepared(photographs(num, seed=num))
        for own, other in zip(reference(detector, module, batch), exported.raw(batch.numpy()), strict=True):
            assert compare(own.best(50), other).unmatched == 0


def test_file_says_what_it_takes_and_gives(file):
    model = onnx.load(file)
    onnx.checker.check_model(model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["classes"]) == ["a", "b", "c"]
    assert json.loads(properties["rule"])["shape"] == list(SHAPE)
    assert properties["config"] == "configs/mine.py"
    assert properties["max_detections"] == "50"
    (image,) = model.graph.input
    assert image.name == "images"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sizes = [dim.dim_value or dim.dim_param for dim in image.type.tensor_type.shape.dim]
    assert sizes[1:] == [3, *SHAPE]
    assert isinstance(sizes[0], str)
    assert [output.name for output in model.graph.output] == ["boxes", "scores", "labels", "num"]


def test_images_of_any_size_are_detected_on_in_their_own_pixels(file):
    exported = OnnxDetector(file)
    assert exported.classes == ("a", "b", "c")
    image = photographs(1, (48, 64))[0]
    (found,) = exported.detect([image])
    (raw,) = exported.raw(RULE.prepare(image)[0][None])
    np.testing.assert_allclose(found.boxes, raw.boxes / 2, atol=1e-5)
    # Narrower than the input: what is found in the padding is cut off.
    (found,) = exported.detect([photographs(1, (96, 60))[0]])
    assert found.boxes[:, 2].max() == 60


def test_file_that_detects_something_else_is_not_kept(detector, file, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_write", lambda module, example, path, *args: shutil.copy(file, path))
    path = tmp_path / "kept.onnx"
    other = trained("retinanet", seed=1)
    with pytest.raises(UnsupportedError, match=r"no counterpart within 0\.001"):
        export_onnx(other, path, SETTINGS, photographs(2))
    assert not list(tmp_path.iterdir())
    export_onnx(detector, path, SETTINGS, photographs(2))
    assert [found.name for found in tmp_path.iterdir()] == ["kept.onnx"]


def test_detector_that_cannot_be_traced_is_refused_in_one_line(detector, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Constraints violated (batch)!\nYou marked batch as dynamic.")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(
        UnsupportedError, match=r"RetinaNet cannot be traced .*violated \(batch\)! You marked"
    ) as error:
        export_onnx(detector, tmp_path / "detector.onnx", SETTINGS, photographs(1))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(DataError, match="cannot be loaded"):
        OnnxDetector(path)


class Perfect:
    """Detects what is annotated in the images of ``make_coco``."""

    def detect(self, images):
        from lad.export.compare import Detections

        from documentation.project import boxes_of

        results = []
        for image in images:
            boxes = np.array(boxes_of((image.shape[1], image.shape[0])), np.float32)
            boxes[:, 2:] += boxes[:, :2]
            results.append(Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1])))
        return results


def test_evaluation_is_that_of_the_config(tmp_path):
    make_coco(tmp_path / "data", ("cat", "dog"), (64, 48), dict(val="val"))
    annotations = str(tmp_path / "data/annotations/val.json")
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(32, 32), keep_ratio=True),
        dict(type="PackDetInputs"),
    ]
    dataset = dict(
        type="CocoDataset",
        metainfo=dict(classes=("cat", "dog")),
        ann_file=annotations,
        data_prefix=dict(img=str(tmp_path / "data/val") + "/"),
        test_mode=True,
        pipeline=pipeline,
    )
    evaluator = dict(type="CocoMetric", ann_file=annotations)
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=evaluator))
    assert evaluate(cfg, Perfect(), batch_size=1)["coco/bbox_mAP"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "retinanet"])
def test_detectors_are_exported(family, tmp_path):
    detector = trained(family)
    settings = ExportSettings(rule=RULE, classes=("a", "b", "c"), num=50, dtype=torch.float32)
    path = tmp_path / "detector.onnx"
    # Random detectors have boxes that are not sure of their size: exp() of what rounding moves.
    difference = export_onnx(
        detector, path, ExportSettings(**{**vars(settings), "tolerance": 1e-2}), photographs(3)
    )
    assert difference.count > 60
    batch = prepared(photographs(5, seed=1)).float()
    module = ExportableDetector(detector, SHAPE, 50)
    assert verify(detector, module, path, batch, ExportSettings(**{**vars(settings), "tolerance": 1e-2}))


@pytest.mark.slow
def test_quantised_file_detects_nearly_the_same(file, tmp_path):
    small = tmp_path / "detector.int8.onnx"
    assert quantize(file, small, photographs(8, seed=2)) > 20
    exported, quantised = OnnxDetector(file), OnnxDetector(small)
    assert quantised.classes == exported.classes
    types = {node.op_type for node in onnx.load(small).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "NonMaxSuppression"} <= types
    batch = prepared(photographs(4)).numpy()
    for own, other in zip(exported.raw(batch), quantised.raw(batch), strict=True):
        assert abs(own.scores[0] - other.scores[0]) < 0.1
    with pytest.raises(DataError, match="no calibration images"):
        quantize(file, small, [])


@pytest.mark.slow
def test_openvino_detects_the_same(file):
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exported = OnnxDetector(file)
    for num in (1, 3):
        batch = prepared(photographs(num)).numpy()
        boxes, scores, labels, counts = (compiled({"images": batch})[name] for name in onnx_file.OUTPUTS)
        for image, own in enumerate(exported.raw(batch)):
            n = counts[image]
            other = type(own)(boxes[image, :n], scores[image, :n], labels[image, :n])
            assert compare(own, other, 2e-3).unmatched == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.py", "none.pth", "--out", "a.onnx"], "there is no checkpoint 'none.pth'"),
        (["c.py", "none.pth", "--out", "a.pb"], "must end in .onnx"),
        (["c.py", "none.pth", "--out", "there.onnx"], "there.onnx exists"),
        (["c.py", "none.pth", "--out", "b.onnx", "--int8"], "b.int8.onnx exists"),
        (["c.py", "none.pth", "--out", "a.onnx", "--num-images", "0"], "must be at least 1"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    from lad.commands.export import main

    monkeypatch.chdir(tmp_path)
    for name in ("there.onnx", "b.int8.onnx"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "argv", ["lad export", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
