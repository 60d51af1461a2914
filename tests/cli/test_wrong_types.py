"""Any setting of a config with a value of another type: it trains, or is one line."""

import copy
import random
import time
from contextlib import ExitStack
from unittest import mock

from lad.base.config import load_config
from lad.cli.arguments import prepare_training
from lad.cli.checks import check_training
from lad.cli.config_types import check_types
from lad.cli.messages import config_errors, explain, run_errors
from lad.datasets import DigitsParameters, make_digits
from lad.engine.plain_config import plain_configs
from lad.errors import ConfigError, LadError

import pytest
from helpers import ROOT, build, save_checkpoint
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from stacks import LAYOUT

CONFIGS = {
    "lad": ROOT / "configs/lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py",
    "colad": ROOT / "configs/colad/colad_paa-r18-c16_paa-r18-c32_fpn_digits.py",
}
VALUES = (
    None,
    7,
    -1.5,
    "text",
    True,
    [],
    ["a", 3],
    {},
    dict(a=1),
    dict(type="X"),
    [dict(type="X")],
    (1,),
    [None],
    [[1]],
)
# Where tests and pictures go, which a training does not read.
PASSED_OVER = ("test_dataloader", "test_evaluator", "test_cfg", "env_cfg")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("types")
    make_digits(folder / "digits", DigitsParameters(images=4, val_images=2))
    teacher = build(load_config(str(ROOT / "configs/lad/paa_r18-c32_fpn_digits.py")).model)
    save_checkpoint(teacher, folder / "teacher.pth")
    return folder


def whole_config(name, workplace):
    cfg = load_config(str(CONFIGS[name]))
    cfg.launcher, cfg.work_dir = "none", str(workplace / "work")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f"{workplace}/digits/"
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.val_evaluator.ann_file = f"{workplace}/digits/annotations/val.json"
    if "teacher" in cfg.model:
        cfg.model.teacher.checkpoint = str(workplace / "teacher.pth")
    return cfg


def places(config, path=()):
    """Paths of all settings, at any depth."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def build_all(cfg, *, train=False):
    """What tools/train.py does before the first step, or all of it."""
    with ExitStack() as stack:
        for name in ("_log_env", "dump_config"):
            stack.enter_context(mock.patch.object(Runner, name, return_value=None))
        stack.enter_context(mock.patch(LAYOUT, lambda text, **_: (text, True)))
        if not train:
            stack.enter_context(mock.patch("lad.engine.loops._Resumable.run", return_value=None))
        with config_errors():
            cfg.experiment_name = f"types_{time.time_ns()}"
            prepare_training(cfg, amp=False, auto_scale_lr=False, resume=None)
            plain_configs(cfg)
            runner = Runner.from_cfg(cfg)
            check_training(runner)
        with run_errors(runner):
            runner.train()


def check_is_trained_or_explained(cfg, place, value):
    owner = cfg._cfg_dict
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = copy.deepcopy(value)
    try:
        build_all(cfg)
    except Exception as error:
        line = explain(error)
        if line is None:
            pytest.fail(f"{'.'.join(map(str, place))} = {value!r}: {type(error).__name__}: {error}")
        assert line.strip()


def check_random_replacements(name, workplace, monkeypatch, seed, count):
    monkeypatch.chdir(ROOT)
    cfg = whole_config(name, workplace)
    found = [place for place in places(cfg._cfg_dict) if place[0] not in PASSED_OVER]
    generator = random.Random(seed)
    for _ in range(count):
        place, value = generator.choice(found), generator.choice(VALUES)
        check_is_trained_or_explained(copy.deepcopy(cfg), place, value)


@pytest.mark.parametrize("name", CONFIGS)
def test_value_of_another_type_anywhere_is_trained_or_explained(name, workplace, monkeypatch):
    check_random_replacements(name, workplace, monkeypatch, seed=0, count=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_many_values_of_another_type_anywhere_are_trained_or_explained(name, workplace, monkeypatch):
    check_random_replacements(name, workplace, monkeypatch, seed=1, count=150)


# What nothing says before a step that it is wrong.
IN_A_STEP = [
    ("bbox_head.loss_bbox.loss_weight", None),
    ("bbox_head.loss_centerness.loss_weight", dict(a=1)),
    ("train_cfg.assigner.min_pos_iou", None),
    ("bbox_head.loss_cls.alpha", [None]),
]
AT_THE_VALIDATION = [("test_cfg.max_per_img", None), ("test_cfg.nms", 7), ("test_cfg.score_thr", None)]


def check_is_blamed(workplace, monkeypatch, name, value):
    monkeypatch.chdir(ROOT)
    cfg = load_config(str(ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"))
    like = whole_config("colad", workplace)
    for key in ("train_dataloader", "val_dataloader", "val_evaluator", "launcher", "work_dir"):
        cfg[key] = like[key]
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.train_cfg.max_epochs = 1
    owner = cfg.model
    *parents, last = name.split(".")
    for key in parents:
        owner = owner[key]
    owner[last] = value
    with pytest.raises(
        ConfigError, match=rf"^model\.{name}: \w+ .* cannot be used: \w+Error: .*, line \d+, in"
    ):
        build_all(cfg, train=True)


def test_value_that_a_step_cannot_use_is_named(workplace, monkeypatch):
    check_is_blamed(workplace, monkeypatch, *IN_A_STEP[0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [*IN_A_STEP[1:], *AT_THE_VALIDATION])
def test_value_that_a_step_or_a_validation_cannot_use_is_named(workplace, monkeypatch, name, value):
    check_is_blamed(workplace, monkeypatch, name, value)


FIT = [
    ("model", dict(a=1)),
    ("train_cfg", dict(a=1)),
    ("randomness", dict(a=1)),
    ("load_from", "text"),
    ("custom_hooks", [None]),
]


@pytest.mark.parametrize("value", [7, "text", True, ["a", 3], dict(a=1), [None]])
@pytest.mark.parametrize(
    "key", ["model", "train_cfg", "default_hooks", "custom_hooks", "load_from", "randomness"]
)
def test_setting_of_the_runner_has_its_type_or_is_named(key, value):
    if (key, value) in FIT:
        check_types(Config({key: value}))
        return
    with pytest.raises(ConfigError, match=rf"^{key}[\w.]* must be a .*, got [^\n]*$"):
        check_types(Config({key: value}))


@pytest.mark.parametrize("kind", [7, None, True, ["PAA"], dict(a=1)])
def test_type_that_names_no_class_is_found_at_any_depth(kind):
    cfg = Config(dict(model=dict(neck=[dict(type="FPN"), dict(heads=[dict(type=kind)])])))
    with pytest.raises(ConfigError, match=r"model\.neck\.1\.heads\.0\.type must be the name of a class"):
        check_types(cfg)


@pytest.mark.parametrize("value", [{}, dict(a=1), dict(lr=0.1), dict(clip_grad=dict(max_norm=1))])
def test_optimizer_wrapper_without_an_optimizer_is_named(value):
    with pytest.raises(ConfigError, match=r"^optim_wrapper must be like dict\(optimizer=dict"):
        check_types(dict(optim_wrapper=value))


def test_configs_with_classes_and_what_is_left_out_pass():
    check_types(
        ConfigDict(model=dict(type=dict), custom_hooks=[dict(type=ExitStack)], load_from=None, val_cfg=None)
    )
    for path in CONFIGS.values():
        check_types(load_config(str(path)))


def test_error_of_the_build_is_a_line_and_errors_with_a_line_stay(capsys):
    with (
        pytest.raises(ConfigError, match="from the config: TypeError: unhashable type: 'list'"),
        config_errors(),
    ):
        {}[[]]
    with pytest.raises(LadError, match="mine"), config_errors():
        raise LadError("mine")
    with pytest.raises(RuntimeError, match="no value's"), config_errors():
        raise RuntimeError("no value's")
