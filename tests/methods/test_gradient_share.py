"""Weights of feature distillation that follow gradients, schedules of weights, and the cosine loss at each position."""

import copy

from lad.base.progress import Progress
from lad.errors import ConfigError, UnsupportedError
from lad.losses import CosineLoss
from lad.methods.feature.gradient_share import GradientShare, build_weight

import pytest
import torch
from dense_detectors import dense
from helpers import build, fake_cuda, make_batch, save_checkpoint
from mmdet.registry import MODELS

HERE = Progress()


def step(weight, maps, own, taught):
    """One step of own * sum(maps) + weight * taught * sum(stand-ins); returns the weight that was used."""
    used = weight.at(HERE)
    stand_ins = weight.watch(maps)
    (own * sum(m.sum() for m in maps) + used * taught * sum(s.sum() for s in stand_ins)).backward()
    return float(used)


def leaves(*shapes):
    return [torch.ones(shape, requires_grad=True) * 1.0 for shape in shapes]


def test_weight_is_the_odds_times_the_quotient_of_the_norms():
    # Of 10 elements: ||g_own|| = 6 sqrt 10, ||g|| = 2 sqrt 10; a share of 1/4 has the odds 1/3.
    weight = GradientShare(share=0.25, start=5.0, momentum=0.0)
    assert step(weight, leaves((2, 3), (4,)), own=6.0, taught=2.0) == 5.0
    assert step(weight, leaves((2, 3), (4,)), own=6.0, taught=2.0) == pytest.approx(1.0)
    # What the weight itself is does not matter: the gradient is taken at weight 1.
    assert step(weight, leaves((2, 3), (4,)), own=12.0, taught=2.0) == pytest.approx(1.0)
    assert step(weight, leaves((2, 3), (4,)), own=6.0, taught=2.0) == pytest.approx(2.0)


def test_norms_are_moving_averages_from_the_first_step_on():
    weight = GradientShare(share=0.5, momentum=0.9)
    step(weight, leaves((4,)), own=3.0, taught=1.0)
    assert step(weight, leaves((4,)), own=1.0, taught=1.0) == pytest.approx(3.0)
    # 0.9 * 3 + 1 of 0.9 + 1, the norms of a step being 2 times these.
    assert step(weight, leaves((4,)), own=1.0, taught=1.0) == pytest.approx((0.9 * 3 + 1) / 1.9)


def test_overflowing_steps_and_bounds_leave_the_weight_in_its_place():
    weight = GradientShare(share=0.5, momentum=0.0, maximum=10.0)
    step(weight, leaves((4,)), own=float("inf"), taught=1.0)
    assert step(weight, leaves((4,)), own=2.0, taught=1.0) == 1.0
    assert step(weight, leaves((4,)), own=50.0, taught=1.0) == pytest.approx(2.0)
    assert step(weight, leaves((4,)), own=1.0, taught=1.0) == 10.0


def test_a_map_that_is_compared_twice_counts_once():
    weight, (maps,) = GradientShare(share=0.5, momentum=0.0), leaves((4,))
    stand_ins = weight.watch([maps, maps])
    assert stand_ins[0] is stand_ins[1]
    weight.at(HERE)
    (3.0 * maps.sum() + sum(each.sum() for each in stand_ins)).backward()
    assert float(weight.at(HERE)) == pytest.approx(1.5)


def test_steps_without_a_backward_pass_change_nothing():
    weight = GradientShare(share=0.5, start=2.0)
    for _ in range(3):
        assert float(weight.at(HERE)) == 2.0
        weight.watch(leaves((4,)))


def test_nothing_waits_for_the_device():
    weight = GradientShare(share=0.25)
    with fake_cuda():
        weight.cuda()
        assert weight.at(HERE).device.type == "cuda"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(share=1.0), "share must be above 0 and below 1"),
        (dict(), "it needs share"),
        (dict(share="much"), "share must be a number"),
        (dict(share=0.1, momentum=1.0), "momentum must be from 0 to below 1"),
        (dict(share=0.1, start=0.0), "needs 0 < minimum <= start <= maximum"),
        (dict(share=0.1, rate=1), "it takes share, start, momentum, minimum and maximum"),
    ],
)
def test_wrong_settings_are_one_line(setting, message):
    with pytest.raises(ConfigError, match=message):
        build_weight(dict(type="gradient_share", **setting), "x")


def distilled(folder, weight, **settings):
    teacher = dense("retinanet")
    path = save_checkpoint(build(teacher, 1), folder / "teacher.pth")
    method = dict(
        type="FeatureDistillation",
        # P6 and P7 are made one of the other.
        student=["neck[0]", "neck[1]", "neck[2]"],
        teacher=["neck[0]", "neck[1]", "neck[2]"],
        loss=dict(type="CosineLoss"),
        connector="projection",
        loss_weight=weight,
    )
    torch.manual_seed(0)  # connectors
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=dense("retinanet"),
            teacher=dict(teacher, checkpoint=path),
            methods=[method],
            **settings,
        )
    )
    model.student.load_state_dict(build(dense("retinanet")).state_dict())
    return model


def total_of(losses, names):
    return sum(sum(losses[n]) if isinstance(losses[n], list) else losses[n] for n in names)


def test_second_step_has_the_share_of_the_gradient_at_the_maps(tmp_path):
    """Compared with autograd's own gradients of both parts."""
    model = distilled(tmp_path, dict(type="gradient_share", share=0.2, momentum=0.0)).eval()
    batch = make_batch()
    losses = model.loss(*copy.deepcopy(batch))
    assert float(losses["weight_cosine"]) == 1.0
    total_of(losses, [name for name in losses if "loss" in name]).backward()
    maps = []
    model.student.neck.register_forward_hook(lambda *args: maps.extend(args[-1][:3]))
    losses = model.loss(*copy.deepcopy(batch))
    assert float(losses["weight_cosine"]) != 1.0

    def norm(names):
        gradients = torch.autograd.grad(total_of(losses, names), maps, retain_graph=True, allow_unused=True)
        return torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()

    taught, own = norm(["loss_cosine"]), norm(["loss_cls", "loss_bbox"])
    torch.testing.assert_close(taught / (taught + own), torch.tensor(0.2), rtol=1e-4, atol=0)


def test_weight_is_saved_and_resumed(tmp_path):
    model, other = (distilled(tmp_path, dict(type="gradient_share", share=0.2)) for _ in range(2))
    for _ in range(2):
        losses = model.loss(*make_batch())
        total_of(losses, [name for name in losses if "loss" in name]).backward()
    model.loss(*make_batch())  # takes the last step in
    key = "distillation.FeatureDistillation.loss_weight.weight"
    assert float(model.state_dict()[key]) != 1.0
    other.load_state_dict(model.state_dict())
    assert float(other.loss(*make_batch())["weight_cosine"]) == float(model.state_dict()[key])
    copy.deepcopy(model)  # as EMA does


def test_weight_may_be_a_schedule(tmp_path):
    model = distilled(tmp_path, dict(type="linear", start=4.0, end=0.0, epochs=4)).eval()
    plain = distilled(tmp_path, 1.0).eval()
    unit = plain.loss(*make_batch())["loss_cosine"]
    for epoch, factor in ((0, 4.0), (3, 1.0), (9, 0.0)):
        losses = model.loss_at(Progress(epoch=epoch), *make_batch())
        torch.testing.assert_close(losses["loss_cosine"], factor * unit)
        assert "weight_cosine" not in losses


def test_share_needs_the_students_own_loss(tmp_path):
    model = distilled(tmp_path, dict(type="gradient_share", share=0.2))
    with pytest.raises(
        UnsupportedError, match=r"a share of the gradient is one beside the student's own loss"
    ):
        model.methods[0].check_without_labels(model.student)


def test_cosine_loss_is_the_mean_over_positions():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    expected = (1 - torch.cosine_similarity(student, teacher, dim=1)).mean()
    torch.testing.assert_close(CosineLoss(loss_weight=3.0)(student, teacher), 3 * expected)
    torch.testing.assert_close(CosineLoss()(student * 7, teacher / 3), expected)
    with pytest.raises(ValueError, match="need maps"):
        CosineLoss()(student, teacher[..., :2])
