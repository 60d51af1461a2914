"""A result's digest changes with what decides the result, and with nothing else."""

import copy
from dataclasses import replace

from lad.base.config import load_config
from lad.cli.arguments import prepare_training
from lad.errors import ConfigError
from suites import runs
from suites.digest import EVALUATION, TRAINING, digest, digests, teacher_checkpoints
from suites.runs import Run
from suites.suite import Network
from suites.suite_file import load_suite

import pytest
from helpers import ROOT
from mmengine.config import Config

LAD = str(ROOT / "configs/lad/lad_paa-r18-c16_paa-r18_fpn_bccd.py")


@pytest.fixture(scope="module")
def cfg():
    return load_config(LAD)


def parts(cfg, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    return digests(cfg, (*TRAINING, *EVALUATION))


def test_the_config_that_a_training_writes_down_is_the_same_training(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr("lad.cli.arguments.check_dataset_files", lambda cfg: None)
    trained = copy.deepcopy(cfg)
    trained.work_dir = str(tmp_path)
    prepare_training(trained, amp=False, auto_scale_lr=False, resume=None)
    trained.dump(tmp_path / "config.py")
    # Its hooks and loops are others, and compute the same.
    assert trained.train_cfg.type != cfg.train_cfg.type
    assert digests(Config.fromfile(tmp_path / "config.py"), TRAINING) == digests(cfg, TRAINING)


def test_where_files_lie_and_how_fast_they_are_read_is_not_part_of_it(cfg):
    same = parts(
        cfg,
        train_dataloader__num_workers=4,
        test_dataloader__persistent_workers=False,
        model__teacher__checkpoint="elsewhere.pth",
        test_evaluator__outfile_prefix="x",
        train_cfg__val_interval=1,
        auto_scale_lr__base_batch_size=3,  # not enabled
        default_hooks__logger=dict(type="LoggerHook", interval=7),
        default_hooks__checkpoint__max_keep_ckpts=9,
        default_hooks__teacher_check=None,
        default_hooks__numerical_faults=None,
    )
    assert same == parts(cfg)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("optim_wrapper__optimizer__lr", 0.5, "optim_wrapper"),
        ("train_cfg__max_epochs", 3, "train_cfg"),
        ("randomness__seed", 7, "randomness"),
        ("train_dataloader__batch_size", 2, "train_dataloader"),
        ("model__methods", [dict(type="SoftLabelDistillation")], "model"),
        ("test_evaluator__classwise", True, "test_evaluator"),
        ("load_from", "other.pth", "load_from"),
        ("auto_scale_lr__enable", True, "auto_scale_lr"),
        ("default_hooks__ema", dict(type="EMAHook"), "default_hooks"),
        ("default_hooks__sampler_seed", None, "default_hooks"),
        # Without it a method's pretraining is none.
        ("default_hooks__phases", None, "default_hooks"),
        ("model__student_loss", False, "model"),
    ],
)
def test_what_decides_a_result_is_named(cfg, key, value, part):
    before, after = parts(cfg), parts(cfg, **{key: value})
    assert {name for name in before if before[name] != after[name]} == {part}


def test_a_change_in_the_students_own_file_is_seen(cfg, tmp_path):
    student = tmp_path / "student.py"
    student.write_text(f"_base_ = {str(ROOT / 'configs/lad/paa_r18-c16_fpn_bccd.py')!r}\n")
    same = parts(cfg, model__student=str(student))
    assert same["model"] == parts(cfg)["model"]
    other = tmp_path / "other.py"
    other.write_text(student.read_text() + "model = dict(bbox_head=dict(topk=5))\n")
    assert parts(cfg, model__student=str(other))["model"] != same["model"]


def test_a_checkout_that_is_gone_is_read_here(cfg):
    moved = parts(cfg, model__student="/gone/configs/lad/paa_r18-c16_fpn_bccd.py")
    assert moved == parts(cfg)


def test_a_result_depends_on_the_trainings_that_it_needs(cfg):
    own = digests(cfg, TRAINING)
    assert digest(own, dict(teacher="a")) != digest(own, dict(teacher="b"))
    assert digest(own) == digest(dict(reversed(own.items())))


def test_initial_weights_are_part_of_it_wherever_they_are_named(cfg):
    """A student's pretrained backbone is no teacher's checkpoint."""

    def pretrained(checkpoint):
        backbone = dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint))
        return parts(cfg, model__student=dict(_delete_=True, config=cfg.model.student, backbone=backbone))[
            "model"
        ]

    assert pretrained("a.pth") != pretrained("b.pth")


def test_the_files_of_several_teachers_are_read(cfg, tmp_path):
    def teachers(topk, checkpoint="a.pth"):
        file = tmp_path / f"teacher_{topk}.py"
        base = str(ROOT / "configs/lad/paa_r18_fpn_bccd.py")
        file.write_text(f"_base_ = {base!r}\nmodel = dict(bbox_head=dict(topk={topk}))\n")
        return parts(cfg, model__teachers=dict(big=dict(config=str(file), checkpoint=checkpoint)))["model"]

    assert teachers(5) != teachers(7)
    assert teachers(5) == teachers(5, checkpoint="b.pth")


def test_the_checkpoints_of_teachers_are_named_without_their_folders_unless_a_training_tells():
    teachers = dict(
        big=dict(checkpoint="https://there/big.pth"), own=dict(checkpoint="{teacher}"), none=dict()
    )
    assert teacher_checkpoints(dict(teachers=teachers)) == dict(big="big.pth")
    assert teacher_checkpoints(dict(teacher=dict(checkpoint="here/a.pth"))) == dict(teacher="a.pth")
    assert teacher_checkpoints(dict(teacher_ckpt="there/b.pth")) == dict(teacher_ckpt="b.pth")
    assert teacher_checkpoints(dict(teacher_ckpt="{teacher}", teacher="a/config.py")) == {}


@pytest.mark.parametrize("name", ["big", "lad", "mmdet-lad", "colad"])
def test_a_training_whose_teacher_is_a_need_has_the_parts_that_it_always_had(name, tmp_path):
    assert tuple(runs.identity(suite_run(name, tmp_path))["parts"]) == TRAINING


def suite_run(name, root):
    suite = load_suite(ROOT / "configs/benchmarks/bccd.yaml")
    return Run(suite, suite.entries[name], 0, root)


@pytest.mark.parametrize(
    ("suite", "entry", "teachers"),
    [
        ("bccd", "lad-uniform", ["teacher"]),
        ("bccd_specialists", "mulde", ["teachers.good", "teachers.shuffled"]),
    ],
)
def test_a_teacher_that_is_remembered_makes_no_other_training(suite, entry, teachers, tmp_path):
    suite = load_suite(ROOT / f"configs/benchmarks/{suite}.yaml")
    caches = {f"model.{teacher}.cache": dict(dir=str(tmp_path)) for teacher in teachers}
    options = {
        key: value for key, value in suite.entries[entry].options.items() if not key.endswith(".cache")
    }
    live, remembered = (replace(suite.entries[entry], options=own) for own in (options, options | caches))
    identities = [runs.identity(Run(suite, own, 0, tmp_path)) for own in (live, remembered)]
    assert identities[0] == identities[1]
    assert "cache" in Run(suite, remembered, 0, tmp_path).config.pretty_text


@pytest.mark.parametrize("name", ["lad-uniform", "mmdet-lad"])
def test_the_config_that_is_handed_to_the_training_is_the_same_training_and_whole(name, tmp_path):
    run = suite_run(name, tmp_path)
    runs.claim_folder(run, runs.identity(run))
    given = load_config(str(run.given_config()))
    assert digests(given, TRAINING) == digests(run.config, TRAINING)
    checkpoint = given.model.teacher_ckpt if name == "mmdet-lad" else given.model.teacher.checkpoint
    assert checkpoint == str(tmp_path / "big/seed_0/epoch_12.pth")
    assert "configs/lad" not in run.given_config().read_text()


def test_what_is_evaluated_is_digested_and_written_network_by_network(tmp_path):
    run = suite_run("colad", tmp_path)
    own = runs.identity(run)
    small, big = run.entry.networks
    assert runs.result_digest(run, small, own) != runs.result_digest(run, big, own)
    assert runs.prepare_evaluation(run, big) == run.folder / ".big.new.bbox.json"
    written = load_config(str(run.evaluated_config(big)))
    assert written.model.type == "PAA"
    assert written.model.neck.in_channels == [64, 128, 256, 512]
    assert digests(written, EVALUATION) == digests(runs.plain_config(run, big), EVALUATION)


def test_exits_that_are_kept_are_rows_of_their_own_beside_their_network(tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/bccd_together.yaml")
    run = Run(suite, suite.entries["byot"], 0, tmp_path)
    files = {network.row: run.checkpoint(network.name).name for network in run.entry.networks}
    assert files == {
        "byot.student": "epoch_12.pth",
        "byot.student_early": "student_early_epoch_12.pth",
        "byot.student_late": "student_late_epoch_12.pth",
    }
    student, early, late = (runs.plain_config(run, network) for network in run.entry.networks)
    assert student.model.neck.type == "FPN"
    assert (early.model.backbone.num_stages, late.model.backbone.num_stages) == (2, 3)
    assert early.model.neck.in_channels == [32]
    assert late.model.neck.in_channels == [32, 64]


def test_a_network_that_a_training_does_not_leave_behind_is_named(tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/bccd_together.yaml")
    run = Run(suite, suite.entries["byot"], 0, tmp_path)
    with pytest.raises(ConfigError, match=r"leaves behind no network 'student_erly'.*student_early"):
        runs.plain_config(run, Network("byot.student_erly", "student_erly", "", None))
