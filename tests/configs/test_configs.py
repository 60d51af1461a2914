"""Every config in configs/ builds offline and trains one step."""

import copy
import re
from pathlib import Path

from lad.base.config import detector_config, load_config
from lad.detectors.configs import (
    PRETRAINING,
    describes_detectors,
    is_distillation,
    trained_specs,
    with_networks,
)
from lad.detectors.distillation import DistillationDetector
from lad.detectors.masks import learns_from_masks
from lad.engine.plain_config import student_only
from lad.networks.building import without_pretraining
from lad.networks.snapshot import is_snapshot

import mmdet
import pytest
import torch
import yaml
from helpers import ROOT, at, make_batch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from two_stage_detectors import with_masks
from view_runs import random_views

CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts
)


#: Ends of the names of configs that take long, and that a metafile lists.
BIG = ("_coco.py", "_lvis-v1.py")


def offline(spec):
    """A detector's config without a download: no pretrained backbone."""
    spec = dict(config=spec) if isinstance(spec, str) else dict(spec)
    return without_pretraining(
        detector_config(
            {k: v for k, v in spec.items() if k not in ("checkpoint", "speed", "cache")}, "teacher"
        )
    )


#: Teachers that are no detectors of MMDetection.
FOREIGN = ("FeatureTeacher", "DetectionFile")


def with_weights(spec, file):
    """A teacher's config without a download, and a checkpoint for it."""
    if spec.get("type") == "DetectionFile":
        file.write_text("[]")
        return dict(spec, file=str(file), ann_file=None, classes=["a"])
    teacher = offline(spec)
    network = MODELS.build(copy.deepcopy(teacher))  # MMDetection writes into a DETR's config
    network.init_weights()  # and leaves some of its weights without values before
    torch.save(dict(state_dict=network.state_dict()), file)
    return dict(teacher, checkpoint=str(file))


def networks_of(model):
    """The descriptions of all networks of a model, of teachers too."""
    teachers = model.get("teachers") or dict(teacher=model.get("teacher"))
    trained = trained_specs(model).values() if describes_detectors(model) else [model]
    return [spec for spec in (*trained, *teachers.values()) if isinstance(spec, dict)]


def chooses_many_positions(spec):
    """Whether a network is a DINO that chooses more positions of its maps, as queries, than a small image has."""
    return spec.get("as_two_stage", False) and spec.get("num_queries", 0) > 300


def by_effort():
    """Every config; of the big ones of a folder the first in the daily suite and the others where time is no matter."""
    seen = set()
    for path in CONFIGS:
        folder = Path(path).parent
        later = path.endswith(BIG) and folder in seen
        yield pytest.param(path, marks=[pytest.mark.slow] if later else [])
        if path.endswith(BIG):
            seen.add(folder)


@pytest.mark.parametrize("path", by_effort())
def test_config_builds_and_trains_one_step(path, tmp_path):
    cfg = load_config(str(ROOT / path))
    model = cfg.model
    if "dinov2" in path:
        pytest.importorskip("timm", reason="extra foundation")
    if describes_detectors(model):
        model = with_networks(
            model,
            trained=lambda spec, role: offline(spec),
            frozen=lambda spec, role: with_weights(spec, tmp_path / f"{role}.pth"),
        )
    elif model.type == "LAD":
        model.teacher_ckpt = None  # MMDetection's own loads its teacher when it is built
    detector = MODELS.build(without_pretraining(model))
    detector.train()  # of MMDetection's LAD it returns None
    detector.init_weights()
    # An RPN's one class aside.
    num_classes = max(getattr(module, "num_classes", 0) for module in detector.modules())
    side = 256 if any(map(chooses_many_positions, networks_of(model))) else 128
    # What the runner tells TOOD: late enough for its own assigner.
    MessageHub.get_current_instance().update_info("epoch", 100)
    batch = (
        (random_views(names=detector.views), {})
        if cfg.model.type == PRETRAINING
        else make_batch((2, 1), size=(side, side), num_classes=num_classes)
    )
    if isinstance(detector, DistillationDetector) and learns_from_masks(detector):
        with_masks(batch[1])
    for teacher in getattr(detector, "teachers", {}).values():
        if hasattr(teacher, "attach"):
            teacher.attach(("a",))
            batch = (batch[0], [teacher.of_batch.sort(sample) for sample in batch[1]])
    # Every phase, where there are several; together they train all.
    for place in (0, 10**9) if getattr(detector, "pretraining", None) else (None,):
        if place is not None:
            at(detector, place)
        total, _ = detector.parse_losses(detector.loss(*copy.deepcopy(batch)))
        total.backward()
        assert torch.isfinite(total)
    gradients = [p.grad for p in detector.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("folder", sorted({str(Path(path).parent) for path in CONFIGS}))
def test_metafile_names_the_folders_big_configs_and_says_whose_figures_it_holds(folder):
    big = {path for path in CONFIGS if path.startswith(f"{folder}/") and path.endswith(BIG)}
    models = yaml.safe_load((ROOT / folder / "metafile.yml").read_text())["Models"]
    assert {model["Config"] for model in models} == big
    assert len(models) == len(big)
    for model in models:
        assert model["Name"] == Path(model["Config"]).stem
        # What nobody published has no figure: none was measured here either.
        for result in model.get("Results", []):
            assert result["Source"] == "published by the paper, not measured here"
            assert 20 < result["Metrics"]["box AP"] < 60


@pytest.mark.parametrize("path", [path for path in CONFIGS if "/lad/lad_" in path])
def test_distillation_config_says_what_it_is_in_ten_lines_and_its_student_is_plain(path):
    lines = (ROOT / path).read_text().splitlines()
    start = lines.index("model = dict(")
    assert len(lines) - start <= 16  # ten settings, wrapped at 110 columns
    plain = student_only(Config.fromfile(str(ROOT / path)))
    assert plain.model.type == "PAA"


def test_teachers_of_the_big_configs_are_mmdetections_official_weights_or_trained_by_a_config_of_the_project():
    for path in CONFIGS:
        if not path.endswith(BIG):
            continue
        cfg = load_config(str(ROOT / path))
        if cfg.model.type != "DistillationDetector":
            continue
        teachers = cfg.model.get("teachers") or dict(teacher=cfg.model.get("teacher"))
        if teachers == dict(teacher=None):
            # They teach each other, or a network teaches its exits.
            assert len(cfg.model.get("networks") or ()) > 1 or cfg.model.exits
            continue
        for teacher in teachers.values():
            check_official_or_own(teacher)


def check_official_or_own(teacher):
    if is_snapshot(teacher):
        return  # of the student itself
    if teacher.get("type") in FOREIGN:
        assert teacher.checkpoint.startswith("checkpoints/")  # what the reader has downloaded
    elif teacher.config.startswith("mmdet::"):
        name = teacher.config.removeprefix("mmdet::")
        metafile = Path(mmdet.__file__).parent / ".mim/configs" / Path(name).parent / "metafile.yml"
        models = yaml.safe_load(metafile.read_text())["Models"]
        weights = {model["Config"]: model.get("Weights") for model in models}
        assert teacher.checkpoint == weights[f"configs/{name}"]
    else:
        # Nobody publishes it: the last checkpoint of a config beside this one.
        own = Path(teacher.config)
        assert str(own.resolve().relative_to(ROOT)) in CONFIGS
        last = load_config(teacher.config).train_cfg.max_epochs
        assert teacher.checkpoint == f"work_dirs/{own.stem}/epoch_{last}.pth"


# The detectors' names in those of the configs, and their types.
DETECTORS = {
    "atss": "ATSS",
    "ddod": "DDOD",
    "deformable-detr": "DeformableDETR",
    "dinov2": "FeatureTeacher",
    "dino": "DINO",
    "faster-rcnn": "FasterRCNN",
    "fcos": "FCOS",
    "gfl": "GFL",
    "mask-rcnn": "MaskRCNN",
    "paa": "PAA",
    "retinanet": "RetinaNet",
    "rtmdet": "RTMDet",
    "simclr": "BackboneAndNeck",
    "tood": "TOOD",
    "yolox": "YOLOX",
}
BACKBONE = r"(?:r18-c16|r18-c32|r18|r50|r101|x101|swin-[sb]|vit-[sb]|mobilenetv2|nano|mini|tiny|small|[sml])"
#: What a specialist was trained on.
SPECIALISTS = "low|high|rbc|wbc|platelets|shuffled"
#: What a detector for rare classes has beside instance sampling.
LONG_TAIL = "jitter|balanced|cosine"
#: A student of online distillation that has seen few photographs.
ONLINE = "few"
#: What a federation's server begins with, and what its clients train on.
FEDERATED = "server|clients"
DETECTOR = rf"(?:{'|'.join(DETECTORS)})(?:-(?:cop|iop|{SPECIALISTS}|{LONG_TAIL}|{ONLINE}|{FEDERATED}))?"
NETWORK = rf"{DETECTOR}-{BACKBONE}"
END = r"(?:_fpn)?(?:_(?:\d+x|ms-\d+x|\d+xb\d+-\d+e))?_(?:coco|lvis-v1|bccd|digits|digits-tail)"
DISTILLATION = re.compile(rf"[a-z]+(?:v2)?(?:-[a-z]+)?_({NETWORK})_({NETWORK}(?:\+{NETWORK})*){END}")
WITHOUT_LABELS = re.compile(rf"[a-z]+(?:-[a-z]+)?_({NETWORK}(?:_{NETWORK})*){END}")
PLAIN = re.compile(rf"({DETECTOR})(?:-no-iou|-uniform|-few|-pretrained)?_{BACKBONE}(?:-p4-w7)?{END}")


def type_of(name):
    """The detector's type of a config's name or of a network in it."""
    key = max((key for key in DETECTORS if re.match(rf"{key}(?:-|$)", name)), key=len)
    return DETECTORS[key]


@pytest.mark.parametrize("path", CONFIGS)
def test_name_follows_the_order_and_agrees_with_the_networks(path):
    name = Path(path).stem
    cfg = load_config(str(ROOT / path))
    model = cfg.model
    if "online" in cfg:
        match = DISTILLATION.fullmatch(name)
        assert match, f"{name} is not online_student_teacher_neck_schedule_dataset"
        teacher = dict(config=cfg.online.teacher.config)
        assert [model.type, detector_config(teacher, "teacher").type] == list(map(type_of, match.groups()))
        check_official_or_own(cfg.online.teacher)
        return
    if model.type == PRETRAINING:
        match = WITHOUT_LABELS.fullmatch(name)
        assert match, f"{name} is not method_network_network_neck_dataset"
        types = [detector_config(spec, role).type for role, spec in trained_specs(model).items()]
        assert types == [type_of(network) for network in match[1].split("_")]
        return
    if not is_distillation(model) and model.type != "LAD":  # MMDetection's own has a teacher too
        match = PLAIN.fullmatch(name)
        assert match, f"{name} is not detector_backbone_neck_schedule_dataset"
        assert type_of(match[1]) == model.type
        return
    match = DISTILLATION.fullmatch(name)
    assert match, f"{name} is not method_student_teacher_neck_schedule_dataset"
    if model.type == "LAD":
        return
    types = []
    with_networks(
        model,
        trained=lambda spec, role: types.append(offline(spec).type) or spec,
        frozen=lambda spec, role: types.append(offline(spec).type) or spec,
    )
    if types[-1] == "DetectionFile":
        types[-1] = type_of(match[2])  # of what made the file
    snapshots = any("snapshot_of" in spec for spec in (model.get("teachers") or {}).values())
    if len(types) == 1 and (model.get("exits") or snapshots):
        assert match[1] == match[2]  # it teaches its exits, or what it becomes
        types *= 2
    assert types == [type_of(network) for network in [match[1], *match[2].split("+")]]
