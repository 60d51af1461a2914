"""CoLearningAssignment: roles, losses, gradients, predictions, mistakes."""

import copy

from lad.assignment.paa import reassign
from lad.detectors.ensemble import merge
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.co_learning.paa import PAACoLearning, separation
from lad.exchange.switching import StdMeanSwitch
from lad.heads.batched_paa_head import BatchedPAAHead
from lad.methods import CoLearningAssignment

import pytest
import torch
from helpers import build, co_learning, fake_cuda, make_batch, small_detector, small_paa
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

SWITCH = dict(type="StdMeanSwitch", per="gt_level")
SMALL = small_paa(base=8)
BIG = small_paa(base=16)


def co_learn(networks=None, switch=SWITCH, seeds=(0, 1), **settings):
    networks = networks or dict(a=SMALL, b=BIG)
    model = MODELS.build(co_learning(networks, switch, **settings))
    for (name, config), seed in zip(networks.items(), seeds, strict=True):
        model.trained_networks[name].load_state_dict(build(config, seed).state_dict())
    return model.train()


def of(losses, name):
    """One network's losses, under the names of a plain detector."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in losses.items()
        if key.startswith(f"{name}.") and "loss" in key
    }


@pytest.mark.parametrize(
    ("switch", "per"),
    [("StdMeanSwitch", per) for per in ("batch", "image", "gt", "gt_level")]
    + [("FisherSwitch", per) for per in ("batch", "image", "gt")],
)
def test_two_copies_of_one_network_learn_what_it_learns_alone(switch, per):
    inputs, samples = make_batch((3, 0, 7))
    model = co_learn(dict(a=SMALL, b=SMALL), dict(type=switch, per=per), seeds=(0, 0))
    losses = model.loss(inputs, copy.deepcopy(samples))
    expected = build(SMALL).train().loss(inputs, samples)
    for name in ("a", "b"):
        assert list(of(losses, name)) == list(expected)
        for key, value in expected.items():
            torch.testing.assert_close(of(losses, name)[key], value, rtol=1e-6, atol=1e-6)


class Always(StdMeanSwitch):
    """The network of a given number teaches everything."""

    def __init__(self, number):
        super().__init__("batch")
        self.number = number

    def statistics(self, losses, membership, separations):
        statistics = super().statistics(losses, membership, separations)
        statistics.criterion.zero_()
        statistics.criterion[self.number] = 1
        return statistics


@pytest.mark.parametrize("number", [0, 1])
def test_who_always_teaches_learns_as_alone_and_the_other_as_its_lad_student(teacher_spec, number):
    inputs, samples = make_batch((3, 2, 7))
    configs, names = (SMALL, BIG), ("a", "b")
    model = co_learn()
    model.methods[0].switch = Always(number)
    # A frozen teacher's batch norm is in eval mode, one that learns too is not.
    evaluated = model.eval().loss(inputs, copy.deepcopy(samples))
    losses = model.train().loss(inputs, copy.deepcopy(samples))
    taught = 1 - number
    alone = build(configs[number], number).train().loss(inputs, copy.deepcopy(samples))
    student = MODELS.build(
        dict(
            type="DistillationDetector",
            student=configs[taught],
            teacher=teacher_spec(configs[number], seed=number),
            methods=[dict(type="LabelAssignmentDistillation")],
        )
    )
    student.student.load_state_dict(build(configs[taught], taught).state_dict())
    distilled = student.eval().loss(inputs, copy.deepcopy(samples))
    for key, value in alone.items():
        torch.testing.assert_close(of(losses, names[number])[key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of(evaluated, names[taught])[key], distilled[key], rtol=1e-5, atol=1e-6)
    assert losses[f"{names[number]}.share"] == 1
    assert losses[f"{names[taught]}.share"] == 0


def test_labels_come_from_the_losses_of_whoever_teaches_each_group(monkeypatch):
    """The losses that go into the assignment are one network's or the other's, as the roles say."""
    seen, roles = [], []
    head = BatchedPAAHead.reassign

    def watch(self, losses, candidates):
        seen.append(losses)
        return head(self, losses, candidates)

    call = StdMeanSwitch.__call__

    def remember(self, losses, membership, separations):
        roles.append((losses, call(self, losses, membership, separations)))
        return roles[-1][1]

    monkeypatch.setattr(BatchedPAAHead, "reassign", watch)
    monkeypatch.setattr(StdMeanSwitch, "__call__", remember)
    co_learn().loss(*make_batch((3, 0, 7)))
    (composed,) = seen
    ((losses, role),) = roles
    assert set(role.teacher.tolist()) == {0, 1}
    expected = torch.where(role.teacher == 0, losses[0], losses[1])
    assert torch.equal(composed, expected)


@pytest.mark.parametrize("name", ["a", "b"])
def test_gradients_of_a_network_come_from_its_own_losses_only(name):
    model = co_learn()
    losses = model.loss(*make_batch((3, 0, 7)))
    sum(of(losses, name).values()).backward()
    for other, network in model.trained_networks.items():
        gradients = [parameter.grad for parameter in network.parameters()]
        if other == name:
            assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        else:
            assert all(gradient is None for gradient in gradients)
    assert not any(value.requires_grad for key, value in losses.items() if "loss" not in key)


@pytest.mark.parametrize("switch", ["StdMeanSwitch", "FisherSwitch"])
@pytest.mark.parametrize("objects", [(0, 0), (0, 1), (1, 1), (40, 0)])
def test_images_without_objects_and_objects_with_few_candidates_train(switch, objects):
    model = co_learn(switch=dict(type=switch))
    losses = model.loss(*make_batch(objects))
    total = sum(value for key, value in losses.items() if "loss" in key)
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert ("a.share" in losses) == any(objects)
    if any(objects):
        assert losses["a.share"] + losses["b.share"] == pytest.approx(1)


def test_object_whose_candidates_are_too_few_for_a_mixture_has_no_positive():
    """One candidate on one level: the official code has no spread to compare and no mixture to fit."""
    inputs, samples = make_batch((1, 0), size=(96, 96))
    # Almost an anchor of the first level; every other anchor overlaps it by less than 0.9.
    samples[0].gt_instances.bboxes = torch.tensor([[8.1, 8.0, 72.0, 72.0]])
    model = co_learn()
    for network in model.trained_networks.values():
        network.bbox_head.assigner.pos_iou_thr = network.bbox_head.assigner.neg_iou_thr = 0.9
    candidates = []
    assign = BatchedPAAHead.reassign
    model.student.bbox_head.reassign = lambda losses, found: (
        candidates.append(found),
        assign(model.student.bbox_head, losses, found),
    )[1]
    losses = model.loss(inputs, samples)
    assert len(candidates[0]) == 1
    assert losses["a.loss_bbox"] == losses["b.loss_iou"] == 0
    assert all(value.isfinite() for value in losses.values())
    assert sorted([losses["a.share"].item(), losses["b.share"].item()]) == [0, 1]


def test_networks_normalised_differently_see_what_their_own_config_says():
    grey = copy.deepcopy(BIG)
    grey.data_preprocessor.update(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False)
    inputs, samples = make_batch((3, 4))
    model = co_learn(dict(a=SMALL, b=grey))
    model.methods[0].switch = Always(1)
    losses = model.loss(inputs, copy.deepcopy(samples))
    mean, std = (torch.tensor(SMALL.data_preprocessor[key]).view(3, 1, 1) for key in ("mean", "std"))
    raw = (inputs * std + mean).flip(1)
    expected = build(grey, 1).train().loss(raw, samples)
    for key, value in expected.items():
        torch.testing.assert_close(of(losses, "b")[key], value, rtol=1e-4, atol=1e-5)


def test_predicts_with_the_deployed_network():
    inputs, samples = make_batch((1, 1))
    for name, config, seed in (("a", SMALL, 0), ("b", BIG, 1)):
        model = co_learn(deploy=name).eval()
        expected = build(config, seed).eval().predict(inputs, copy.deepcopy(samples), rescale=False)
        found = model.predict(inputs, copy.deepcopy(samples), rescale=False)
        for own, wanted in zip(found, expected, strict=True):
            assert len(wanted.pred_instances) > 0
            assert torch.equal(own.pred_instances.bboxes, wanted.pred_instances.bboxes)
            assert torch.equal(own.pred_instances.scores, wanted.pred_instances.scores)


def test_first_network_is_deployed_by_default():
    assert co_learn().deploy == "a"


def test_ensemble_keeps_the_better_of_two_overlapping_detections_of_a_class():
    first = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]),
        scores=torch.tensor([0.6, 0.9]),
        labels=torch.tensor([0, 1]),
    )
    second = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 10, 11], [50, 50, 60, 60], [80, 80, 90, 90]]),
        scores=torch.tensor([0.8, 0.3, 0.1]),
        labels=torch.tensor([0, 2, 0]),
    )
    merged = merge([first, second], dict(type="nms", iou_threshold=0.6), max_per_img=3)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert merged.labels.tolist() == [1, 0, 2]
    assert merged.bboxes[1].tolist() == [0, 0, 10, 11]
    assert len(merge([first, second], dict(type="nms", iou_threshold=0.6), max_per_img=-1)) == 4


def test_ensemble_of_two_copies_predicts_what_one_predicts():
    inputs, samples = make_batch((1, 1))
    model = co_learn(dict(a=SMALL, b=SMALL), seeds=(0, 0), predict_with="ensemble").eval()
    found = model.predict(inputs, copy.deepcopy(samples), rescale=False)
    model.predict_with = None
    expected = model.predict(inputs, copy.deepcopy(samples), rescale=False)
    for own, wanted in zip(found, expected, strict=True):
        own, wanted = own.pred_instances, wanted.pred_instances
        assert 0 < len(own) <= len(wanted)
        assert torch.equal(own.bboxes[0], wanted.bboxes[wanted.scores.argmax()])
        # Score voting moved some boxes on to others after each network's own suppression: nothing else goes.
        assert {tuple(box) for box in own.bboxes.tolist()} <= {tuple(box) for box in wanted.bboxes.tolist()}


def test_network_state_is_a_plain_detectors():
    model = co_learn()
    for name, config, seed in (("a", SMALL, 0), ("b", BIG, 1)):
        plain = build(config, seed)
        state = model.network_state(model.state_dict(), name)
        assert list(state) == list(plain.state_dict())
        plain.load_state_dict(state, strict=True)


def test_three_networks_learn_together():
    model = co_learn(dict(a=SMALL, b=BIG, c=SMALL), seeds=(0, 1, 2))
    losses = model.loss(*make_batch((3, 5)))
    assert sum(losses[f"{name}.share"] for name in "abc") == pytest.approx(1)


def test_assignment_waits_for_the_device_once(monkeypatch):
    from lad.assignment import candidates

    model = co_learn()
    waits = []
    fetch = candidates.fetch
    monkeypatch.setattr(candidates, "fetch", lambda values: waits.append(1) or fetch(values))
    model.loss(*make_batch((3, 0, 7)))
    assert len(waits) == 1


@pytest.mark.parametrize("switch", ["StdMeanSwitch", "FisherSwitch"])
def test_loss_runs_on_cuda_tensors_without_data(monkeypatch, switch):
    """The one number that the host must know is given; anything else that waited would raise."""
    from lad.assignment import candidates

    inputs, samples = make_batch((2, 1))
    model = co_learn(switch=dict(type=switch))
    answers = []
    fetch = candidates.fetch
    monkeypatch.setattr(candidates, "fetch", lambda values: answers.append(fetch(values)) or answers[-1])
    model.loss(inputs, copy.deepcopy(samples))
    monkeypatch.setattr(candidates, "fetch", lambda values: answers[0])
    with fake_cuda() as mode:
        heads = [network.bbox_head.to("cuda") for network in model.trained_networks.values()]
        strides = [stride[0] for stride in heads[0].prior_generator.strides]
        levels = [(-(-96 // stride), -(-128 // stride)) for stride in strides]
        outputs = [
            tuple(
                [torch.rand(2, channels, *size, device="cuda", requires_grad=True) for size in levels]
                for channels in (3, 4, 1)
            )
            for _ in heads
        ]
        for sample in samples:
            instances = sample.gt_instances
            sample.gt_instances = InstanceData(
                bboxes=mode.from_tensor(instances.bboxes).to("cuda"),
                labels=mode.from_tensor(instances.labels).to("cuda"),
            )
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4, device="cuda"))
        losses, roles = PAACoLearning().losses(heads, outputs, samples, model.methods[0].switch)
        assert all(value.device.type == "cuda" for own in losses for value in own.values())
        assert roles.share.device.type == "cuda"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(networks=dict(a=SMALL)), "networks must name two trained networks"),
        (dict(networks={"my_loss": SMALL, "b": SMALL}), "cannot be called 'my_loss'"),
        (dict(networks={"a.b": SMALL, "b": SMALL}), "cannot be called 'a.b'"),
        (dict(networks={"a/b": SMALL, "b": SMALL}), "cannot be called 'a/b'"),
        (dict(networks={"keys": SMALL, "b": SMALL}), "cannot be called 'keys'"),
        (dict(deploy="bb"), "deploy='bb' is no network; nearest: b"),
        (dict(predict_with="b"), "predict_with='b': it is 'ensemble', or left out"),
    ],
)
def test_wrong_settings_are_answered_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(co_learning(**{"networks": dict(a=SMALL, b=SMALL), "switch": SWITCH} | settings))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dict(among=["a"]), r"among names two or more of them; got \['a'\] of a, b"),
        (dict(among=["a", "c"]), r"got \['a', 'c'\] of a, b"),
        (dict(among=["a", "a"]), r"got \['a', 'a'\] of a, b"),
        (dict(among="a"), r"got 'a' of a, b"),
        (dict(learner="a"), "it has among=.* and no learner"),
        (dict(taught_by="a"), "it has among=.* and no taught_by"),
    ],
)
def test_wrong_networks_of_the_method_are_answered_in_one_line(method, message):
    config = co_learning(dict(a=SMALL, b=SMALL), SWITCH)
    config["methods"][0] |= method
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config)


def test_two_of_three_networks_learn_together_and_the_third_alone():
    networks = dict(a=SMALL, b=BIG, c=SMALL)
    config = co_learning(networks, SWITCH)
    config["methods"][0]["among"] = ["c", "a"]
    model = MODELS.build(config)
    for seed, (name, network) in enumerate(model.trained_networks.items()):
        network.load_state_dict(build(networks[name], seed).state_dict())
    inputs, samples = make_batch((3, 5))
    losses = model.train().loss(inputs, copy.deepcopy(samples))
    alone = build(BIG, 1).train().loss(inputs, copy.deepcopy(samples))
    assert losses["a.share"] + losses["c.share"] == pytest.approx(1)
    assert "b.share" not in losses
    for key, value in alone.items():
        torch.testing.assert_close(of(losses, "b")[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("switch", "shown"),
    [("StdMeanSwitch", "'StdMeanSwitch'"), (None, "None"), (dict(type="MaxIoUAssigner"), "'MaxIoUAssigner'")],
    ids=str,
)
def test_what_is_no_switch_is_refused(switch, shown):
    if isinstance(switch, dict):
        switch = dict(switch, pos_iou_thr=0.5, neg_iou_thr=0.4)
    with pytest.raises(ConfigError, match=f"switch must be like dict.type='StdMeanSwitch'., got {shown}"):
        CoLearningAssignment(switch)


@pytest.mark.parametrize(
    ("predict_with", "shown"),
    [
        (None, "networks=dict(a=..., b=...), deploy='a', methods="),
        ("b", "networks=dict(a=..., b=...), deploy='b', methods="),
        ("ensemble", "networks=dict(a=..., b=...), deploy='a', predict_with='ensemble', methods="),
    ],
)
def test_config_of_the_former_detector_is_answered_by_the_new_one(predict_with, shown):
    old = dict(type="CoLearningDetector", networks=dict(a=SMALL, b=BIG), switch=SWITCH)
    if predict_with:
        old["predict_with"] = predict_with
    with pytest.raises(ConfigError) as refused:
        MODELS.build(old)
    message = str(refused.value)
    assert shown in message
    assert "dict(type='CoLearningAssignment', switch=" in message
    assert "\n" not in message


@pytest.mark.parametrize("deploy", ["a", "b"])
def test_checkpoint_of_the_former_detector_loads(deploy):
    wanted = co_learn(deploy=deploy, seeds=(2, 3))
    old = {
        f"networks.{name}.{key}": value
        for name, network in wanted.trained_networks.items()
        for key, value in network.state_dict().items()
    }
    model = co_learn(deploy=deploy)
    assert model.load_state_dict(old, strict=True)
    for key, value in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def changed(**bbox_head):
    config = copy.deepcopy(SMALL)
    config.bbox_head = ConfigDict(ConfigDict(config.bbox_head) | bbox_head)
    return config


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed(num_classes=4), r"bbox_head.num_classes is 3 in one network and 4 in another"),
        (changed(topk=5), r"bbox_head.topk is 9 in one network and 5 in another"),
        (small_paa("PAAHead"), r"b: PAA \(PAAHead\).*works with BatchedPAAHead"),
        (small_detector("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"), r"b: RetinaNet \(RetinaHead\)"),
    ],
)
def test_networks_that_cannot_share_labels_are_refused_by_name(other, message):
    with pytest.raises(UnsupportedError, match=message):
        co_learn(dict(a=SMALL, b=other))


def test_fisher_score_is_of_the_networks_own_mixtures():
    losses = torch.tensor([0.1, 5.0, 0.2, 5.2, 9.0, 0.15, 5.1, 3.0])
    gt, level = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]), torch.zeros(8, dtype=torch.long)
    assignment = reassign(losses, gt, level, num_gts=3, num_levels=1, topk=6)
    found = separation(assignment)
    # topk leaves out 9.0; the second object has one candidate and the third none.
    assert found.mean[0].tolist() == pytest.approx([0.15, 5.1], abs=1e-3)
    assert found.variance[0].tolist() == pytest.approx([0.05**2 * 2 / 3, 0.1**2 * 2 / 3], rel=1e-2)
    assert found.defined.tolist() == [True, False, False]
    assert torch.equal(found.mean, assignment.mixture.means)
    assert torch.equal(found.variance, assignment.mixture.variances)
