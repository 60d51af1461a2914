"""Co-learning of heads with image-wise assigners: TOOD, RTMDet, YOLOX."""

import copy

from lad.errors import UnsupportedError
from lad.exchange.co_learning.assigner import Matching, compose
from lad.exchange.switching import StdMeanSwitch

import pytest
import torch
from helpers import build, co_learning, make_batch, small_paa
from mmdet.models.task_modules import AssignResult
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from seam_detectors import decisions, distil, loss_of, set_epoch, small

FAMILIES = ["tood", "rtmdet", "yolox"]


@pytest.fixture(autouse=True)
def _after_toods_initial_epoch():
    set_epoch(1)


def co_learn(networks, per="gt_level", seeds=(0, 10), switch="StdMeanSwitch"):
    model = MODELS.build(co_learning(networks, dict(type=switch, per=per)))
    for (name, config), seed in zip(networks.items(), seeds, strict=True):
        model.trained_networks[name].load_state_dict(build(config, seed).state_dict())
    # Batch norm as at test time, heads as in training: networks with equal weights are equal.
    model.eval()
    for network in model.trained_networks.values():
        network.training = network.bbox_head.training = True
    return model


def of(losses, name):
    own = {key.removeprefix(f"{name}."): value for key, value in losses.items() if key.startswith(f"{name}.")}
    return {
        key: sum(value) if isinstance(value, list | tuple) else value
        for key, value in own.items()
        if "loss" in key
    }


def record_roles(monkeypatch):
    """A list that receives what each call of a switch was given and returned, image by image."""
    recorded = []
    call = StdMeanSwitch.__call__

    def record(self, losses, membership, separations):
        recorded.append((membership, call(self, losses, membership, separations)))
        return recorded[-1][1]

    monkeypatch.setattr(StdMeanSwitch, "__call__", record)
    return recorded


class Always(StdMeanSwitch):
    """The network of a given number teaches everything."""

    def __init__(self, number):
        super().__init__("image")
        self.number = number

    def statistics(self, losses, membership, separations):
        statistics = super().statistics(losses, membership, separations)
        statistics.criterion.zero_()
        statistics.criterion[self.number] = 1
        statistics.count.fill_(2)
        return statistics


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("switch", "per"), [("StdMeanSwitch", "gt_level"), ("FisherSwitch", "gt")])
def test_two_copies_of_one_network_learn_what_it_learns_alone(family, switch, per):
    config = small(family)
    batch = make_batch((3, 0, 7))
    model = co_learn(dict(a=config, b=config), per, seeds=(0, 0), switch=switch)
    losses = model.loss(batch[0], copy.deepcopy(batch[1]))
    alone = build(config, 0).eval()
    alone.training = alone.bbox_head.training = True
    for key, value in loss_of(alone, batch).items():
        for name in ("a", "b"):
            torch.testing.assert_close(of(losses, name)[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_who_always_teaches_learns_as_alone_and_the_other_as_its_lad_student(family, tmp_path):
    small_one, big_one = small(family), small(family, base=16)
    batch = make_batch((3, 2, 7))
    model = co_learn(dict(a=small_one, b=big_one))
    model.methods[0].switch = Always(1)
    losses = model.loss(batch[0], copy.deepcopy(batch[1]))
    teacher = build(big_one, 10).eval()
    teacher.training = teacher.bbox_head.training = True
    distilled = loss_of(distil(small_one, big_one, tmp_path), batch)
    for key, value in loss_of(teacher, batch).items():
        torch.testing.assert_close(of(losses, "b")[key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of(losses, "a")[key], distilled[key], rtol=1e-5, atol=1e-6)
    assert losses["b.share"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_match_of_an_object_comes_from_the_network_that_teaches_it(family, monkeypatch):
    configs = dict(a=small(family), b=small(family, base=16))
    batch = make_batch((4, 6))
    taught = record_roles(monkeypatch)
    model = co_learn(configs, per="gt")
    both = {}
    for name in configs:  # what each head learned from
        model.bbox_head = model.trained_networks[name].bbox_head
        both[name] = decisions(model, batch)
    alone = {}
    for (name, config), seed in zip(configs.items(), (0, 10), strict=True):
        single = build(config, seed).eval()
        single.training = single.bbox_head.training = True
        alone[name] = decisions(single, batch)
    shares = set()
    for image, (membership, roles) in enumerate(taught[:2]):
        teacher = dict(zip(membership.gt.tolist(), roles.teacher.tolist(), strict=True))
        shares |= set(teacher.values())
        found = both["a"][image].gt_inds
        assert torch.equal(found, both["b"][image].gt_inds)
        own = [alone[name][image].gt_inds for name in configs]
        for prior, gt in enumerate(found.tolist()):
            if gt > 0:
                assert own[teacher.get(gt - 1, 0)][prior] == gt
        for gt in range(membership.num_gts):
            wanted = own[teacher.get(gt, 0)] == gt + 1
            lost = wanted & (found != gt + 1)
            assert (found[lost] > 0).all()  # only to another object
    assert shares == {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_qualities_are_each_networks_own(family):
    """IoU targets follow the boxes of the head that learns, not of the one that teaches."""
    model = co_learn(dict(a=small(family), b=small(family, base=16)))
    batch = make_batch((4, 6))
    found = {}
    for name in ("a", "b"):
        model.bbox_head = model.trained_networks[name].bbox_head
        found[name] = decisions(model, batch)
    for first, second in zip(found["a"], found["b"], strict=True):
        positive = first.gt_inds > 0
        assert positive.any()
        assert torch.equal(first.gt_inds, second.gt_inds)
        assert not torch.allclose(first.max_overlaps[positive], second.max_overlaps[positive])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objects", [(0, 0), (0, 2), (5, 3)])
def test_gradients_reach_every_parameter_and_images_without_objects_train(family, objects, monkeypatch):
    roles = record_roles(monkeypatch)
    model = co_learn(dict(a=small(family), b=small(family, base=16)))
    losses = model.loss(*make_batch(objects))
    total = sum(
        sum(value) if isinstance(value, list | tuple) else value
        for key, value in losses.items()
        if "loss" in key
    )
    total.backward()
    if any(objects):
        # Averages over images, weighted by their objects.
        for number, name in enumerate("ab"):
            for key in ("share", "mean", "std", "criterion"):
                values = [getattr(own, key)[number] * membership.num_gts for membership, own in roles]
                assert losses[f"{name}.{key}"] == pytest.approx(float(sum(values)) / sum(objects))
        assert losses["a.share"] + losses["b.share"] == pytest.approx(1)
    else:
        assert "a.share" not in losses
    alone = [build(config, 0) for config in (small(family), small(family, base=16))]
    for network, plain in zip(model.trained_networks.values(), alone, strict=True):
        loss = plain.train().loss(*make_batch(objects))
        sum(sum(v) if isinstance(v, list | tuple) else v for k, v in loss.items() if "loss" in k).backward()
        without = {name for name, parameter in plain.named_parameters() if parameter.grad is None}
        assert {name for name, parameter in network.named_parameters() if parameter.grad is None} == without


def test_tood_before_its_initial_epoch_has_no_roles():
    set_epoch(0)
    model = co_learn(dict(a=small("tood"), b=small("tood", base=16)))
    losses = model.loss(*make_batch((3, 1)))
    assert "a.share" not in losses
    set_epoch(1)
    assert "a.share" in model.loss(*make_batch((3, 1)))


def test_ensemble_of_yoloxs_keeps_all_that_is_not_suppressed():
    """YOLOX's test_cfg names no largest number of detections."""
    model = co_learn(dict(a=small("yolox"), b=small("yolox", base=16)))
    model.predict_with = "ensemble"
    inputs, samples = make_batch((1, 1))
    found = model.eval().predict(inputs, samples, rescale=False)
    test_cfg = small("yolox").test_cfg
    for sample in found:
        own = sample.pred_instances
        overlaps = bbox_overlaps(own.bboxes, own.bboxes).fill_diagonal_(0)
        same_class = own.labels[:, None] == own.labels
        assert len(own) > 10
        assert (overlaps[same_class] <= test_cfg.nms.iou_threshold + 1e-6).all()
        assert (own.scores > test_cfg.score_thr).all()


def matching(gt_inds, costs, overlaps):
    gt_inds = torch.tensor(gt_inds)
    result = AssignResult(
        2, gt_inds, torch.tensor(overlaps), labels=torch.where(gt_inds > 0, gt_inds + 4, -1)
    )
    return Matching(result, torch.tensor(costs))


def test_matches_are_composed_by_hand():
    """Two objects on two levels (priors 0 to 2, and 3). Network 1 teaches object 1 on level 0, network 0 the rest.

    Prior 0: both say object 1, and network 1 teaches it. Prior 1: network 0 says object 1, which it does not teach
    here, network 1 nothing: background. Prior 2: network 0 says object 2 for 0.5, network 1 object 1 for 0.2: cheaper.
    Prior 3: network 0 says object 1, which it teaches there.
    """
    inf = float("inf")
    first = matching([1, 1, 2, 1], [[0.1, inf], [0.3, inf], [inf, 0.5], [0.7, inf]], [0.9, 0.8, 0.7, 0.6])
    second = matching([1, 0, 1, 0], [[0.4, inf], [inf, inf], [0.2, inf], [inf, inf]], [0.5, 0.0, 0.4, 0.0])
    teacher = torch.tensor([[1, 0], [0, 0]])
    composed = compose([first, second], teacher, torch.tensor([0, 0, 0, 1]))
    assert composed.gt_inds.tolist() == [1, 0, 1, 1]
    assert composed.labels.tolist() == [5, -1, 5, 5]
    assert composed.max_overlaps[[0, 2, 3]].tolist() == pytest.approx([0.5, 0.4, 0.6])
    assert first.result.gt_inds.tolist() == [1, 1, 2, 1]  # untouched


def test_heads_of_two_kinds_and_decisions_by_batch_are_refused():
    with pytest.raises(UnsupportedError, match="YOLOXHead and RTMDetSepBNHead decide labels differently"):
        co_learn(dict(a=small("yolox"), b=small("rtmdet")))
    with pytest.raises(UnsupportedError, match="per='batch' cannot be decided; use per='image'"):
        co_learn(dict(a=small("tood"), b=small("tood")), per="batch")
    other = small("tood")
    other.train_cfg.assigner.topk = 1
    with pytest.raises(UnsupportedError, match=r"train_cfg.assigner is .* in one network and"):
        co_learn(dict(a=small("tood"), b=other))
    with pytest.raises(UnsupportedError, match=r"a: DDOD \(DDODHead\).*works with .*TOODHead"):
        co_learn(dict(a=small("ddod"), b=small("ddod")))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bad", ["a", "b"])
def test_network_whose_predictions_are_nan_stops_with_the_images_name(family, bad):
    config = small(family)
    model = co_learn(dict(a=config, b=config))
    head = model.trained_networks[bad].bbox_head

    def spoil(head, args, outputs):
        outputs[0][0].data.fill_(torch.nan)

    head.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"predictions for image .* are NaN or infinite"):
        model.loss(*make_batch((3, 0, 7)))


@pytest.mark.parametrize("family", ["tood", "paa"])
@pytest.mark.parametrize("finer", ["a", "b"])
def test_feature_maps_of_other_sizes_are_named(family, finer):
    configs = {name: small_paa() if family == "paa" else small(family) for name in "ab"}
    configs[finer].backbone.strides = (1, 1, 2, 2)
    model = MODELS.build(co_learning(configs, dict(type="StdMeanSwitch"))).train()
    sizes = ("24x32", "12x16")[:: 1 if finer == "a" else -1]
    with pytest.raises(
        UnsupportedError, match=rf"a has feature maps of {sizes[0]}, .* and b of {sizes[1]}, "
    ):
        model.loss(*make_batch((3, 0, 7)))
