"""Relational distillation between the objects of a batch."""

from lad.errors import ConfigError, UnsupportedError
from lad.losses import Objects, relational_loss
from lad.methods.feature.relational import ObjectPooling, evenly

import pytest
import torch
from helpers import fake_cuda, make_batch, small_paa
from two_stage_detectors import distil, random_teacher, seeded_loss, total, two_stage

RKD = dict(type="RelationalDistillation")
KINDS = dict(one=small_paa, two=two_stage)


def pyramid(strides, size=(256, 512)):
    """Two images on each level: the coordinates of its positions' centres, the stride and the image's number."""
    levels = []
    for stride in strides:
        ys, xs = (torch.arange(side // stride) * stride + stride / 2 for side in size)
        rows, columns = torch.meshgrid(ys, xs, indexing="ij")
        level = torch.stack([rows, columns, torch.full_like(rows, stride)])
        levels.append(
            torch.stack([torch.cat([level, torch.full_like(rows, n)[None]]) for n in (0, 1)]).requires_grad_()
        )
    return levels


@pytest.mark.parametrize(("strides", "expected"), [((4, 8, 16, 32, 64), 4), ((8, 16, 32), 8)])
def test_embedding_is_the_mean_over_the_box_on_the_level_of_its_size(strides, expected):
    """Of maps that hold coordinates, the mean over a box is its centre; sizes 40, 120, 240 at strides 4, 8, 16."""
    boxes = torch.tensor([[60, 50, 100, 90], [200, 40, 320, 160], [150, 8, 390, 248.0]])
    levels = pyramid(strides)
    found = ObjectPooling(4, strides)(levels, Objects(boxes, torch.tensor([0, 1, 0]), (256, 512)))
    centres = torch.tensor([[70.0, 80.0], [100.0, 260.0], [128.0, 270.0]])
    torch.testing.assert_close(found[:, :2], centres, rtol=0, atol=0.5)
    assert found[:, 2].tolist() == [expected, 8, 16]
    assert found[:, 3].tolist() == [0, 1, 0]


def test_without_objects_there_is_no_embedding_and_a_gradient_of_zero():
    levels = pyramid((8, 16))
    found = ObjectPooling(4, (8, 16))(levels, Objects(torch.zeros(0, 4), torch.zeros(0).long(), (256, 512)))
    assert found.shape == (0, 4)
    relational_loss(found, torch.zeros(0, 7)).backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels)


def test_more_objects_than_allowed_are_thinned_evenly_and_always_the_same():
    boxes = torch.arange(10.0)[:, None].expand(10, 4)
    objects = Objects(boxes, torch.arange(10) // 4, (64, 64))
    assert evenly(objects, 10) is objects
    kept = evenly(objects, 4)
    assert kept.bboxes[:, 0].tolist() == [0, 2, 5, 7]
    assert kept.images.tolist() == [0, 0, 1, 1]


def test_pooling_on_cuda_tensors_waits_for_nothing():
    pooling = ObjectPooling(4, (8, 16))
    with fake_cuda():
        levels = [torch.randn(2, 4, side, side, device="cuda") for side in (16, 8)]
        objects = Objects(
            torch.rand(9, 4, device="cuda"), torch.zeros(9, dtype=torch.long, device="cuda"), (128, 128)
        )
        found = pooling(levels, evenly(objects, 5))
        assert (found.device.type, found.shape) == ("cuda", (5, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_a_detector_relates_the_objects_of_all_images(tmp_path, kind):
    inputs, samples = make_batch((2, 0, 3), size=(64, 96))
    teacher = random_teacher(two_stage(base=16, channels=24))
    model = distil(tmp_path, [dict(RKD, loss_weight=2.0)], KINDS[kind](), teacher)
    model.student.eval()
    for name in ("", "bbox_head", "rpn_head", "roi_head"):
        module = model.student.get_submodule(name) if hasattr(model.student, name or "backbone") else None
        if module is not None:
            module.training = True
    method = model.methods[0]
    objects = Objects(
        torch.cat([sample.gt_instances.bboxes for sample in samples]), torch.tensor([0, 0, 2, 2, 2]), (64, 96)
    )
    with torch.no_grad():
        own = method.student_pooling(model.student.extract_feat(inputs), objects)
        taught = method.teacher_pooling(model.teacher.model.extract_feat(inputs), objects)
    assert method.student_pooling.featmap_strides[0] == dict(one=8, two=4)[kind]
    losses = seeded_loss(model, inputs, samples)
    torch.testing.assert_close(losses["loss_rkd"], 2 * relational_loss(own, taught), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(losses["loss_rkd"], model.backbone.conv1.weight, retain_graph=True)
    assert gradient.abs().sum() > 0
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert not [key for key in model.state_dict() if key.startswith("distillation.")]


def test_batch_without_objects_trains(tmp_path):
    model = distil(tmp_path, [RKD])
    losses = seeded_loss(model, *make_batch((0, 0), size=(64, 64)))
    assert losses["loss_rkd"].item() == 0
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(student="nekc"), ConfigError, "no module 'nekc'; nearest: neck"),
        (dict(teacher="backbone"), UnsupportedError, "'backbone' of the teacher returns .* with the same channels"),
        (dict(max_objects=2), ConfigError, "max_objects must be 3 or more, got 2"),
        (dict(loss_name="rkd"), ConfigError, "loss_name must contain 'loss'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_when_built(tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        distil(tmp_path, [dict(RKD, **settings)])
    assert "\n" not in str(caught.value)


def test_without_labels_there_are_no_objects(tmp_path):
    methods = [RKD, dict(type="RPNDistillation"), dict(type="RCNNDistillation")]
    with pytest.raises(UnsupportedError, match="uses the ground truth, so it needs student_loss=True"):
        distil(tmp_path, methods, student_loss=False)
