"""Label-assignment distillation against MMDetection's own LAD, on the same weights and images."""

import copy

from lad.base.replace import replaced

import pytest
import torch
from helpers import build, float64_mixtures, make_batch, save_checkpoint, small_paa
from mmdet.models.detectors import LAD
from mmdet.registry import MODELS


def mmdetection_lad(student_config, teacher_config, student, teacher) -> LAD:
    """MMDetection's detector with the weights of two given networks."""
    config = dict(
        type="LAD",
        backbone=student_config.backbone,
        neck=student_config.neck,
        bbox_head=dict(student_config.bbox_head, type="LADHead"),
        teacher_backbone=teacher_config.backbone,
        teacher_neck=teacher_config.neck,
        teacher_bbox_head=dict(teacher_config.bbox_head, type="LADHead"),
        train_cfg=student_config.train_cfg,
        test_cfg=student_config.test_cfg,
        data_preprocessor=student_config.data_preprocessor,
    )
    model = MODELS.build(copy.deepcopy(config))
    model.teacher_model.load_state_dict(teacher.state_dict())
    missing = model.load_state_dict(student.state_dict(), strict=False)
    assert not missing.unexpected_keys
    model.train()
    return model  # its own train() returns None


def distillation(student_config, teacher_config, student, teacher, tmp_path, head):
    config = copy.deepcopy(student_config)
    config.bbox_head.type = head
    if head == "BatchedPAAHead":
        config.bbox_head.box_loss_weight = "uniform"
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=config,
            teacher=dict(teacher_config, checkpoint=save_checkpoint(teacher, tmp_path / "teacher.pth")),
            methods=[dict(type="LabelAssignmentDistillation")],
        )
    )
    model.student.load_state_dict(student.state_dict())
    return model.train()


def networks(teacher_head="PAAHead", seed=0):
    student_config, teacher_config = small_paa("PAAHead"), small_paa(teacher_head, base=16)
    return student_config, teacher_config, build(student_config, seed), build(teacher_config, seed + 10)


@pytest.mark.parametrize("objects", [(3, 0, 7), (1, 1), (0, 0), (12, 5)])
@pytest.mark.parametrize("teacher_head", ["PAAHead", "BatchedPAAHead", "LADHead"])
def test_losses_and_gradients_equal_mmdetections_lad(objects, teacher_head, tmp_path):
    setup = networks(teacher_head)
    inputs, samples = make_batch(objects, size=(128, 128))
    reference = mmdetection_lad(*setup)
    model = distillation(*setup, tmp_path, "BatchedPAAHead")
    with float64_mixtures():
        expected = reference.loss(inputs, copy.deepcopy(samples))
    losses = model.loss(inputs, copy.deepcopy(samples))
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-5)
    sum(expected.values()).backward()
    sum(losses.values()).backward()
    wanted = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert wanted.keys() == gradients.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", ["PAAHead", "BatchedPAAHead"])
def test_positives_are_exactly_the_teachers(head, tmp_path):
    """What the student trains on is what the teacher, run alone as a plain PAA, would choose."""
    setup = networks()
    inputs, samples = make_batch((4, 0, 6), size=(128, 128))
    model = distillation(*setup, tmp_path, head)
    chosen = []

    def remember(*args, original, **kwargs):
        chosen.append(args[1])
        return original(*args, **kwargs)

    def labels_of(head, loss):
        original = head.loss_cls.forward
        with replaced(head.loss_cls, "forward", lambda *a, **k: remember(*a, original=original, **k)):
            chosen.clear()
            loss()
        return chosen[-1]  # the last call is the loss over all anchors

    with float64_mixtures():
        student_labels = labels_of(model.bbox_head, lambda: model.loss(inputs, copy.deepcopy(samples)))
        teacher = setup[3].eval()
        teacher.training = teacher.bbox_head.training = True
        teacher_labels = labels_of(teacher.bbox_head, lambda: teacher.loss(inputs, copy.deepcopy(samples)))
        own_labels = labels_of(model.bbox_head, lambda: model.student.loss(inputs, copy.deepcopy(samples)))
    assert torch.equal(student_labels, teacher_labels)
    assert (student_labels < 3).any()
    assert not torch.equal(student_labels, own_labels), "the control: alone it would choose otherwise"


@pytest.mark.parametrize("head", ["PAAHead", "BatchedPAAHead"])
def test_head_is_as_before_after_a_step_and_after_an_exception(head, tmp_path):
    model = distillation(*networks(), tmp_path, head)
    before = set(vars(model.bbox_head))
    model.loss(*make_batch((2, 1)))
    assert set(vars(model.bbox_head)) == before
    inputs, samples = make_batch((2, 1))
    del samples[0].gt_instances.labels
    with pytest.raises(AttributeError):
        model.loss(inputs, samples)
    assert set(vars(model.bbox_head)) == before


@pytest.mark.parametrize(
    ("broken", "kind"),
    [("student", "BatchedPAAHead"), ("teacher", "BatchedPAAHead"), ("teacher", "PAAHead")],
)
def test_predictions_that_are_not_finite_stop_with_the_images_name(broken, kind, tmp_path):
    model = distillation(*networks(), tmp_path, kind)
    head = (model.student if broken == "student" else model.teacher.model).bbox_head

    def spoil(module, args, outputs):
        outputs[1][0].data[1, 0, 0, 0] = float("nan")

    head.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"image_1\.jpg are NaN or infinite"):
        model.loss(*make_batch((2, 1, 2)))


def test_teacher_with_other_normalisation_assigns_as_on_its_own_images(tmp_path):
    """A caffe-style teacher: BGR, no scaling of the standard deviation."""
    student_config, teacher_config, student, teacher = networks()
    caffe = dict(
        type="DetDataPreprocessor", mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], pad_size_divisor=32
    )
    teacher_config.data_preprocessor = caffe
    model = distillation(student_config, teacher_config, student, teacher, tmp_path, "BatchedPAAHead")
    images = torch.randint(0, 256, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0)).float()
    _, samples = make_batch((3, 2), size=(128, 128))
    prepared = model.data_preprocessor(dict(inputs=[i.byte() for i in images], data_samples=samples))
    seen = model.teacher.run(prepared["inputs"], samples, ["bbox_head"])["bbox_head"]
    own = MODELS.build(caffe)(dict(inputs=[i.byte() for i in images], data_samples=samples))["inputs"]
    with torch.no_grad():
        expected = teacher.eval()._forward(own)
    torch.testing.assert_close(seen[0][0], expected[0][0], rtol=1e-3, atol=1e-3)
