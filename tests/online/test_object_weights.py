"""Priors in and around objects weigh more, and all together as much as before."""

import copy

from lad.online.object_weights import ObjectWeighting, object_weights

import pytest
import torch
from helpers import build, fake_cuda, make_batch, small_detector
from hypothesis import given
from hypothesis import strategies as st

PRIORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]])
ATSS = "mmdet::atss/atss_r50_fpn_1x_coco.py"
GFL = "mmdet::gfl/gfl_r50_fpn_1x_coco.py"
RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"


def test_weights_by_hand():
    # Centres at x = 5, 15, 25, 35; the box from 6 to 14 is enlarged to 5.4 to 14.6: no centre is in it.
    assert object_weights(PRIORS, torch.tensor([[6.0, 0, 14, 10]]), torch.ones(4)).tolist() == [1, 1, 1, 1]
    # From 6 to 16, enlarged to 5.25 to 16.75: the second. 5 + 3 becomes 4.
    weights = object_weights(PRIORS, torch.tensor([[6.0, 0, 16, 10]]), torch.ones(4))
    assert weights.tolist() == [0.5, 2.5, 0.5, 0.5]


def test_enlarging_takes_in_what_is_around():
    box = torch.tensor([[6.0, 0, 14.7, 10]])  # centre at 10.35, half of the width 4.35: 15 would be at 4.65
    assert object_weights(PRIORS, box, torch.ones(4), enlarged=0.0)[1] == 1
    assert object_weights(PRIORS, box, torch.ones(4), enlarged=0.15)[1] == 2.5


def test_priors_that_do_not_count_stay_out():
    weights = object_weights(PRIORS, torch.tensor([[0.0, 0, 20, 10]]), torch.tensor([1.0, 0, 1, 0]))
    assert weights.tolist() == pytest.approx([5 / 3, 0, 1 / 3, 0])


def test_nothing_changes_without_objects_or_without_priors_that_count():
    assert object_weights(PRIORS, torch.zeros(0, 4), torch.ones(4)).tolist() == [1, 1, 1, 1]
    assert object_weights(PRIORS, torch.tensor([[0.0, 0, 9, 9]]), torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_nothing_waits_for_the_device():
    with fake_cuda():
        priors, weights = torch.rand(6, 4, device="cuda"), torch.ones(6, device="cuda")
        assert object_weights(priors, torch.rand(2, 4, device="cuda"), weights).device.type == "cuda"


@given(
    st.lists(st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 20)] * 2), max_size=4), st.floats(0.1, 20)
)
def test_sum_of_the_weights_stays(rows, factor):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 4)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0])
    assert float(object_weights(PRIORS, boxes, weights, factor).sum()) == pytest.approx(3.5, rel=1e-5)


def recorded_weights(detector, factor):
    """Weights that the class losses get, and all losses, with heavier objects."""
    inputs, samples = make_batch((3,), size=(160, 192))
    heads = [getattr(detector, name) for name in ("rpn_head", "bbox_head") if hasattr(detector, name)]
    if hasattr(detector, "roi_head"):
        heads.append(detector.roi_head.bbox_head)
    recorded, hooks = [], []

    def record(module, args, kwargs):
        recorded.append((args[2] if len(args) > 2 else kwargs["weight"]).reshape(-1).clone())

    for head in heads:
        hooks.append(head.loss_cls.register_forward_pre_hook(record, with_kwargs=True))
    weighting = ObjectWeighting(detector, factor)
    torch.manual_seed(0)
    with weighting.applied([samples[0].gt_instances.bboxes]):
        losses = detector.loss(inputs, copy.deepcopy(samples))
    for hook in hooks:
        hook.remove()
    return torch.cat(recorded), {
        name: float((sum(value) if isinstance(value, list) else value).detach())
        for name, value in losses.items()
    }


@pytest.mark.parametrize("config", [RETINANET, ATSS, GFL, FASTER])
def test_class_losses_get_the_weights_and_box_losses_do_not(config):
    detector = build(small_detector(config)).train()
    plain, plain_losses = recorded_weights(detector, 1.0)
    heavier, losses = recorded_weights(detector, 5.0)
    assert not ObjectWeighting(detector).unsupported
    assert float(heavier.sum()) == pytest.approx(float(plain.sum()), rel=1e-5)
    assert ((plain > 0) == (heavier > 0)).all()
    assert not torch.equal(plain, heavier)
    for name, value in plain_losses.items():
        if "cls" in name:
            assert losses[name] != pytest.approx(value, rel=1e-3)
        elif "loss" in name:
            assert losses[name] == pytest.approx(value, rel=1e-6)


def test_one_prior_in_an_object_weighs_five_times_one_outside():
    detector = build(small_detector(RETINANET)).train()
    plain, _ = recorded_weights(detector, 1.0)
    heavier, _ = recorded_weights(detector, 5.0)
    values = heavier[plain > 0].unique()
    assert float(values.max() / values.min()) == pytest.approx(5.0, rel=1e-5)


def test_heads_are_themselves_again():
    detector = build(small_detector(FASTER)).train()
    before = [dict(vars(head)) for head in (detector.rpn_head, detector.roi_head.bbox_head)]
    with ObjectWeighting(detector).applied([torch.zeros(0, 4)]):
        assert "_get_targets_single" in vars(detector.rpn_head)
        assert "get_targets" in vars(detector.roi_head.bbox_head)
    assert [dict(vars(head)) for head in (detector.rpn_head, detector.roi_head.bbox_head)] == before


@pytest.mark.parametrize(
    "config", ["mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "mmdet::paa/paa_r50_fpn_1x_coco.py"]
)
def test_other_heads_are_named_and_train_as_ever(config):
    detector = build(small_detector(config)).train()
    weighting = ObjectWeighting(detector)
    assert weighting.unsupported == [type(detector.bbox_head).__name__]
    inputs, samples = make_batch((3,), size=(160, 192))
    plain = detector.loss(inputs, copy.deepcopy(samples))
    with weighting.applied([samples[0].gt_instances.bboxes]):
        assert detector.loss(inputs, copy.deepcopy(samples)) == plain
    assert not ObjectWeighting(detector, factor=1.0).unsupported
