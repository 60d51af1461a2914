"""Feature distillation between any two detectors."""

import copy
from functools import cache
from types import SimpleNamespace

from lad.errors import ConfigError, UnsupportedError
from lad.losses import CWDLoss
from lad.losses.focal_global import Objects, focal_terms, object_masks
from lad.methods.feature.maps import objects_of

import pytest
import torch
from helpers import build, fake_cuda, make_batch, save_checkpoint, small_detector, small_paa
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from two_stage_detectors import distil, random_teacher, seeded_loss, total, two_stage

RETINA = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FCOS = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
LOSSES = ["HintLoss", "ATLoss", "CWDLoss", "PKDLoss", "MGDLoss", "FGDLoss"]


def feature(loss="CWDLoss", **settings):
    return dict(type="FeatureDistillation", loss=dict(type=loss), **settings)


_small = cache(small_detector)


def small(config: str, base: int = 8, channels: int = 32) -> dict:
    """A one-stage detector with other base channels than the helpers' and another width of neck and head."""
    made = copy.deepcopy(_small(config))
    made.backbone.base_channels = base
    made.neck.update(in_channels=[base * factor for factor in (1, 2, 4, 8)], out_channels=channels)
    made.bbox_head.update(in_channels=channels, feat_channels=channels)
    return made


def small_swin() -> dict:
    """RetinaNet on a Swin of four stages of one block."""
    made = copy.deepcopy(_small(RETINA))
    made.backbone = dict(
        type="SwinTransformer", embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4
    )
    made.neck.in_channels = [16, 32, 64, 128]
    return made


def taught(folder, method, student, teacher):
    """A distillation of any two detectors, random weights."""
    path = save_checkpoint(build(teacher, 1), folder / "teacher.pth")
    methods = method if isinstance(method, list) else [method]
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=student,
            teacher=dict(teacher, checkpoint=path),
            methods=methods,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    return model.train()


def maps_of(model, inputs):
    """Levels of the neck of a training student, and of the teacher."""
    with torch.no_grad():
        return model.student.neck(model.student.backbone(inputs)), model.teacher.model.neck(
            model.teacher.model.backbone(inputs)
        )


def test_loss_is_the_weighted_sum_over_the_levels_and_named_after_its_type(tmp_path):
    """RetinaNet taught by RetinaNet with as many channels: no connector; weights 1 and 3 of two levels."""
    inputs, samples = make_batch((2, 1), size=(64, 96))
    method = feature(
        student=["neck[0]", "neck[2]"],
        teacher=["neck[0]", "neck[2]"],
        level_weights=[1, 3],
        loss_weight=0.5,
    )
    method["loss"].update(temperature=2.0, loss_weight=4.0)
    model = taught(tmp_path, method, small(RETINA), small(RETINA, base=16))
    own, hints = maps_of(model, inputs)
    expected = [CWDLoss(temperature=2.0)(own[level], hints[level]) for level in (0, 2)]
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_cwd"], 2 * (expected[0] + 3 * expected[1]), rtol=1e-5, atol=1e-6)
    assert not [key for key in model.state_dict() if key.startswith("distillation.")]
    assert [(link.student, link.teacher, link.connector) for link in model.methods[0].links()] == [
        ("neck[0]", "neck[0]", "none 32 -> 32"),
        ("neck[2]", "neck[2]", "none 32 -> 32"),
    ]
    assert model.methods[0].loss_weights() == {"loss_cwd": 2.0}


def test_focal_and_global_loss_sees_the_ground_truth_of_each_image(tmp_path):
    """The sum over the levels of alpha foreground + beta background + gamma attention; its blocks add nothing yet."""
    inputs, samples = make_batch((2, 0, 1), size=(64, 64))
    method = feature("FGDLoss")
    method["loss"].update(relation=0.0)
    model = taught(tmp_path, method, small(RETINA), small(RETINA, base=16))
    expected = 0
    boxes = torch.cat([sample.gt_instances.bboxes for sample in samples])
    objects = Objects(boxes, torch.tensor([0, 0, 2]), (64, 64))
    for own, hint in zip(*maps_of(model, inputs), strict=True):
        terms = focal_terms(own, hint, object_masks(objects, 3, own.shape[-2:]))
        parts = 1e-3 * terms.foreground + 5e-4 * terms.background + 5e-4 * terms.attention
        expected = expected + parts.mean()
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_fgd"], expected, rtol=1e-4, atol=1e-6)


def test_objects_of_a_batch_know_their_image():
    inputs, samples = make_batch((2, 0, 1), size=(64, 96))
    objects = objects_of(SimpleNamespace(inputs=inputs, data_samples=samples))
    assert objects.images.tolist() == [0, 0, 2]
    assert objects.image_size == (64, 96)
    assert torch.equal(objects.bboxes[2], samples[2].gt_instances.bboxes[0])
    with fake_cuda() as mode:
        for sample in samples:
            boxes = mode.from_tensor(sample.gt_instances.bboxes).to("cuda")
            sample.gt_instances = InstanceData(bboxes=boxes)
        step = SimpleNamespace(inputs=torch.zeros(3, 3, 64, 96, device="cuda"), data_samples=samples)
        assert objects_of(step).images.device.type == objects_of(step).bboxes.device.type == "cuda"


def every_loss():
    return [dict(feature(loss), name=loss) for loss in LOSSES]


def check_every_loss(model, inputs, samples):
    """Every loss adds something, reaches the student's backbone and gives all weights a finite gradient."""
    losses = seeded_loss(model, inputs, samples)
    first = model.student.backbone.conv1.weight
    for loss in LOSSES:
        value = losses[f"loss_{loss.removesuffix('Loss').lower()}"]
        assert value > 0
        assert torch.autograd.grad(value, first, retain_graph=True)[0].abs().sum() > 0
    total(losses).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_one_stage_pair_of_two_kinds_learns_by_every_loss(tmp_path):
    """An FCOS with 64 channels teaches a RetinaNet with 32; a batch of another size than the dry run's."""
    model = taught(tmp_path, every_loss(), small(RETINA), small(FCOS, base=16, channels=64))
    assert [method.links()[0].connector for method in model.methods] == [
        "ConvConnector 32 -> 64",
        "none 32 -> 64",
        "ConvConnector 32 -> 64",
        "ConvConnector 32 -> 64",
        "MaskedGenerationConnector 32 -> 64",
        "ConvConnector 32 -> 64",
    ]
    check_every_loss(model, *make_batch((2, 0, 1), size=(64, 96)))


def test_two_stage_pair_learns_by_every_loss(tmp_path):
    model = distil(tmp_path, every_loss(), two_stage(), random_teacher(two_stage(base=16)))
    assert {method.links()[0].connector.split()[0] for method in model.methods} == {
        "none",
        "MaskedGenerationConnector",
    }
    check_every_loss(model, *make_batch((2, 1), size=(64, 64)))


def test_teacher_and_student_may_be_of_different_stages(tmp_path):
    """A Faster R-CNN's pyramid has strides 4 to 64, a RetinaNet's 8 to 128: levels are matched by name."""
    method = feature("PKDLoss", student="neck[1]", teacher="neck[0]")
    model = taught(tmp_path, method, two_stage(), small(RETINA))
    losses = seeded_loss(model, *make_batch((2, 1), size=(64, 64)))
    assert 0 < losses["loss_pkd"] < 2
    four = two_stage()
    four.neck.num_outs = 4
    with pytest.raises(ConfigError, match="'neck' returns 5 feature maps for the student and 'neck' 4"):
        taught(tmp_path, feature("PKDLoss"), small(RETINA), four)


def test_tokens_of_a_transformer_are_compared_with_maps_of_a_convolution(tmp_path):
    """The third stage of a Swin: tokens of stride 16, before they are merged the second thing that it puts out."""
    method = feature("HintLoss", student="backbone.layer3", teacher="backbone.stages.2[1]")
    model = taught(tmp_path, method, small_paa(), small_swin())
    assert model.methods[0].links()[0].connector == "ConvConnector 32 -> 64"
    inputs, samples = make_batch((2, 1), size=(96, 64))
    with torch.no_grad():
        stage = {}
        handle = model.teacher.model.backbone.stages[2].register_forward_hook(
            lambda module, args, output: stage.update(tokens=output[2])
        )
        model.teacher.model.backbone(inputs)
        handle.remove()
        x = model.student.backbone(inputs)[2]
        adapted = model.methods[0].connectors[0](x)
    # Row by row: token 5 of a map 4 wide is at row 1, column 1.
    expected = (adapted - stage["tokens"].permute(0, 2, 1).reshape(2, 64, 6, 4)).square().mean()
    assert torch.equal(
        stage["tokens"][:, 5], stage["tokens"].permute(0, 2, 1).reshape(2, 64, 6, 4)[:, :, 1, 1]
    )
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_hint"], expected, rtol=1e-4, atol=1e-6)


def test_any_registered_loss_of_two_tensors_may_be_named(tmp_path):
    model = taught(tmp_path, feature("SmoothL1Loss"), small(RETINA), small(RETINA, channels=24))
    (method,), pairs = model.methods, []
    pair_loss = method.pair_loss
    method.pair_loss = lambda *args: pairs.append(args[1:3]) or pair_loss(*args)
    losses = seeded_loss(model, *make_batch((1, 1), size=(64, 64)))
    assert len(pairs) == 5
    expected = sum(torch.nn.functional.smooth_l1_loss(*pair) for pair in pairs)
    torch.testing.assert_close(losses["loss_smoothl1"], expected, rtol=1e-6, atol=0)


class FrozenProjection(torch.nn.Conv2d):
    """To 8 channels, by weights that do not train."""

    def __init__(self, in_channels):
        super().__init__(in_channels, 8, 1)
        self.requires_grad_(False)


class Halved(torch.nn.Module):
    """What takes no channels."""

    def forward(self, hint):
        return hint / 2


def test_teachers_maps_may_pass_a_module_first(tmp_path):
    """A frozen 1x1 convolution of the teacher's maps to 8 channels: the student's connectors lead there."""
    method = feature("HintLoss", teacher_transform=dict(type=FrozenProjection))
    model = taught(tmp_path, method, small(RETINA), small(RETINA, channels=24))
    found = model.methods[0]
    assert [tuple(connector.conv.weight.shape[:2]) for connector in found.connectors] == [(8, 32)] * 5
    assert [tuple(transform.weight.shape[:2]) for transform in found.teacher_transforms] == [(8, 24)] * 5
    assert found.links()[0].connector == "ConvConnector, FrozenProjection (teacher) 32 -> 24"
    total(seeded_loss(model, *make_batch((1, 1), size=(64, 64)))).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_module_that_takes_no_channels_may_stand_before_the_teachers_maps(tmp_path):
    inputs, samples = make_batch((1, 1), size=(64, 64))
    method = feature("HintLoss", student="neck[0]", teacher="neck[0]", teacher_transform=dict(type=Halved))
    model = taught(tmp_path, method, small(RETINA), small(RETINA, base=16))
    own, hints = maps_of(model, inputs)
    expected = (own[0] - hints[0] / 2).square().mean()
    torch.testing.assert_close(
        seeded_loss(model, inputs, samples)["loss_hint"], expected, rtol=1e-4, atol=1e-6
    )


def test_weights_before_the_teachers_maps_that_nothing_would_train_are_refused(tmp_path):
    """Left alone they would wait for a gradient in several processes for ever."""
    method = feature("HintLoss", teacher_transform=dict(type="ConvConnector", out_channels=8))
    message = "ConvConnector has weights, and no loss trains.*freeze them .*FactorTransferDistillation"
    with pytest.raises(UnsupportedError, match=message) as caught:
        taught(tmp_path, method, small(RETINA), small(RETINA))
    assert "\n" not in str(caught.value)


def frozen(stages=1):
    config = small(RETINA)
    config.backbone.frozen_stages = stages
    return config


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("backbone.layer1", "'backbone.layer1' of the student is frozen .* name a later stage"),
        ("backbone", r"'backbone\[0\]' of the student is frozen"),
        ("backbone.layer1.1.relu:input[0]", "'backbone.layer1.1.relu:input.*' of the student is frozen"),
    ],
)
def test_map_of_a_frozen_stage_is_named_in_every_step(tmp_path, names, message):
    inputs, samples = make_batch((1, 1), size=(64, 64))
    model = taught(tmp_path, feature("HintLoss", student=names, teacher=names), frozen(), small(RETINA))
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=message) as caught:
            model.loss(inputs, samples)
    assert "\n" not in str(caught.value)
    with torch.no_grad():
        assert model.loss(inputs, samples)["loss_hint"] > 0


def test_later_maps_of_a_backbone_that_is_frozen_in_part_are_compared_until_they_are_frozen_too(tmp_path):
    inputs, samples = make_batch((1, 1), size=(64, 64))
    names = ["backbone[1]", "backbone[2]"]
    model = taught(tmp_path, feature("HintLoss", student=names, teacher=names), frozen(), small(RETINA))
    assert model.loss(inputs, samples)["loss_hint"] > 0
    model.backbone.layer2.requires_grad_(False)
    with pytest.raises(UnsupportedError, match=r"'backbone\[1\]' of the student is frozen"):
        model.loss(inputs, samples)
    # All of the student rests, as in a phase of the connectors alone.
    model.student.requires_grad_(False)
    assert model.loss(inputs, samples)["loss_hint"] > 0


def test_objects_of_a_step_are_gathered_once_for_all_levels(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lad.methods.feature.feature_distillation.objects_of",
        lambda step: seen.append(step) or objects_of(step),
    )
    model = taught(
        tmp_path, [feature("FGDLoss"), feature("CWDLoss", name="cwd")], small(RETINA), small(RETINA)
    )
    model.loss(*make_batch((2, 1), size=(64, 64)))
    assert len(model.methods[0].pairs) == 5
    assert len(seen) == 1


def test_two_losses_beside_each_other_and_zero_weight_is_plain_training(tmp_path):
    inputs, samples = make_batch((2, 1), size=(64, 64))
    methods = [feature("CWDLoss", loss_weight=0.0), dict(feature("PKDLoss", loss_weight=0.0), name="pkd")]
    losses = seeded_loss(taught(tmp_path, methods, small(RETINA), small(RETINA, base=16)), inputs, samples)
    assert losses.pop("loss_cwd") == losses.pop("loss_pkd") == 0
    plain = seeded_loss(build(small(RETINA)).train(), inputs, samples)
    assert losses.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(loss=dict(type="CWDLos")), ConfigError, "there is no loss 'CWDLos'; nearest: CWDLoss"),
        (dict(connector="conv"), ConfigError, "connector must be 'auto', 'projection', .* got 'conv'"),
        (dict(connector=None), UnsupportedError, r"32 channels \(student\) and 24 \(teacher\), which CWDLoss cannot"),
        (dict(level_weights=[1, 2]), ConfigError, "2 level_weights for 5 pairs"),
        (dict(level_weights=[-1, 1, 1, 1, 1]), ConfigError, "level_weights must be at least 0, got -1"),
        (dict(level_weights=["a", 1, 1, 1, 1]), ConfigError, "level_weights must be a number, got 'a'"),
        (dict(level_weights="half"), ConfigError, "level_weights must be a list of numbers or None, got 'half'"),
        (dict(loss_weight=-2.0), ConfigError, "loss_weight must be at least 0, got -2.0"),
        (dict(loss_weight=dict(type="linear", start=1.0, end=-1.0)), ConfigError, r"loss_weight \(end\) must be at"),
        (dict(connector=dict(type="ConvConnector", kernel_size=2)), ConfigError, "kernel_size must be odd, .* got 2"),
        (dict(student="neck[9]", teacher="neck[0]"), ConfigError, r"'neck\[9\]': there is no level \[9\]"),
        (dict(student="nekc"), ConfigError, "no module 'nekc'; nearest: neck"),
        (dict(loss_name="hint"), ConfigError, "loss_name must contain 'loss'"),
        (dict(loss=dict(type="KDLoss")), ConfigError, "KDLoss does not compare feature maps; .* RoILogitDistil"),
        (dict(loss=dict(type="RKDLoss")), ConfigError, "does not compare feature maps; .* RelationalDistillation"),
        (dict(loss=dict(type="LDLoss")), ConfigError, "does not compare feature maps; .* LocalisationDistillation"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_built(tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        taught(tmp_path, dict(feature(), **settings), small(RETINA), small(RETINA, channels=24))
    assert "\n" not in str(caught.value)


def test_levels_of_other_strides_are_compared_and_named(tmp_path, monkeypatch):
    """An FPN for a Faster R-CNN begins at stride 4, one for a RetinaNet at 8: in their order none agree."""
    said = []
    monkeypatch.setattr("lad.methods.feature.pairs.print_log", lambda message, **_: said.append(message))
    taught(tmp_path, feature(), small(RETINA), two_stage())
    assert "neck[0] (8) with neck[0] (4), neck[1] (16) with neck[1] (8)" in said.pop()
    taught(tmp_path, feature(student="neck[0]", teacher="neck[1]"), small(RETINA), two_stage())
    assert not said


def test_loss_that_looks_at_objects_needs_labels(tmp_path):
    config = dict(
        type="DistillationDetector",
        student=two_stage(),
        teacher=dict(two_stage(), checkpoint=save_checkpoint(build(two_stage()), tmp_path / "teacher.pth")),
        methods=[feature("FGDLoss"), dict(type="RPNDistillation"), dict(type="RCNNDistillation")],
        student_loss=False,
    )
    with pytest.raises(
        UnsupportedError, match="FGDLoss uses the ground truth, so it needs student_loss=True"
    ):
        MODELS.build(config)
