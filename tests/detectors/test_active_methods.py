"""Methods that do something in a part of the run, sequences of teachers, and factors that fade."""

import copy

from lad.analysis.dry_run import describe
from lad.base.progress import Progress
from lad.base.schedules import Window, build_schedule, build_window
from lad.errors import ConfigError

import pytest
import torch
from helpers import build, make_batch, save_checkpoint, small_paa
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS

HINT = dict(type="HintDistillation")
LAD = dict(type="LabelAssignmentDistillation")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {
        name: dict(
            small_paa(base=16), checkpoint=save_checkpoint(build(small_paa(base=16), seed), folder / name)
        )
        for seed, name in ((1, "near"), (2, "far"))
    }


def distilled(teachers, *methods, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teachers=copy.deepcopy(teachers),
                methods=copy.deepcopy(list(methods)),
                **settings,
            )
        )
    model.student.load_state_dict(build(small_paa()).state_dict())
    return model


def losses_at(model, epoch):
    return model.loss_at(Progress(epoch=epoch, iteration=10 * epoch), *make_batch())


def runs_of(model):
    counts = dict.fromkeys(model.teachers, 0)
    for name, teacher in model.teachers.items():

        def counting(*args, name=name, run=teacher.run):
            counts[name] += 1
            return run(*args)

        teacher.run = counting
    return counts


def test_one_teacher_teaches_first_and_another_from_then_on(teachers):
    near = dict(HINT, taught_by="near", active=dict(epochs=(0, 2)))
    far = dict(HINT, taught_by="far", active=dict(epochs=(2, None)))
    model = distilled(teachers, near, far)
    counts = runs_of(model)
    for epoch, who, other in ((0, "near", "far"), (1, "near", "far"), (2, "far", "near"), (7, "far", "near")):
        losses = losses_at(model, epoch)
        assert f"{who}.loss_hint" in losses
        assert f"{other}.loss_hint" not in losses
    assert counts == dict(near=2, far=2)


def test_a_step_without_a_method_is_plain_training_and_its_adapters_get_zeros(teachers):
    model = distilled(teachers, dict(HINT, taught_by="near", active=dict(iters=(0, 5))))
    counts, plain = runs_of(model), build(small_paa()).train()
    losses, expected = losses_at(model.train(), 1), plain.loss(*make_batch())
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    sum(losses.values()).backward()
    assert counts == dict(near=0, far=0)
    gradients = [p.grad for p in model.distillation.parameters()]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_label_assignment_may_change_its_teacher(teachers):
    near = dict(LAD, taught_by="near", active=dict(part=(0, 0.5)))
    far = dict(LAD, taught_by="far", active=dict(part=(0.5, 1)))
    model = distilled(teachers, near, far)
    counts = runs_of(model)
    for iteration in (0, 49, 50, 99):
        model.loss_at(Progress(iteration=iteration, max_iters=100), *make_batch())
    assert counts == dict(near=2, far=2)
    with pytest.raises(ConfigError, match="both change the own loss"):
        distilled(teachers, dict(near, active=dict(part=(0, 0.6))), far)
    with pytest.raises(ConfigError, match="both change the own loss"):
        distilled(teachers, dict(near, active=dict(epochs=(0, 6))), far)


def test_a_factor_fades_all_terms_of_a_method(teachers):
    fading = dict(type="linear", start=1.0, end=0.0, epochs=4, begin=2)
    model = distilled(teachers, dict(HINT, taught_by="near", factor=fading)).eval()
    unit = losses_at(model, 0)["near.loss_hint"]
    for epoch, factor in ((1, 1.0), (2, 1.0), (3, 0.75), (5, 0.25)):
        torch.testing.assert_close(losses_at(model, epoch)["near.loss_hint"], factor * unit)


@pytest.mark.parametrize("ratio", [False, True])
def test_a_method_that_has_faded_rests_and_its_teacher_does_not_run(teachers, ratio):
    fading = dict(type="linear", start=1.0, end=0.0, epochs=4)
    factor = dict(type="loss_ratio", ratio=fading) if ratio else fading
    model, plain = (
        distilled(teachers, dict(HINT, taught_by="near", factor=factor)),
        build(small_paa()).train(),
    )
    counts = runs_of(model)
    assert "near.loss_hint" in losses_at(model, 3)
    assert counts["near"] == 1
    losses = losses_at(model, 4)
    assert counts["near"] == 1
    assert losses.keys() == plain.loss(*make_batch()).keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.distillation.parameters())


def test_a_faded_method_goes_on_to_change_the_own_loss(teachers):
    balanced = dict(type="ClassBalancedDistillation", taught_by="near", alpha=0.25, factor=0)
    model, plain = distilled(teachers, balanced), build(small_paa()).train()
    expected = plain.loss(*make_batch())["loss_cls"]
    torch.testing.assert_close(losses_at(model, 0)["loss_cls"], 0.75 * expected)


def test_without_labels_a_faded_method_leaves_losses_of_zeros(teachers):
    soft = dict(type="SoftLabelDistillation", factor=dict(type="linear", start=1.0, end=0.0, epochs=2))
    losses = losses_at(distilled({"near": teachers["near"]}, soft, student_loss=False), 2)
    assert losses
    assert all(not value.any() for value in losses.values())


def test_report_says_that_a_method_does_not_run_at_first(teachers):
    rising = dict(type="linear", start=0.0, end=1.0, epochs=4)
    report = describe(distilled(teachers, dict(HINT, name="hints", taught_by="near", factor=rising)))
    assert "hints has a factor of 0 in the first step, and does not run there." in report


def test_report_names_the_part_of_the_run(teachers):
    text = describe(distilled(teachers, dict(HINT, taught_by="near", active=dict(epochs=(2, 6)))))
    assert "HintDistillation is active in epochs from 2 to before 6." in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(active=dict(epochs=(6, 2))), "active must be like"),
        (dict(active=dict(epochs=3)), "active must be like"),
        (dict(active=dict(part=(0, 2))), "active must be like"),
        (dict(active=dict(epochs=(0.5, 2))), "active must be like"),
        (dict(factor=-1), "factor must be at least 0"),
        (
            dict(factor=dict(type="linear", end=1.0, begin=3)),
            "begin of a schedule must be a whole number of the",
        ),
        (
            dict(type="FeatureDistillation", factor=0.5, loss_weight=dict(type="gradient_share", share=0.1)),
            "makes up for factor",
        ),
        (
            dict(type="FactorTransferDistillation", active=dict(epochs=(0, 2))),
            "a method that pretrains begins with the run",
        ),
    ],
)
def test_wrong_settings_are_one_line(teachers, settings, message):
    with pytest.raises(ConfigError, match=message):
        distilled(teachers, dict(HINT, taught_by="near") | settings)


def test_without_labels_methods_are_always_active(teachers):
    soft = dict(type="SoftLabelDistillation", weights="teacher", taught_by="near", active=dict(epochs=(0, 2)))
    with pytest.raises(
        ConfigError, match="student_loss=False leaves the student to its methods in every step"
    ):
        distilled(teachers, soft, student_loss=False)


def test_schedule_waits_for_its_begin():
    weight = build_schedule(dict(type="linear", start=1.0, end=0.0, iters=10, begin=5), "x")
    assert [weight.at(Progress(iteration=n)) for n in (0, 5, 10, 15, 99)] == [1.0, 1.0, 0.5, 0.0, 0.0]


bounds = st.tuples(st.integers(0, 20), st.none() | st.integers(1, 20)).filter(
    lambda b: b[1] is None or b[0] < b[1]
)


@given(first=bounds, second=bounds)
def test_windows_are_apart_where_no_step_is_in_both(first, second):
    one, other = (build_window(dict(iters=each), "x") for each in (first, second))
    both = any(one.covers(Progress(iteration=n)) and other.covers(Progress(iteration=n)) for n in range(50))
    assert one.is_apart_from(other) == other.is_apart_from(one) == (not both)


def test_whole_run_is_the_default():
    assert build_window(None, "x") == Window()
    assert Window().is_whole
    assert build_window(dict(part=(0, 1)), "x").is_whole
