"""Data sets that are read without labels: what is checked, and what is refused."""

import json
from types import SimpleNamespace

from lad.cli.built_checks import build_datasets, built_problems
from lad.cli.checks import _check_objects, check_annotations
from lad.cli.data_checks import inspect_data
from lad.cli.label_checks import check_labels
from lad.cli.loaders import loaders_of
from lad.commands import check
from lad.errors import ConfigError, DataError

import pytest
from helpers import build, distillation_of, small_paa
from mmengine.config import Config
from mmengine.registry import init_default_scope

CLASSES = ("cat", "dog")
IMAGES = [dict(id=k, file_name=f"{k}.jpg", width=64, height=48) for k in range(1, 4)]
BOXES = [
    dict(id=k, image_id=k, category_id=1 + k % 2, bbox=[4, 6, 20, 10], area=200, iscrowd=0)
    for k in range(1, 4)
]
CATEGORIES = [dict(id=1, name="cat"), dict(id=2, name="dog")]


@pytest.fixture
def cfg(tmp_path):
    """Trained on a file of images alone, evaluated on labels."""
    init_default_scope("mmdet")
    (tmp_path / "train.json").write_text(json.dumps(dict(images=IMAGES)))
    content = dict(images=IMAGES, annotations=BOXES, categories=CATEGORIES)
    (tmp_path / "val.json").write_text(json.dumps(content))
    common = dict(type="CocoDataset", data_root=str(tmp_path), data_prefix=dict(img=""), pipeline=[])
    common["metainfo"] = dict(classes=CLASSES)
    return Config(
        dict(
            train_dataloader=dict(dataset=dict(common, ann_file="train.json", labelled=False)),
            val_dataloader=dict(dataset=dict(common, ann_file="val.json", test_mode=True)),
            val_evaluator=dict(type="CocoMetric", ann_file=str(tmp_path / "val.json")),
        )
    )


def problems_of(cfg):
    loaders = loaders_of(cfg)
    report = inspect_data(loaders)
    built = build_datasets(cfg, [loader.name for loader in loaders])
    return [*report.problems, *built_problems(built, loaders, report.files, {})]


def test_file_of_images_alone_is_sound(cfg):
    assert problems_of(cfg) == []
    report = check_annotations(cfg)
    assert report.coverage == []
    dataset = build_datasets(cfg, ["train_dataloader"])["train_dataloader"]
    assert _check_objects(dataset, report) == -1


def test_with_labels_the_same_file_is_refused(cfg):
    cfg.train_dataloader.dataset.labelled = True
    with pytest.raises(DataError, match="no list of annotations"):
        check_annotations(cfg)


def test_class_names_are_not_asked_of_a_data_set_without_labels(cfg):
    """MMDetection's default would be COCO's 80 names."""
    del cfg.train_dataloader.dataset["metainfo"]
    assert problems_of(cfg) == []
    cfg.train_dataloader.dataset.labelled = True
    assert "other_classes" in {problem.kind for problem in inspect_data(loaders_of(cfg)).problems}


def test_other_class_names_are_still_refused(cfg):
    """A teacher's and a head's classes are those of the data set."""
    cfg.train_dataloader.dataset.metainfo.classes = ("dog", "cat")
    assert [problem.kind for problem in inspect_data(loaders_of(cfg)).fatal] == ["other_classes"]


def test_images_are_checked_as_always(cfg, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(dict(images=[IMAGES[0], dict(IMAGES[1], id=1)])))
    assert [problem.kind for problem in inspect_data(loaders_of(cfg)).fatal] == ["duplicate_image_id"]


def test_file_without_images_is_refused(cfg, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(dict(annotations=BOXES, categories=CATEGORIES)))
    with pytest.raises(DataError, match=r"no list of images.*train|train.*no list of images"):
        check_annotations(cfg)


def test_evaluation_on_images_without_labels_is_refused_with_the_reason(cfg):
    cfg.val_dataloader.dataset.labelled = False
    with pytest.raises(DataError, match="labelled=False, and val_evaluator compares detections with labels"):
        check_annotations(cfg)
    cfg.val_evaluator.format_only = True
    cfg.val_evaluator.pop("ann_file")
    assert [problem.kind for problem in inspect_data(loaders_of(cfg)).fatal] == []


def test_own_loss_on_images_without_labels_is_refused(cfg, tmp_path):
    with pytest.raises(ConfigError, match="student_loss=False"):
        check_labels(cfg, build(small_paa()))
    soft = dict(type="SoftLabelDistillation")
    with pytest.raises(ConfigError, match="student_loss=False"):
        check_labels(cfg, distillation_of(tmp_path, small_paa(), small_paa(), soft))
    check_labels(cfg, distillation_of(tmp_path, small_paa(), small_paa(), soft, student_loss=False))
    cfg.train_dataloader.dataset.labelled = True
    check_labels(cfg, SimpleNamespace())


def test_check_decodes_the_images_of_a_file_without_labels(cfg, tmp_path):
    (data,) = [one for one in inspect_data(loaders_of(cfg)).data if one.annotations.name == "train.json"]
    found = list(check.problems_of_images(data, 1))
    assert [problem.kind for problem in found] == ["missing_file"] * 3
