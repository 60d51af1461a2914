"""The table of docs/methods.md: what it says works is trained, and what it says does not is refused."""

import copy
import re
from functools import partial

from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from helpers import ROOT, at, build, make_batch, save_checkpoint
from mmdet.registry import MODELS
from seam_detectors import set_epoch
from two_stage_detectors import two_stage, with_masks

ROW = re.compile(r"^\| .*\| `(\w+)` \|(.+)\|$")
#: Settings that a method needs to have something to do; several of one class are several rows of a config.
CONFIGS = {
    "FeatureDistillation": [
        dict(name=loss, loss=dict(type=loss))
        for loss in ("ATLoss", "CWDLoss", "PKDLoss", "MGDLoss", "FGDLoss")
    ],
}
MODELS_OF = {
    "PAA": partial(dense, "paa"),
    "TOOD": partial(dense, "tood"),
    "RTMDet": partial(dense, "rtmdet"),
    "YOLOX": partial(dense, "yolox"),
    "DDOD": partial(dense, "ddod"),
    "RetinaNet": partial(dense, "retinanet"),
    "FCOS": partial(dense, "fcos"),
    "ATSS": partial(dense, "atss"),
    "GFL": partial(dense, "gfl"),
    "Faster": partial(two_stage, "faster"),
    "Cascade": partial(two_stage, "cascade"),
    "Mask": partial(two_stage, "mask"),
    "Deformable-DETR": partial(small_detr, "one_stage"),
    "DINO": partial(small_detr, "dino"),
}
FAST = ("PAA", "RTMDet", "GFL", "Faster")
DETECTORS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS_OF]


def table():
    """{method: {detector: what its cell says}}."""
    lines = (ROOT / "docs/methods.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| method |"))
    columns = [cell.replace(" R-CNN", "").strip().split(", ") for cell in head.strip("|").split("|")[2:]]
    rows = {}
    for line in lines:
        if found := ROW.match(line):
            cells = [cell.strip() for cell in found[2].split("|")]
            assert len(cells) == len(columns), line
            rows[found[1]] = {
                name: cell for names, cell in zip(columns, cells, strict=True) for name in names
            }
    return rows


TABLE = table()
#: Names of the networks that a joint method trains, where two are not enough, and its settings.
NETWORKS_OF = dict(FeatureFusionSelfDistillation=("abc", dict(leader="c")))


def exits_of(detector, methods):
    """Exits where a method trains them; the backbones of RTMDet and YOLOX begin with a map of stride 8."""
    if not any(config["type"] == "SelfDistillation" for config in methods):
        return {}
    levels = [0] if detector in ("RTMDet", "YOLOX") else [1]
    return dict(exits=dict(student=dict(early=dict(levels=levels))))


def distil(detector, methods, folder):
    student, teacher = MODELS_OF[detector](), MODELS_OF[detector]()
    path = folder / "teacher.pth"
    if not path.exists():
        save_checkpoint(build(teacher, 1), path)
    config = dict(
        type="DistillationDetector",
        student=student,
        teacher=dict(teacher, checkpoint=str(path)),
        methods=copy.deepcopy(methods),
        **exits_of(detector, methods),
    )
    model = MODELS.build(config)
    model.init_weights()  # before, some of a DETR's weights have no values
    return model


def learn_together(detector, method):
    """Networks of one family, two or as many as it needs, which a joint method trains."""
    names, settings = NETWORKS_OF.get(method, ("ab", {}))
    networks = {name: MODELS_OF[detector]() for name in names}
    methods = [dict(type=method, **settings)]
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, methods=methods))
    model.init_weights()
    return model


def is_joint(method):
    return MODELS.get(method).is_joint


def configs_of(method):
    return [dict(type=method, **settings) for settings in CONFIGS.get(method, [{}])]


def test_every_method_and_every_detector_of_the_tests_has_a_place_in_the_table():
    from lad import methods

    named = {name for name in methods.__all__ if name.endswith("Distillation") and name in MODELS.module_dict}
    assert named | {"MulDE"} == set(TABLE)
    assert all(set(cells) == set(MODELS_OF) for cells in TABLE.values())
    assert {cell if cell == "yes" else "no" for cells in TABLE.values() for cell in cells.values()} == {
        "yes",
        "no",
    }


@pytest.mark.parametrize("detector", DETECTORS)
def test_methods_that_work_train_together_and_the_others_are_refused(detector, tmp_path):
    torch.manual_seed(0)
    set_epoch(100)  # TOOD's own assigner
    single = [method for method in TABLE if not is_joint(method)]
    works = [config for method in single if TABLE[method][detector] == "yes" for config in configs_of(method)]
    model = distil(detector, works, tmp_path)
    inputs, samples = make_batch((2, 3), (96, 128))
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    for place in (0, 10**9):
        at(model, place)
        losses, _ = model.parse_losses(model.train().loss(inputs, copy.deepcopy(samples)))
        losses.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    adapters = [gradient for name, gradient in gradients.items() if name.startswith("distillation.")]
    assert adapters
    assert any(bool(gradient.any()) for gradient in adapters)

    for method in single:
        if TABLE[method][detector] != "yes":
            for config in configs_of(method):
                with pytest.raises((ConfigError, UnsupportedError)) as refused:
                    distil(detector, [config], tmp_path)
                assert len(str(refused.value)) > 40


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("method", [method for method in TABLE if is_joint(method)])
def test_joint_method_trains_its_networks_or_is_refused(detector, method):
    torch.manual_seed(0)
    set_epoch(100)
    if TABLE[method][detector] != "yes":
        with pytest.raises(UnsupportedError) as refused:
            learn_together(detector, method)
        assert len(str(refused.value)) > 40
        return
    model = learn_together(detector, method).train()
    inputs, samples = make_batch((2, 3), (96, 128))
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    losses, _ = model.parse_losses(model.loss(inputs, samples))
    losses.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
