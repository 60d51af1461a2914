"""The table of docs/methods.md, and detectors that its methods distil."""

import copy
import re
from functools import partial

from dense_detectors import dense
from detr_detectors import small_detr
from helpers import ROOT, build, save_checkpoint
from mmdet.registry import MODELS
from two_stage_detectors import two_stage

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


def distil(detector, methods, folder, speed=None):
    student, teacher = MODELS_OF[detector](), MODELS_OF[detector]()
    path = folder / "teacher.pth"
    if not path.exists():
        save_checkpoint(build(teacher, 1), path)
    config = dict(
        type="DistillationDetector",
        student=student,
        teacher=dict(teacher, checkpoint=str(path), speed=speed or {}),
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


def distillation_methods():
    """Names of the registered methods of a distillation; those of a pretraining without labels are no such."""
    from lad import methods
    from lad.methods.base import DistillationMethod

    registered = {name: getattr(methods, name) for name in methods.__all__ if name in MODELS.module_dict}
    named = {name for name, kind in registered.items() if issubclass(kind, DistillationMethod)}
    return {name for name in named if name.endswith("Distillation") or name == "MulDE"}


def is_joint(method):
    return MODELS.get(method).is_joint


def configs_of(method):
    return [dict(type=method, **settings) for settings in CONFIGS.get(method, [{}])]


def everything_on(detector, folder):
    """A detector that all methods of one learner that work on it distil at once."""
    single = [method for method in TABLE if not is_joint(method)]
    works = [config for method in single if TABLE[method][detector] == "yes" for config in configs_of(method)]
    return distil(detector, works, folder)


def joint_on(detector):
    """Names of the joint methods that work on a detector."""
    return [method for method in TABLE if is_joint(method) and TABLE[method][detector] == "yes"]
