"""Hint learning."""

import copy

from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from helpers import build, make_batch, small_paa
from mmdet.registry import MODELS
from two_stage_detectors import HINT, distil, seeded_loss, total, two_stage


def hint(**settings):
    return [dict(HINT, **settings)]


def features(model, inputs, name):
    with torch.no_grad():
        backbone = model.backbone(inputs)
        return backbone if name == "backbone" else model.neck(backbone)


def test_loss_is_gamma_times_the_mean_distance_of_the_adapted_maps(tmp_path):
    inputs, samples = make_batch((2, 1), size=(64, 96))
    model = distil(tmp_path, hint(gamma=0.25), teacher=two_stage(base=16, channels=24))
    model.student.eval()
    model.student.training = True
    expected = 0
    pairs = zip(
        features(model.student, inputs, "neck"), features(model.teacher.model, inputs, "neck"), strict=True
    )
    for connector, (own, taught) in zip(model.methods[0].connectors, pairs, strict=True):
        weight, bias = connector.conv.weight[:, :, 0, 0], connector.conv.bias
        adapted = torch.einsum("oc,nchw->nohw", weight, own) + bias[:, None, None]
        expected = expected + (adapted - taught).square().sum() / taught.numel() / 5
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_hint"], 0.25 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_stages_and_levels_are_named_by_index_and_other_resolutions_are_matched(tmp_path, norm):
    """The student's second stage (stride 8) and the teacher's third (16): its map is halved by averaging."""
    inputs, samples = make_batch((2,), size=(64, 64))
    model = distil(tmp_path, hint(student="backbone[1]", teacher="backbone.layer3", norm=norm))
    model.student.eval()
    model.student.training = True
    own = features(model.student, inputs, "backbone")[1]
    taught = features(model.teacher.model, inputs, "backbone")[2]
    with torch.no_grad():
        adapted = torch.nn.functional.avg_pool2d(model.methods[0].connectors[0](own), 2)
    difference = adapted - taught
    expected = 0.5 * (difference.square() if norm == "l2" else difference.abs()).mean()
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_hint"], expected, rtol=1e-5, atol=1e-6)


def test_gradients_reach_student_and_adapters_whose_weights_are_saved_under_distillation(tmp_path):
    model = distil(tmp_path, hint(student=["neck[0]", "backbone[3]"], teacher=["neck[1]", "backbone[3]"]))
    losses = seeded_loss(model, *make_batch((2, 1), size=(64, 64)))
    gradients = torch.autograd.grad(
        losses["loss_hint"],
        [model.backbone.conv1.weight, *model.methods[0].connectors.parameters()],
    )
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert [key for key in model.state_dict() if key.startswith("distillation.")] == [
        f"distillation.HintDistillation.connectors.{number}.conv.{part}"
        for number in (0, 1)
        for part in ("weight", "bias")
    ]


def test_hints_of_levels_that_share_a_head_are_its_calls(tmp_path):
    model = distil(tmp_path, hint(student="rpn_head.rpn_conv", teacher="rpn_head.rpn_conv"))
    assert len(model.methods[0].connectors) == 5
    assert seeded_loss(model, *make_batch((2, 1), size=(64, 64)))["loss_hint"] > 0


def test_hints_fit_one_stage_detectors_and_any_pair(tmp_path):
    """A PAA student and a Faster R-CNN teacher: stages of their backbones."""
    settings = dict(student="backbone", teacher="backbone")
    model = distil(tmp_path, hint(**settings), student=small_paa())
    (method,), pairs = model.methods, []
    pair_loss = method.pair_loss
    method.pair_loss = lambda *args: pairs.append(args[1:3]) or pair_loss(*args)
    losses = model.loss(*make_batch((2, 1), size=(64, 64)))
    assert len(pairs) == 4
    expected = 0.5 * sum((own - hint).square().mean() for own, hint in pairs) / 4
    torch.testing.assert_close(losses["loss_hint"], expected, rtol=1e-6, atol=0)


def test_building_leaves_statistics_modes_and_random_state_as_they_were(tmp_path):
    config = two_stage()
    torch.manual_seed(3)
    plain = MODELS.build(copy.deepcopy(config))
    plain.init_weights()
    expected_next = torch.rand(1)
    teacher = distil(tmp_path, hint()).teacher.model  # writes the checkpoint
    torch.manual_seed(3)
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=config,
            teacher=dict(two_stage(base=16), checkpoint=str(tmp_path / "teacher.pth")),
            methods=hint(),
        )
    )
    model.init_weights()
    assert torch.equal(torch.rand(1), expected_next)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert [m.training for m in model.student.modules()] == [m.training for m in plain.modules()]
    assert sum(module.training for module in model.teacher.model.modules()) == sum(
        module.training for module in teacher.modules()
    )
    assert not any(module._forward_hooks for module in model.student.modules())


def test_zero_gamma_is_plain_training(tmp_path):
    inputs, samples = make_batch((2, 1), size=(64, 64))
    losses = seeded_loss(distil(tmp_path, hint(gamma=0.0)), inputs, samples)
    assert losses.pop("loss_hint") == 0
    plain = seeded_loss(build(two_stage()).train(), inputs, samples)
    assert losses.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)


def test_teacher_under_inference_mode_gives_the_same_loss_and_gradients(tmp_path):
    inputs, samples = make_batch((2, 1), size=(64, 64))
    results = []
    for speed in (None, dict(inference_mode=True)):
        torch.manual_seed(0)
        model = distil(tmp_path, hint(), speed=speed)
        losses = seeded_loss(model, inputs, samples)
        total(losses).backward()
        results.append((losses["loss_hint"], model.backbone.conv1.weight.grad))
    for plain, fast in zip(*results, strict=True):
        assert torch.equal(plain, fast)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(student="nekc"), ConfigError, "no module 'nekc'; nearest: neck"),
        (dict(teacher="neck[7]"), ConfigError, r"'neck\[7\]': there is no level \[7\]: the module returns 5"),
        (dict(teacher="backbone"), ConfigError, "'neck' returns 5 feature maps for the student and 'backbone' 4"),
        (dict(student=["neck[0]", "neck[1]"]), ConfigError, "2 modules of the student and 1 of the teacher"),
        (dict(student="roi_head.bbox_head"), UnsupportedError, "'roi_head.bbox_head' of FasterRCNN does not see the"),
        (dict(norm="l3"), ConfigError, "norm must be one of l2, l1, got 'l3'"),
        (dict(loss_name="hint"), ConfigError, "loss_name must contain 'loss'"),
        (
            dict(connector=dict(type="IdentityConnector"), student="backbone", teacher="backbone"),
            UnsupportedError,
            "student has 8 channels and the teacher 16",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_built(tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        distil(tmp_path, hint(**settings))
    assert "\n" not in str(caught.value)


def test_module_inside_of_a_checkpointed_block_is_refused_and_the_whole_stage_is_taught(tmp_path):
    student = two_stage()
    student.backbone.with_cp = True
    inputs, samples = make_batch((1, 1), size=(64, 64))
    model = distil(tmp_path, hint(student="backbone.layer3", teacher="backbone.layer3"), student)
    total(seeded_loss(model, inputs, samples)).backward()
    name = "backbone.layer3.0.conv2"
    model = distil(tmp_path, hint(student=name, teacher=name), student)
    with pytest.raises(
        UnsupportedError, match=f"the output of '{name}' has no gradient.*name the whole stage"
    ):
        seeded_loss(model, inputs, samples)


def test_stage_that_is_frozen_may_not_be_among_the_hints(tmp_path):
    student = two_stage()
    student.backbone.frozen_stages = 1
    inputs, samples = make_batch((1, 1), size=(64, 64))
    model = distil(tmp_path, hint(student="backbone", teacher="backbone"), student)
    with pytest.raises(UnsupportedError, match=r"'backbone\[0\]' of the student is frozen"):
        seeded_loss(model, inputs, samples)
