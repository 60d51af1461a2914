"""What the classes of a config take is read from their constructors; clear contradictions alone are refused."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Optional, Union

from lad.base.config import load_config
from lad.cli.config_settings import check_settings, contradictions
from lad.cli.setting_kinds import expected_setting
from lad.errors import ConfigError

import pytest
from helpers import ROOT
from mmengine.config import Config, ConfigDict
from mmengine.utils import get_installed_path
from torch import Tensor

STUDENT = ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"
LAD = ROOT / "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
MMDET = Path(get_installed_path("mmdet")) / ".mim" / "configs"


class Base:
    def __init__(self, rate: float = 1.0, sizes: Sequence[int] = (1, 2), reduction: str = "mean"):
        pass


class Component(Base):
    def __init__(
        self,
        *args,
        count: int = 1,
        flag: bool = False,
        mode: Literal["a", "b"] = "a",
        names: Sequence[str] = (),
        either: Union[str, float] = 1.0,  # noqa: UP007, as MMDetection writes it
        optional: Optional[int] = None,  # noqa: UP045, as MMDetection writes it
        new: int | None = None,
        pair: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        lies: dict = 3,
        settings: dict | None = None,
        anything=None,
        plain=0.5,
        scales=(1.0, 2.0),
        **kwargs,
    ):
        super().__init__(*args, **kwargs)


REFUSED = [
    ("rate", "1e-3", "a number"),  # of the base
    ("rate", dict(a=1), "a number"),
    ("sizes", "abc", "a list of numbers"),
    ("sizes", [1, "b"], "a list of numbers"),
    ("sizes", [[1], [2, "c"]], "a list of numbers"),
    ("reduction", 3, "a text"),
    ("count", "2", "a number"),
    ("count", ["a", 3], "a number"),
    ("flag", "no", "True or False"),
    ("flag", [], "True or False"),
    ("mode", 3.5, "a text"),
    ("optional", "none", "a number"),
    ("new", "a", "a number"),
    ("pair", "a", "a list of numbers"),
    ("pair", (0.9, "b"), "a list of numbers"),
    ("settings", "GN", "a dict"),
    ("settings", [3], "a dict"),
    ("plain", "a", "a number"),
    ("scales", "a", "a list of numbers"),
    ("scales", ["1.0", 2.0], "a list of numbers"),
]
TAKEN = [
    ("rate", 3),
    ("rate", True),
    ("rate", None),
    ("count", 1.5),
    ("count", (1, 2)),
    ("flag", 0),
    ("mode", "c"),  # which texts there are is for the class to say
    ("names", "cat"),
    ("names", ["cat", "dog"]),
    ("either", "auto"),
    ("lies", 4),
    ("lies", dict(a=1)),
    ("settings", [dict(a=1)]),
    ("sizes", 7),
    ("sizes", [[1], [2, 3]]),
    ("anything", object()),
    ("anything", "a"),
    ("plain", [1, 2]),
    ("scales", 1),
    ("unknown", "a"),
]


@pytest.mark.parametrize(("name", "value", "says"), REFUSED)
def test_value_that_contradicts_annotation_or_default_is_named(name, value, says):
    with pytest.raises(ConfigError, match=rf"^model\.0\.{name} must be {says} \(Component\), got "):
        check_settings(dict(model=[dict(type=Component, **{name: value})]))


@pytest.mark.parametrize(("name", "value"), TAKEN)
def test_value_that_may_work_passes(name, value):
    check_settings(dict(model=[dict(type=Component, **{name: value})]))


def test_bases_are_asked_only_behind_keyword_arguments():
    class Closed(Base):
        def __init__(self, other: int = 1):
            pass

    assert expected_setting(Closed, "rate") is None
    assert expected_setting(Component, "rate").refuses("a") == "must be a number"


HEAD = "model.bbox_head"
# Wrong values of settings that are used late, in a config that is right without them.
LATE = [
    ({f"{HEAD}.loss_cls.loss_weight": "a"}, rf"{HEAD}\.loss_cls\.loss_weight must be a number"),
    ({f"{HEAD}.loss_bbox.loss_weight": "1.3"}, "loss_bbox.loss_weight must be a number"),
    ({f"{HEAD}.score_voting": "yes"}, "score_voting must be True or False"),
    ({f"{HEAD}.bbox_coder.target_stds": "abc"}, "target_stds must be a list"),
    ({f"{HEAD}.anchor_generator.center_offset": "half"}, "center_offset must be a number"),
    ({"model.train_cfg.assigner.pos_iou_thr": "0.5"}, r"pos_iou_thr must be a number \(MaxIoUAssigner\)"),
    ({"model.train_cfg.assigner.match_low_quality": "no"}, "match_low_quality must be True or False"),
    ({"model.train_cfg.pos_weight": "a"}, "model.train_cfg.pos_weight must be a number"),
    ({"model.test_cfg.score_thr": "a"}, "model.test_cfg.score_thr must be a number"),
    ({"model.test_cfg.max_per_img": "all"}, "model.test_cfg.max_per_img must be a number"),
    ({"model.test_cfg.nms.iou_threshold": "b"}, r"nms\.iou_threshold must be a number"),
    ({"model.data_preprocessor.mean": "imagenet"}, "data_preprocessor.mean must be a list"),
    ({"optim_wrapper.clip_grad": dict(max_norm="a")}, "clip_grad.max_norm must be a number"),
    ({"optim_wrapper.optimizer.lr": "1e-3"}, r"optimizer\.lr must be a number \(AdamW\)"),
    ({"optim_wrapper.optimizer.betas": "a"}, r"optimizer\.betas must be a list"),
    ({"optim_wrapper.paramwise_cfg": dict(custom_keys=dict(neck=dict(lr_mult="a")))}, "neck.lr_mult must be a numb"),
    ({"optim_wrapper.paramwise_cfg": dict(bypass_duplicate="yes")}, "bypass_duplicate must be True or False"),
    ({"param_scheduler.0.end": "a"}, r"param_scheduler\.0\.end must be a number \(LinearLR\)"),
    ({"train_cfg.max_epochs": "12"}, "train_cfg.max_epochs must be a number"),
    ({"train_cfg.val_interval": "a"}, "train_cfg.val_interval must be a number"),
    ({"default_hooks.logger.interval": "50"}, r"logger\.interval must be a number \(LoggerHook\)"),
    ({"default_hooks.checkpoint.interval": "a"}, r"checkpoint\.interval must be a number"),
    ({"train_dataloader.batch_size": "two"}, r"train_dataloader\.batch_size must be a number \(DataLoader\)"),
    ({"val_evaluator.iou_thrs": "a"}, r"val_evaluator\.iou_thrs must be a number or a list of numbers"),
    ({"env_cfg.cudnn_benchmark": "no"}, "env_cfg.cudnn_benchmark must be True or False"),
    ({"randomness": dict(deterministic="yes")}, "randomness.deterministic must be True or False"),
    ({"log_processor": dict(type="LogProcessor", window_size="ten")}, "log_processor.window_size must be a number"),
]  # fmt: skip


@pytest.fixture(scope="module")
def student():
    return load_config(str(STUDENT))


@pytest.mark.parametrize(("change", "says"), LATE, ids=[next(iter(change)) for change, _ in LATE])
def test_wrong_type_that_is_used_late_is_one_line_before_anything_is_built(student, change, says):
    cfg = Config(student._cfg_dict.to_dict())
    cfg.merge_from_dict(change)
    with pytest.raises(ConfigError, match=says):
        check_settings(cfg)


@pytest.mark.parametrize("path", ["model.test_cfg.nms.iou_threshold", "optim_wrapper.clip_grad.max_norm"])
def test_text_of_a_number_passes_where_the_code_makes_a_float_of_it(student, path):
    cfg = Config(student._cfg_dict.to_dict())
    cfg.merge_from_dict({path: "0.6"})
    check_settings(cfg)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (dict(student=dict(bbox_head=dict(topk="a"))), "model.student.bbox_head.topk"),
        (dict(student=dict(test_cfg=dict(nms_pre="a"))), "model.student.test_cfg.nms_pre"),
        (dict(teacher=dict(neck=dict(num_outs="five"))), "model.teacher.neck.num_outs"),
    ],
)
def test_networks_of_a_distillation_are_read_with_their_files(monkeypatch, change, place):
    monkeypatch.chdir(ROOT)
    cfg = load_config(str(LAD))
    spec, overrides = next(iter(change.items()))
    before = cfg.model[spec]
    cfg.model[spec] = ConfigDict(dict(config=before) if isinstance(before, str) else before)
    cfg.merge_from_dict({f"model.{spec}": overrides})
    with pytest.raises(ConfigError, match=place):
        check_settings(cfg)


def readable_configs(files):
    for file in files:
        try:
            yield file, load_config(str(file))
        except ConfigError:  # needs a package that is not installed
            continue


FILES = sorted([*MMDET.glob("*/*.py"), *(ROOT / "configs").rglob("*.py")])


def refusals(files, monkeypatch):
    monkeypatch.chdir(ROOT)
    read = list(readable_configs(files))
    assert len(read) > 0.9 * len(files)
    return {str(file): found for file, cfg in read if (found := contradictions(cfg))}


def test_no_config_of_a_sample_is_refused(monkeypatch):
    assert refusals(random.Random(0).sample(FILES, 20), monkeypatch) == {}


@pytest.mark.slow
def test_no_config_of_mmdetection_or_of_the_project_is_refused(monkeypatch):
    assert len(FILES) > 900
    assert refusals(FILES, monkeypatch) == {}
