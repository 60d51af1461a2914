"""Exported files on ONNX Runtime: what they detect, what they say of themselves, and when they are kept."""

import copy
import json
import shutil
import sys
from dataclasses import replace

from lad.errors import ConfigError, DataError, UnsupportedError
from lad.export import ExportSettings, InputRule, OnnxDetector, export_onnx, onnx_file
from lad.export.compare import Detections, Difference, compare
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
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
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
    assert (
        difference.count == 150
    )  # of three images; the first of them, which is detected on alone too, counts once
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


def test_file_that_prepares_images_otherwise_is_noticed(detector, file, tmp_path):
    model = onnx.load(file)
    rule = InputRule(SHAPE, SHAPE, False, RULE.pad_value)
    entry = next(entry for entry in model.metadata_props if entry.key == "rule")
    entry.value = rule.to_json()
    onnx.save(model, tmp_path / "other.onnx")
    module = ExportableDetector(detector, SHAPE, 50)
    images = photographs(2, (96, 96))
    assert verify(detector, module, file, images, SETTINGS).count == 100
    with pytest.raises(UnsupportedError, match="does not detect what PyTorch does"):
        verify(detector, module, tmp_path / "other.onnx", images, SETTINGS)


def test_check_has_the_configs_own_pipeline_prepare_the_images(detector, file, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_write", lambda module, example, path, *args: shutil.copy(file, path))
    steps = [dict(type="Resize", scale=(SHAPE[1], SHAPE[0]), keep_ratio=True)]
    images = [*photographs(1), *photographs(1, (80, 60))]
    path = tmp_path / "kept.onnx"
    assert export_onnx(detector, path, replace(SETTINGS, pipeline=steps), images).count == 100
    path.unlink()
    steps[0]["interpolation"] = "nearest"
    with pytest.raises(UnsupportedError, match="does not prepare images as the test pipeline does"):
        export_onnx(detector, path, replace(SETTINGS, pipeline=steps), images)
    assert not list(tmp_path.iterdir())


def test_file_detects_what_mmdetections_inference_detects(detector, file, monkeypatch):
    """In an image that fills its input, from the pixels of the raw image on."""
    (image,) = photographs(1, (192, 256))
    resize = dict(type="Resize", scale=(SHAPE[1], SHAPE[0]), keep_ratio=True)
    meta = ("img_id", "ori_shape", "img_shape", "scale_factor")
    pipeline = Compose(
        [dict(type="mmdet.LoadImageFromNDArray"), resize, dict(type="mmdet.PackDetInputs", meta_keys=meta)]
    )
    (found,) = OnnxDetector(file).detect([image])
    # As init_detector leaves it.
    monkeypatch.setattr(detector, "cfg", Config(), raising=False)
    expected = inference_detector(detector, image, pipeline).pred_instances
    own = Detections(expected.bboxes.numpy(), expected.scores.numpy(), expected.labels.numpy())
    assert len(found) == 50
    assert compare(own.best(50), found, 2e-3).unmatched == 0


def test_check_of_images_without_detections_says_that_it_compared_nothing(detector, monkeypatch):
    from lad.commands.export import agreement, warnings_of

    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
    monkeypatch.setattr(onnx_file, "reference", lambda detector, module, batch: [none] * len(batch))
    monkeypatch.setattr(onnx_file, "OnnxDetector", lambda path: Blind(none))
    images = photographs(3)
    difference = verify(detector, ExportableDetector(detector, SHAPE, 50), None, images, SETTINGS)
    assert difference == Difference(0, 0, 0.0, 0.0)
    assert "differ" not in agreement(difference, 3)
    (warning,) = warnings_of(difference, RULE, images)
    assert "the check is empty" in warning
    assert "--images" in warning
    assert warnings_of(Difference(9, 0, 0.0, 0.0), RULE, images) == []
    (warning,) = warnings_of(Difference(9, 0, 0.0, 0.0), RULE, [*images, *photographs(1, (60, 40))])
    assert warning.startswith("1 of 4 images lie across the input of 128 x 96")
    assert "--shape 128 96" in warning


class Blind:
    """Detects nothing."""

    def __init__(self, none):
        self.none = none

    def detect(self, images):
        return [self.none for _ in images]


@pytest.mark.parametrize(
    "wrong", [dict(num=0), dict(num=-3), *(dict(tolerance=float(t)) for t in ("nan", "inf", "-1"))]
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"must be (at least 1|a finite number of at least 0), got"):
        replace(SETTINGS, **wrong)


def test_detector_without_a_limit_of_detections_needs_one(detector):
    unlimited = copy.deepcopy(detector)
    unlimited.bbox_head.test_cfg.max_per_img = -1
    with pytest.raises(ConfigError, match="give --max-per-image"):
        onnx_file.most_detections(unlimited)


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
    assert difference.count > 45  # 15 an image
    module = ExportableDetector(detector, SHAPE, 50)
    assert verify(
        detector,
        module,
        path,
        photographs(5, seed=1),
        ExportSettings(**{**vars(settings), "tolerance": 1e-2}),
    )


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
        (["c.py", "none.pth", "--out", "a.onnx", "--max-per-image", "0"], "must be at least 1, got 0"),
        (
            ["c.py", "none.pth", "--out", "a.onnx", "--tolerance", "nan"],
            "finite number of at least 0, got nan",
        ),
        (["c.py", "none.pth", "--out", "a.onnx", "--tolerance", "-1"], "finite number of at least 0, got -1"),
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
