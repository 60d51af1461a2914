"""Networks with roles: trained and deployed ones, peers, snapshots and exits of one DistillationDetector."""

import copy

from lad.base.progress import Progress
from lad.detectors.inspection import (
    adapter_parameters,
    bound_methods,
    deployed_network,
    exits_of,
    frozen_teachers,
    trained_networks,
)
from lad.detectors.state import inside_name, outside_name
from lad.engine.randomness import seed_step
from lad.errors import ConfigError, UnsupportedError
from lad.networks.exits import Exit
from lad.networks.snapshot import Snapshot

import pytest
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from helpers import at, build, make_batch, save_checkpoint, small_paa
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from two_stage_detectors import two_stage

LOGITS = dict(type="DenseLogitDistillation")
EARLY = dict(student=dict(early=dict(levels=[1])))


def distil(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(dict(type="DistillationDetector", **settings)))
        model.init_weights()
    return model


def retina(**settings):
    return dense("retinanet", **settings)


def wide():
    """A RetinaNet with the same priors, another backbone, group norm, and images in RGB from 0 to 1."""
    config = retina()
    config.backbone.update(base_channels=16, norm_cfg=dict(type="GN", num_groups=4))
    config.neck.in_channels = [16, 32, 64, 128]
    config.data_preprocessor.update(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False)
    return config


def padded(divisor):
    """A RetinaNet whose images are padded to multiples of a number."""
    config = retina()
    config.data_preprocessor.pad_size_divisor = divisor
    return config


def exit_with(**settings):
    """A RetinaNet with an exit of these settings."""
    return dict(student=retina(), exits=dict(student=dict(early=dict(levels=[1], **settings))))


def together(*methods, **settings):
    return distil(networks=dict(a=retina(), b=wide()), methods=methods, **settings)


# -- Every network's own loss -----------------------------------------------------------------------------------------


def other_backbone():
    """A Faster R-CNN with a wider ResNet, group norm, and images in RGB from 0 to 1."""
    config = two_stage("faster", base=16)
    config.backbone.norm_cfg = dict(type="GN", num_groups=4)
    config.data_preprocessor.update(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True)
    return config


def steps(model, count=20, loss=None):
    """Losses of some training steps, each from the random state of its place, on images of its own."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for number in range(count):
        images, samples = make_batch((2, 3), (64, 96), seed=number)
        pixels = [(image * 40 + 128).clamp(0, 255).byte() for image in images]
        data = model.data_preprocessor(dict(inputs=pixels, data_samples=samples), training=True)
        seed_step(0, number)
        losses = model.loss(data["inputs"], data["data_samples"])
        total, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        yield {name: value.item() for name, value in logged.items() if "loss" in name}


@pytest.mark.parametrize("deploy", ["a", "b"])
def test_with_all_weights_zero_every_network_trains_as_it_does_alone(deploy):
    """Their samplers draw; backbones, norms and the normalisation of images differ."""
    configs = dict(a=two_stage("faster"), b=other_backbone())
    nothing = dict(type="KDLoss", loss_weight=0.0)
    methods = [
        dict(type="RoILogitDistillation", learner="a", taught_by="b", loss=nothing),
        dict(type="RoILogitDistillation", learner="b", taught_by="a", loss=nothing),
        dict(type="HintDistillation", learner="b", taught_by="a", gamma=0.0),
    ]
    model = distil(networks=configs, deploy=deploy, methods=methods).train()
    plain = {name: MODELS.build(copy.deepcopy(config)).train() for name, config in configs.items()}
    for name, network in plain.items():
        network.load_state_dict(model.trained_networks[name].state_dict())
    alone = {name: steps(network) for name, network in plain.items()}
    for number, losses in enumerate(steps(model)):
        for name in configs:
            for key, value in next(alone[name]).items():
                if key != "loss":
                    assert losses[f"{name}.{key}"] == pytest.approx(value, rel=1e-6, abs=1e-6), (
                        number,
                        name,
                        key,
                    )


def test_a_network_beside_another_draws_the_same_numbers_as_alone():
    student = two_stage("faster")
    inputs, samples = make_batch((2, 3), (64, 96))
    plain = MODELS.build(copy.deepcopy(student)).train()
    model = distil(networks=dict(a=student, b=two_stage("faster"))).train()
    plain.load_state_dict(model.student.state_dict())
    torch.manual_seed(3)
    expected = plain.loss(inputs, copy.deepcopy(samples))
    torch.manual_seed(3)
    losses = model.loss(inputs, copy.deepcopy(samples))
    for key, value in expected.items():
        torch.testing.assert_close(losses[f"a.{key}"], value, rtol=0, atol=0)


# -- State ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deploy", ["a", "b"])
def test_state_of_the_deployed_network_is_plain_and_the_others_are_under_distillation(deploy):
    model = together(dict(LOGITS, learner="b", taught_by="a"), deploy=deploy, exits=dict(a=EARLY["student"]))
    other = {"a": "b", "b": "a"}[deploy]
    state = model.state_dict()
    plain = {key for key in state if not key.startswith("distillation.")}
    assert plain == set(model.trained_networks[deploy].state_dict())
    under = {key.split(".")[1] for key in state if key.startswith("distillation.")}
    assert under == {"networks", "exits"}
    assert set(model.network_state(state, other)) == set(model.trained_networks[other].state_dict())
    assert {name for name, _ in model.named_parameters()} <= set(state)


@pytest.mark.parametrize("deploy", ["a", "b"])
def test_state_of_every_network_exit_and_snapshot_comes_back(deploy):
    settings = dict(deploy=deploy, exits=dict(b=EARLY["student"]), teachers=dict(then=dict(snapshot_of="b")))
    models = [
        distil(
            seed,
            networks=dict(a=retina(), b=retina()),
            methods=[dict(LOGITS, learner="a", taught_by="then")],
            **settings,
        )
        for seed in (0, 1)
    ]
    models[0].loss(*make_batch((1, 2)))  # takes the snapshot
    state = copy.deepcopy(models[0].state_dict())
    assert any(key.startswith("distillation.snapshots.then.") for key in state)
    models[1].load_state_dict(state, strict=True)
    for key, value in models[1].state_dict().items():
        assert torch.equal(value, state[key]), key
    taken = models[1].teachers["then"].model.state_dict()
    assert all(
        torch.equal(value, taken[key]) for key, value in models[0].teachers["then"].model.state_dict().items()
    )


def test_plain_checkpoint_of_the_deployed_network_loads_and_leaves_the_others():
    model = together(deploy="b")
    before = copy.deepcopy(model.trained_networks["a"].state_dict())
    plain = build(wide(), 5)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("peers.") for key in missing)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.student.state_dict()[key], value)
    assert all(
        torch.equal(value, before[key]) for key, value in model.trained_networks["a"].state_dict().items()
    )


NAMES = st.text("ab_.", min_size=1, max_size=8).filter(
    lambda name: ".." not in name and name.strip(".") == name
)


@given(NAMES, st.sampled_from(["student.", "peers.b.", "exits.a.early.", "distillation.Method."]))
def test_names_outside_lead_back_inside(name, prefix):
    assert inside_name(outside_name(prefix + name)) == prefix + name


def test_average_of_several_networks_is_of_all_and_shares_teachers():
    model = together(dict(LOGITS, learner="a", taught_by="then"), teachers=dict(then=dict(snapshot_of="a")))
    average = ExponentialMovingAverage(model, momentum=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)  # the first one copies
    average.update_parameters(model)
    twin = average.module
    assert set(twin.trained_networks) == {"a", "b"}
    assert twin.trained_networks["b"] is not model.trained_networks["b"]
    assert twin.teachers["then"].model is model.teachers["then"].model
    assert all(
        torch.allclose(own, other) for own, other in zip(twin.parameters(), model.parameters(), strict=True)
    )
    # Methods of the copy are bound to the copy's networks.
    assert twin.learners["a"] is twin.student


# -- Peers ------------------------------------------------------------------------------------------------------------


def test_peer_is_computed_once_and_its_outputs_are_those_of_its_own_loss():
    model = together(dict(LOGITS, learner="a", taught_by="b")).train()
    calls = []
    model.trained_networks["b"].backbone.register_forward_hook(lambda *_: calls.append(1))
    (one,) = model.bound.values()
    seen = {}
    losses = one.method.losses
    one.method.losses = lambda step: seen.update(step=step) or losses(step)
    inputs, samples = make_batch((2, 3))
    torch.manual_seed(0)
    model.loss(inputs, copy.deepcopy(samples))
    assert len(calls) == 1
    taught = seen["step"].teacher.target("bbox_head")[0]
    assert not any(level.requires_grad for levels in taught for level in levels)
    expected = model.trained_networks["b"].train()(model.network_inputs("b", inputs, samples), mode="tensor")
    for own, wanted in zip(taught[0], expected[0], strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


def test_a_teachers_tower_that_a_student_passes_through_is_trained_by_its_own_loss_alone():
    """CrossKD with a peer: the gradient passes through the peer's head and not into it."""
    networks = dict(a=retina(stacked_convs=2), b=retina(stacked_convs=2))
    model = distil(
        networks=networks, methods=[dict(type="CrossHeadDistillation", learner="a", taught_by="b")]
    )
    model.train()
    losses = model.loss(*make_batch((2, 3)))
    sum(value for name, value in losses.items() if "cross" in name).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("bbox_head.cls_convs.0") for name in gradients)
    assert not any(name.startswith("distillation.networks.b.") for name in gradients)
    assert all(p.requires_grad for p in model.trained_networks["b"].bbox_head.parameters())


def test_label_assignment_of_a_peer_is_that_of_a_frozen_teacher_of_its_weights(tmp_path):
    """The taught network comes first in the config, and is computed last."""
    configs = dict(a=small_paa(), b=small_paa(base=16))
    method = dict(type="LabelAssignmentDistillation")
    model = distil(networks=configs, methods=[dict(method, learner="a", taught_by="b")]).eval()
    for network in model.trained_networks.values():  # batch norm as in a frozen teacher
        network.training = network.bbox_head.training = True
    path = save_checkpoint(model.trained_networks["b"], tmp_path / "b.pth")
    frozen = distil(
        student=configs["a"], teacher=dict(configs["b"], checkpoint=path), methods=[method]
    ).eval()
    frozen.student.load_state_dict(model.student.state_dict())
    frozen.student.training = frozen.student.bbox_head.training = True
    inputs, samples = make_batch((3, 5))
    losses = model.loss(inputs, copy.deepcopy(samples))
    expected = frozen.loss(inputs, copy.deepcopy(samples))
    alone = model.student.loss(inputs, copy.deepcopy(samples))
    for key, value in expected.items():
        torch.testing.assert_close(losses[f"a.{key}"], value, rtol=0, atol=0)
    assert any(not torch.equal(alone[key], value) for key, value in expected.items())


# -- Several observers ------------------------------------------------------------------------------------------------


def test_two_teachers_each_with_its_own_logit_distillation_add_up(tmp_path):
    """It was refused: the methods observe the student's labels, and change nothing."""
    paths = [save_checkpoint(build(retina(), seed), tmp_path / f"{seed}.pth") for seed in (1, 2)]
    teachers = {name: dict(retina(), checkpoint=path) for name, path in zip("xy", paths, strict=True)}
    inputs, samples = make_batch((2, 3))
    both = distil(
        student=retina(), teachers=teachers, methods=[dict(LOGITS, taught_by=n) for n in "xy"]
    ).eval()
    losses = both.loss(inputs, copy.deepcopy(samples))
    for name in "xy":
        one = distil(student=retina(), teacher=teachers[name], methods=[LOGITS]).eval()
        one.student.load_state_dict(both.student.state_dict())
        expected = one.loss(inputs, copy.deepcopy(samples))
        torch.testing.assert_close(losses[f"{name}.loss_kd"], expected["loss_kd"], rtol=0, atol=0)
        assert torch.equal(losses["loss_cls"][0], expected["loss_cls"][0])


# -- Snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "places", "taken"),
    [
        ("start", [(0, 0), (1, 0), (2, 1)], [0, 0, 0]),
        ("epoch", [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)], [0, 0, 2, 2, 4]),
    ],
)
def test_snapshot_is_taken_when_it_says(when, places, taken):
    """The network's weights are the number of the step; the snapshot's tell when it was taken."""
    teachers = dict(before=dict(snapshot_of="student", at=when))
    model = distil(student=retina(), teachers=teachers, methods=[LOGITS])
    for (iteration, epoch), expected in zip(places, taken, strict=True):
        model.student.bbox_head.retina_cls.bias.data.fill_(float(iteration))
        at(model, iteration, epoch)
        model.loss(*make_batch((1, 1)))
        assert model.teachers["before"].model.bbox_head.retina_cls.bias[0] == expected


def test_snapshot_of_an_earlier_run_is_taken_anew_at_the_first_step():
    """``load_from`` brings another run's snapshot along; a resumed run keeps its own."""
    teachers = dict(before=dict(snapshot_of="student", at="start"))
    first, second = (distil(seed, student=retina(), teachers=teachers, methods=[LOGITS]) for seed in (0, 1))
    at(first, 0)
    first.loss(*make_batch((1, 1)))
    for place, is_kept in ((5, True), (0, False)):
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second.student.bbox_head.retina_cls.bias.data.fill_(7.0)
        at(second, place)
        second.loss(*make_batch((1, 1)))
        assert (second.teachers["before"].model.bbox_head.retina_cls.bias[0] != 7.0) == is_kept


def test_snapshot_of_another_number_of_classes_is_left_out():
    teachers = dict(before=dict(snapshot_of="student", at="start"))
    settings = dict(teachers=teachers, methods=[dict(type="FeatureDistillation")])
    first = distil(student=retina(), **settings)
    at(first, 0)
    first.loss(*make_batch((1, 1)))
    state = {key: value for key, value in first.state_dict().items() if "snapshots" in key}
    other = distil(student=retina(num_classes=5), **settings)
    other.load_state_dict(state, strict=False)
    assert other.teachers["before"].taken_in_epoch is None


def test_ensemble_with_a_two_stage_detector_first_merges_by_its_last_suppression():
    model = distil(networks=dict(a=two_stage("faster"), b=retina()), predict_with="ensemble").eval()
    found = model.predict(*make_batch((1, 1)))
    most = model.student.test_cfg.rcnn.max_per_img
    assert all(len(sample.pred_instances) <= most for sample in found)


def test_snapshot_taken_in_this_step_teaches_nothing_new():
    model = distil(student=retina(), teachers=dict(now=dict(snapshot_of="student")), methods=[LOGITS]).eval()
    assert model.loss(*make_batch((2, 3)))["loss_kd"].item() == pytest.approx(0, abs=1e-6)


def test_snapshot_is_hidden_and_follows_the_detector():
    model = distil(student=retina(), teachers=dict(before=dict(snapshot_of="student")), methods=[LOGITS])
    inside = {id(p) for p in model.parameters()}
    assert not any(id(p) in inside for p in model.teachers["before"].model.parameters())
    assert not any(p.requires_grad for p in model.teachers["before"].model.parameters())
    model.double()
    assert {p.dtype for p in model.teachers["before"].model.parameters()} == {torch.float64}


# -- Exits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "levels"), [("retinanet", [1]), ("fcos", [1, 2]), ("paa", [1, 2, 3]), ("gfl", [1])]
)
def test_exit_has_the_priors_of_its_network_and_a_head_of_one_convolution(family, levels):
    config = dense(family)
    config.bbox_head.stacked_convs = 3
    model = distil(student=config, exits=dict(student=dict(early=dict(levels=levels))))
    exit_ = model.learners["student.early"]
    assert isinstance(exit_, Exit)
    assert [len(exit_.bbox_head.cls_convs), len(model.student.bbox_head.cls_convs)] == [1, 3]
    inputs = torch.zeros(2, 3, 96, 128)
    own, parents = (each.bbox_head(each.extract_feat(inputs))[0] for each in (exit_, model.student))
    assert [level.shape for level in own] == [level.shape for level in parents]


def test_exit_shares_the_backbones_pass_and_learns_the_labels_of_the_batch():
    model = distil(student=retina(), exits=EARLY).train()
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append(1))
    inputs, samples = make_batch((2, 3))
    losses = model.loss(inputs, copy.deepcopy(samples))
    assert len(calls) == 1
    alone = model.learners["student.early"].loss(inputs, copy.deepcopy(samples))
    assert set(losses) == {"loss_cls", "loss_bbox", "early.loss_cls", "early.loss_bbox"}
    for key in ("loss_cls", "loss_bbox"):
        for own, expected in zip(losses[f"early.{key}"], alone[key], strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def test_building_and_evaluating_an_exit_leaves_the_statistics_of_its_networks_batch_norms():
    """An exit's eval() does not reach the backbone, which it does not own."""
    plain = MODELS.build(retina())
    model = distil(
        student=retina(), exits=EARLY, methods=[dict(LOGITS, learner="student.early", taught_by="student")]
    )
    statistics = [name for name, _ in plain.named_buffers() if "running" in name]
    assert statistics
    model.train()
    flags = [module.training for module in model.modules()]
    exit_ = model.learners["student.early"].eval()
    exit_.predict(*make_batch((2, 3)), rescale=False)
    for name in statistics:
        assert torch.equal(model.student.get_buffer(name), plain.get_buffer(name)), name
    exit_.train()
    assert [module.training for module in model.modules()] == flags


def test_exits_parameters_are_not_the_backbones_and_are_dropped_at_deployment():
    model = distil(student=retina(), exits=EARLY)
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if not name.startswith("distillation.")} == {
        name for name, _ in model.student.named_parameters()
    }
    exits = {name for name in names if name.startswith("distillation.exits.student.early.")}
    assert {name.split(".")[4] for name in exits} == {"neck", "bbox_head"}


# -- What hooks and reports see ---------------------------------------------------------------------------------------


def test_any_detector_tells_its_networks_teachers_and_methods():
    plain = build(retina())
    assert trained_networks(plain) == {"": plain}
    assert (frozen_teachers(plain), bound_methods(plain)) == ({}, {})
    assert deployed_network(plain) is plain
    model = together(
        dict(LOGITS, learner="a", taught_by="then"), teachers=dict(then=dict(snapshot_of="b")), deploy="b"
    )
    assert list(trained_networks(model)) == ["a", "b"]
    assert deployed_network(model) is trained_networks(model)["b"]
    assert isinstance(frozen_teachers(model)["then"], Snapshot)
    assert [one.learner for one in bound_methods(model).values()] == ["a"]


def test_adapters_are_the_methods_and_exits_are_by_network():
    feature = dict(type="HintDistillation", learner="a", taught_by="b")
    model = together(feature, exits=dict(b=EARLY["student"]))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    adapters = {names[id(parameter)] for parameter in adapter_parameters(model)}
    assert adapters == {name for name in names.values() if name.startswith("distillation.HintD")}
    assert adapters
    assert exits_of(model) == {"b.early": model.exits["b"]["early"]}
    plain = build(retina())
    assert (adapter_parameters(plain), exits_of(plain)) == ([], {})


def test_progress_outside_of_a_run_is_its_beginning_and_has_no_length():
    assert Progress().fraction == 0
    assert Progress(iteration=30, max_iters=120).fraction == 0.25


# -- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(student=retina(), networks=dict(a=retina(), b=retina())), "networks=dict.*; got both"),
        (dict(), "needs student=CONFIG.*; got neither"),
        (dict(student=retina()), "needs a teacher=dict.*; got neither"),
        (dict(student=retina(), deploy="x", exits=EARLY), "deploy='x': there is only the student"),
        (dict(networks=dict(a=retina(), b=retina()), deploy="c"), "deploy='c' is no network"),
        (
            dict(networks=dict(a=retina(), b=retina()), teachers=dict(a=dict(snapshot_of="a"))),
            "'a' is a trained network",
        ),
        (
            dict(student=retina(), teachers=dict(t=dict(snapshot_of="stud"))),
            "no trained network 'stud'; nearest: student",
        ),
        (
            dict(student=retina(), teachers=dict(t=dict(snapshot_of="student", at="noon"))),
            "at='start' or 'epoch'",
        ),
        (
            dict(student=retina(), teachers=dict(t=dict(snapshot_of="student", checkpoint="x"))),
            "a snapshot is dict",
        ),
        (dict(student=retina(), exits=dict(b=dict(early=dict(levels=[1])))), "no trained network 'b'"),
        (
            dict(student=retina(), exits=dict(student=dict(early=dict(level=1)))),
            "exit student.early: an exit is dict",
        ),
        (
            dict(student=retina(), exits=dict(student=dict(early=dict(levels=[7])))),
            "4 output maps, 0 to 3, got",
        ),
        (dict(student=retina(), exits=dict(student=dict(early=dict(levels=1)))), "levels must be a list"),
        (dict(student=retina(), exits=3), "exits must be like"),
        (
            dict(student=retina(), exits=dict(student=dict(early=dict(levels=[0])))),
            r"strides \[4\] .* levels=\[1\]",
        ),
        (
            dict(student=retina(), exits=dict(student=dict(early=dict(levels=[2])))),
            r"strides \[16\] .* levels=\[1\]",
        ),
        (dict(student=retina(), exits=dict(student=dict(early=dict(levels=[1, 3])))), r"strides \[8, 32\]"),
        (
            dict(student=two_stage("faster"), exits=EARLY),
            "FasterRCNN has no dense head .* exits work on single-stage",
        ),
        (
            dict(networks=dict(a=retina(), b=retina()), methods=[dict(LOGITS, learner="c", taught_by="a")]),
            "learner names no trained network or exit 'c'.*; there are a, b",
        ),
        (
            dict(networks=dict(a=retina(), b=retina()), methods=[dict(LOGITS, learner="a", taught_by="a")]),
            "'a' cannot learn from its own outputs of the same step; .* a snapshot",
        ),
        (
            dict(networks=dict(a=retina(), b=retina()), methods=[LOGITS]),
            "name its teacher, taught_by='a'; there are a, b",
        ),
        (
            dict(student=retina(), exits=EARLY, student_loss=False, methods=[]),
            "student_loss=False: networks that are trained together, and exits, learn their own losses",
        ),
        (
            dict(
                networks=dict(a=retina(), b=retina()), methods=[dict(LOGITS, taught_by="b", name="networks")]
            ),
            "a method cannot be called 'networks'",
        ),
        (dict(networks=dict(a=retina(), b=retina()), deploy=["a"]), r"deploy=\['a'\] is no network"),
        (dict(student=retina(), exits=[]), r"exits must be like .* got \[\]"),
        (
            dict(student=retina(), exits=dict(student=dict(early=dict(levels=[True])))),
            r"levels must be numbers",
        ),
        (
            exit_with(neck=dict(num_outs=2)),
            "exit student.early: it predicts 4 maps .* and its network 10 maps",
        ),
        (
            exit_with(neck=dict(out_channels=16)),
            "exit student.early: its neck and bbox_head do not fit together",
        ),
        (exit_with(bbox_head=dict(num_classes=7)), "exit student.early: it predicts .* and its network"),
        (exit_with(neck=3), "exit student.early: neck must be a dict of settings, got 3"),
        (dict(student=retina(), exits=EARLY, methods=None), "methods must be a list like .*, got None"),
        (dict(student=retina(), exits=EARLY, methods=LOGITS), "methods must be a list like"),
        (dict(student=retina(), exits=EARLY, methods=[{}]), r"methods must be a list like .*, got \[\{\}\]"),
        (
            dict(networks=dict(a=retina(), b=retina()), methods=[dict(LOGITS, taught_by="b", name="x.y")]),
            "a method cannot be called 'x.y'",
        ),
        (
            dict(networks=dict(a=retina(), b=retina()), methods=[dict(LOGITS, taught_by="b", learner=["a"])]),
            r"learner names no trained network or exit \['a'\]",
        ),
        (
            dict(student=retina(), exits=EARLY, initialise_from_teacher=["neck"]),
            "initialise_from_teacher: there is no frozen teacher",
        ),
        (
            dict(
                student=retina(),
                teachers=dict(t=dict(snapshot_of="student")),
                methods=[LOGITS],
                initialise_from_teacher=["neck"],
            ),
            "initialise_from_teacher: a snapshot has the weights of a network of the same run",
        ),
        (
            dict(networks=dict(a=retina(), b=padded(64))),
            "network b needs images padded to multiples of 64 and the deployed one pads to 32",
        ),
        (
            dict(
                networks=dict(a=small_detr("one_stage"), b=small_detr("one_stage")), predict_with="ensemble"
            ),
            "DeformableDETR has none in its test_cfg; put another network first",
        ),
    ],
)
def test_wrong_roles_are_answered_in_one_line(settings, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message) as refused:
        MODELS.build(copy.deepcopy(dict(type="DistillationDetector", **settings)))
    assert "\n" not in str(refused.value)
