"""The suites of several teachers: each student gets the checkpoints of the teachers that its entry names."""

from suites.comparable import check_comparable
from suites.plan import Options, plan
from suites.runs import Run
from suites.suite_file import load_suite

import pytest
from helpers import ROOT

GOOD_AND_BAD = dict(good="teacher/seed_0", second="teacher/seed_1", shuffled="shuffled/seed_0")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("specialists", dict(rbc="rbc/seed_0", wbc="wbc/seed_0", platelets="platelets/seed_0")),
        ("specialists_mean", dict(rbc="rbc/seed_0", wbc="wbc/seed_0", platelets="platelets/seed_0")),
        ("mulde", GOOD_AND_BAD),
        ("average", GOOD_AND_BAD),
    ],
)
def test_teachers_are_those_of_the_suite_whatever_the_students_seed(entry, expected, tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/bccd_specialists.yaml")
    run = Run(suite, suite.entries[entry], 3, tmp_path)
    filled = run.filled(run.config)
    assert {name: spec.checkpoint for name, spec in filled.model.teachers.items()} == {
        name: str(tmp_path / folder / "epoch_12.pth") for name, folder in expected.items()
    }
    assert filled.randomness.seed == 3


def test_the_student_is_the_same_in_every_comparison(tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/bccd_specialists.yaml")
    models = [
        Run(suite, suite.entries[name], 0, tmp_path).config.model
        for name in ("mulde", "average", "specialists", "specialists_mean")
    ]
    alone = Run(suite, suite.entries["alone"], 0, tmp_path).config.model
    for model in models:
        assert {key: value for key, value in model.student.items() if key in alone} == alone


def test_teachers_of_one_class_have_no_row_beside_those_of_three(tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/bccd_specialists.yaml")
    check_comparable(plan(suite, tmp_path, Options(seeds=[0])))
    assert not {"rbc", "wbc", "platelets"} & suite.networks.keys()


def test_students_of_the_long_tail_have_two_teachers_of_each_kind_and_one_network(tmp_path):
    suite = load_suite(ROOT / "configs/benchmarks/digits_long_tail.yaml")
    run = Run(suite, suite.entries["cbd"], 3, tmp_path)
    filled = run.filled(run.config)
    folders = dict(
        plain="instance/seed_0", plain1="instance/seed_1", jitter="jitter/seed_0", jitter1="jitter/seed_1"
    )
    assert {name: spec.checkpoint for name, spec in filled.model.teachers.items()} == {
        name: str(tmp_path / folder / "epoch_6.pth") for name, folder in folders.items()
    }
    others = {name: Run(suite, suite.entries[name], 3, tmp_path).config for name in ("instance", "balanced")}
    for config in others.values():
        assert {
            key: value for key, value in filled.model.student.items() if key in config.model
        } == config.model
    samplers = {name: config.train_dataloader.sampler.type for name, config in others.items()}
    assert samplers == dict(instance="DefaultSampler", balanced="ClassAwareSampler")
    assert filled.train_dataloader.sampler.type == "ClassAwareSampler"
    assert "frequencies" in filled.val_evaluator
