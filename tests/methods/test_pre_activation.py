"""Distillation before the activation: activation boundaries and the overhaul."""

from lad.base.capture import capture
from lad.errors import ConfigError, UnsupportedError
from lad.losses import activation_boundary_loss, negative_expectation, partial_l2_loss

import pytest
import torch
from helpers import at, make_batch, small_paa
from two_stage_detectors import distil, random_teacher, seeded_loss, total, two_stage

TASK = 10**9
AB = dict(type="ActivationBoundaryDistillation", pretrain=dict(iters=2))
OFD = dict(type="OverhaulDistillation")
KINDS = dict(one=small_paa, two=two_stage)


def still(model):
    """The detector with batch norms that neither learn nor differ between two calls."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def before_relu(model, inputs, stage):
    """What the last ReLU of a stage of a ResNet-18 is given, from the parts of its last block."""
    last = getattr(model.backbone, stage)[1]
    with torch.no_grad(), capture(model, [f"backbone.{stage}.0"]) as outputs:
        model.backbone(inputs)
        x = outputs[f"backbone.{stage}.0"]
        return x + last.bn2(last.conv2(last.bn1(last.conv1(x)).relu()))


def test_input_of_a_module_that_works_in_place_is_what_it_was_given():
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True))
    value = torch.tensor([-1.0, 2.0], requires_grad=True)
    with capture(model, ["1:input", "1"]) as outputs:
        model(value * 1)
    (given,) = outputs["1:input"]
    assert given.tolist() == [-1.0, 2.0]
    assert outputs["1"].tolist() == [0.0, 2.0]
    # Past the ReLU: there is a gradient where it has none.
    (gradient,) = torch.autograd.grad(given.sum(), value)
    assert gradient.tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="no module '2'"), capture(model, ["2:input"]):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_boundaries_are_learned_first_by_backbone_and_connectors_alone(tmp_path, kind):
    inputs, samples = make_batch((2, 1), size=(64, 96))
    model = still(distil(tmp_path, [AB], KINDS[kind](), random_teacher(two_stage(base=16))))
    method = model.methods[0]
    assert [(link.student, link.connector) for link in method.links()] == [
        (f"backbone.layer{stage}.1.relu:input[-1]", f"ConvModule {width} -> {2 * width}")
        for stage, width in ((2, 16), (3, 32), (4, 64))
    ]
    at(model, 0)
    expected = 0
    for stage, weight, connector in zip((2, 3, 4), (0.25, 0.5, 1.0), method.connectors, strict=True):
        own = before_relu(model.student, inputs, f"layer{stage}")
        assert (own < 0).any()
        hint = before_relu(model.teacher.model, inputs, f"layer{stage}")
        with torch.no_grad():
            expected = expected + weight * activation_boundary_loss(connector(own), hint).mean()
    losses = seeded_loss(model, inputs, samples)
    assert set(losses) == {"loss_ab"}
    torch.testing.assert_close(losses["loss_ab"], expected, rtol=1e-4, atol=1e-6)
    losses["loss_ab"].backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in learned} == {"backbone", "distillation"}
    assert {"backbone.conv1.weight", "backbone.layer4.1.bn2.weight"} <= learned
    assert sum(name.startswith("distillation.") for name in learned) == 9  # convolution, scale and shift
    model.zero_grad()
    at(model, TASK)
    losses = seeded_loss(model, inputs, samples)
    assert "loss_ab" not in losses
    total(losses).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all((grad is None) == name.startswith("distillation.") for name, grad in gradients.items())


def test_boundaries_without_pretraining_are_a_loss_of_the_task_and_a_pyramid_has_them_too(tmp_path):
    method = dict(AB, pretrain=None, student="neck", teacher="neck", level_weights=None)
    model = distil(tmp_path, [method])
    inputs, samples = make_batch((2, 1), size=(64, 64))
    losses = seeded_loss(model, inputs, samples)
    assert losses["loss_ab"] > 0
    assert "loss_cls" in losses
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.methods[0].level_weights is None
    pretrained = distil(tmp_path, [dict(AB, student="neck", teacher="neck")])
    assert pretrained.pretraining.student == ("backbone", "neck")
    assert pretrained.methods[0].level_weights == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def test_a_connector_with_a_single_value_to_normalise_is_answered_in_one_line(tmp_path):
    """The coarsest level of 64 x 64 pixels is one cell, and the student's own norms see maps enough."""
    method = dict(AB, pretrain=None, student="neck", teacher="neck", level_weights=None)
    model = distil(tmp_path, [method])
    message = r"ActivationBoundaryDistillation: a batch .* at least two images"
    with pytest.raises(UnsupportedError, match=message) as caught:
        seeded_loss(model, *make_batch((2,), size=(64, 64)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_overhaul_takes_margins_from_the_last_batch_norm_of_each_stage(tmp_path, kind):
    inputs, samples = make_batch((2, 1), size=(64, 96))
    network = random_teacher(two_stage(base=16))
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, std=0.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    model = still(distil(tmp_path, [OFD], KINDS[kind](), network))
    expected = 0
    for stage, weight, connector in zip(
        (2, 3, 4), (0.25, 0.5, 1.0), model.methods[0].connectors, strict=True
    ):
        norm = getattr(network.backbone, f"layer{stage}")[1].bn2
        margin = negative_expectation(norm.bias, norm.weight.abs()).float()[:, None, None]
        hint = before_relu(model.teacher.model, inputs, f"layer{stage}")
        clipped = torch.maximum(hint, margin.detach())
        assert (hint < clipped).any()
        with torch.no_grad():
            own = connector(before_relu(model.student, inputs, f"layer{stage}"))
            expected = expected + weight * partial_l2_loss(own, clipped).mean()
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_ofd"], expected, rtol=1e-4, atol=1e-6)
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    # Margins are the teacher's: neither learned nor saved.
    assert not [key for key in model.state_dict() if "margin" in key]


def test_norms_can_be_named(tmp_path):
    """What a stage puts out before its last block has the batch norm of its first block before it."""
    method = dict(
        OFD,
        student="backbone.layer3.0.relu:input[-1]",
        teacher="backbone.layer3.0.relu:input[-1]",
        norms="backbone.layer3.0.bn2",
    )
    model = distil(tmp_path, [method])
    margin = model.methods[0].teacher_transforms[0].margin
    torch.testing.assert_close(margin, torch.full((64,), -((2 / torch.pi) ** 0.5)))  # scale 1, shift 0
    assert seeded_loss(model, *make_batch((2, 1), size=(64, 64)))["loss_ofd"] > 0


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (dict(OFD, student="neck", teacher="neck"), UnsupportedError, "'neck' of the teacher has no batch norm"),
        (dict(OFD, norms="backbone.bn1"), ConfigError, "1 norms for 3 of the teacher's modules"),
        (dict(OFD, norms=["backbone.bn1"] * 3), UnsupportedError, "has 16 channels and the teacher's map 32"),
        (
            dict(OFD, norms=["backbone.conv1"] * 3),
            UnsupportedError,
            "'backbone.conv1', a Conv2d, and no batch norm before it",
        ),
        (dict(AB, student="backbone.layer2"), ConfigError, "1 modules of the student and 3 of the teacher"),
        (dict(AB, student="backbone.layr2", teacher="neck"), ConfigError, "nearest: backbone.layer2"),
        (dict(AB, pretrain=dict(days=1)), ConfigError, "pretrain must be dict"),
        (dict(AB, level_weights=[1, 2]), ConfigError, "2 level_weights for 3 pairs"),
        (dict(AB, level_weights="two"), ConfigError, "level_weights must be 'halving', numbers or None, got 'two'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_built(tmp_path, method, error, message):
    with pytest.raises(error, match=message) as caught:
        distil(tmp_path, [method])
    assert "\n" not in str(caught.value)


def test_nothing_is_captured_for_a_method_that_has_nothing_to_do(tmp_path):
    """After its pretraining AB reads nothing: with AB alone the teacher does not run."""
    inputs, samples = make_batch((2, 1), size=(64, 96))
    model = distil(tmp_path, [AB, dict(type="HintDistillation")], teacher=random_teacher(two_stage(base=16)))
    teacher = model.teacher
    read, hooks = [], []
    view = teacher.view

    def seen(inputs, data_samples, modules, shared=False):
        read.append((tuple(modules), shared))
        hooks.append(len(model.student.backbone.layer3[-1].relu._forward_pre_hooks))
        return view(inputs, data_samples, modules, shared)

    teacher.view = seen
    for phase in (0, TASK):
        at(model, phase)
        seeded_loss(model, inputs, samples)
    stages = tuple(f"backbone.layer{stage}.1.relu:input" for stage in (2, 3, 4))
    assert read == [(stages, False), (("neck",), False)]
    assert hooks[1] == 0
    model = distil(tmp_path, [AB], teacher=random_teacher(two_stage(base=16)))
    at(model, TASK)
    model.teacher.model.backbone.register_forward_hook(lambda *_: read.append("ran"))
    seeded_loss(model, inputs, samples)
    assert "ran" not in read
    # Without a pretraining it is one of the task's losses.
    assert AB["type"] in distil(tmp_path, [dict(AB, pretrain=None)]).distillation
    method = distil(tmp_path, [dict(AB, pretrain=None)]).methods[0]
    assert method.modules_read(False) == (stages, stages)
    assert method.modules_read(True) == ((), ())
