"""Similarity-preserving distillation."""

from types import SimpleNamespace

from lad.base.progress import Progress
from lad.errors import ConfigError, UnsupportedError
from lad.losses import SimilarityPreservingLoss, similarity_preserving_loss
from lad.methods.feature.similarity import SimilarityPreservingDistillation

import pytest
import torch
from helpers import fake_cuda, make_batch, small_paa
from hypothesis import given
from hypothesis import strategies as st
from two_stage_detectors import distil, seeded_loss, two_stage


def similarity(**settings):
    return [dict(type="SimilarityPreservingDistillation", **settings)]


def test_hand_arithmetic():
    """Two images, for the teacher (3, 0) and (4, 0): products 9, 12, 12, 16, so both rows are (3/5, 4/5).

    For the student (1, 0) and (0, 1): the unit matrix. Squares (2/5)^2, (4/5)^2, (3/5)^2, (1/5)^2; their mean is 0.3.
    """
    teacher = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    student = torch.eye(2)
    expected = torch.tensor([[0.16, 0.64], [0.36, 0.04]])
    torch.testing.assert_close(similarity_preserving_loss(student, teacher), expected)
    assert SimilarityPreservingLoss(loss_weight=2)(student, teacher).item() == pytest.approx(0.6)


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_neither_scale_nor_order_nor_rotation_of_the_features_matters_but_the_order_of_the_images_does(
    seed, scale
):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64).float()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    turned = scale * torch.einsum("ij,njhw->nihw", rotation, features).flip(2)
    assert similarity_preserving_loss(features, turned).max() < 1e-9
    assert similarity_preserving_loss(features, features.roll(1, 0)).max() > 1e-4


def test_gradient_makes_images_as_alike_as_the_teacher_sees_them():
    """Orthogonal to the student, the same to the teacher: each image is drawn towards the other."""
    student = torch.eye(2, requires_grad=True)
    teacher = torch.ones(2, 2, requires_grad=True)
    similarity_preserving_loss(student, teacher).sum().backward()
    assert student.grad[0, 1] < 0
    assert student.grad[1, 0] < 0
    assert teacher.grad is None


def test_sums_over_a_map_are_not_taken_in_half_precision():
    """Products of 300 * 300 * 64 are far above what float16 holds; equal images have rows (1, 1) / sqrt(2)."""
    features = torch.full((2, 64, 1, 1), 300.0, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = similarity_preserving_loss(features, torch.eye(2))
    different, same = 0.5**0.5, (1 - 0.5**0.5) ** 2
    torch.testing.assert_close(loss, torch.tensor([[same, different**2], [different**2, same]]))


def test_features_of_other_batches_are_named_and_one_image_has_no_loss():
    with pytest.raises(ValueError, match=r"features of 2 images \(student\) and 3 \(teacher\)"):
        similarity_preserving_loss(torch.zeros(2, 1), torch.zeros(3, 1))
    assert similarity_preserving_loss(torch.rand(1, 5), torch.rand(1, 7)).item() == 0


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        loss = similarity_preserving_loss(
            torch.rand(2, 3, 4, 4, device="cuda"), torch.rand(2, 8, 2, 2, device="cuda")
        )
        assert (loss.device.type, loss.shape) == ("cuda", (2, 2))


def test_loss_of_a_detector_is_the_mean_over_the_levels(tmp_path):
    """Faster R-CNNs of 8 and 16 base channels whose FPNs differ in width: no adapter is needed."""
    inputs, samples = make_batch((2, 1, 3), size=(64, 96))
    model = distil(tmp_path, similarity(loss_weight=3.0), teacher=two_stage(base=16, channels=24))
    model.student.eval()
    model.student.training = True
    losses = seeded_loss(model, inputs, samples)
    expected = 0
    for own, taught in zip(
        model.student.extract_feat(inputs), model.teacher.model.extract_feat(inputs), strict=True
    ):
        grams = [torch.einsum("nchw,mchw->nm", maps, maps) for maps in (own, taught)]
        own_rows, taught_rows = (gram / gram.square().sum(1, keepdim=True).sqrt() for gram in grams)
        expected = expected + 3.0 * (own_rows - taught_rows).square().sum() / 3**2 / 5
    assert expected > 1e-3
    torch.testing.assert_close(losses["loss_similarity"], expected, rtol=1e-4, atol=1e-7)
    gradients = torch.autograd.grad(losses["loss_similarity"], model.backbone.conv1.weight)
    assert gradients[0].abs().sum() > 0
    assert not any(key.startswith("distillation.") for key in model.state_dict())


def test_maps_of_other_sizes_are_compared_as_they_are(tmp_path):
    """A PAA student's second level (stride 16) and a Faster R-CNN teacher's first (stride 4)."""
    inputs, samples = make_batch((2, 1), size=(64, 64))
    model = distil(
        tmp_path, similarity(student="neck[1]", teacher="neck[0]", loss_weight=1.0), student=small_paa()
    )
    model.student.eval()
    model.student.training = model.student.bbox_head.training = True
    own, taught = model.student.extract_feat(inputs)[1], model.teacher.model.extract_feat(inputs)[0]
    assert own.shape[-1] * 4 == taught.shape[-1]
    expected = similarity_preserving_loss(own, taught).mean()
    torch.testing.assert_close(model.loss(inputs, samples)["loss_similarity"], expected)


def test_tokens_that_are_no_map_are_compared_as_they_are(monkeypatch):
    """Seven tokens of the student's with a map of the teacher's: nothing has to be made a map."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 7, 16, generator=generator).requires_grad_()
    maps = torch.randn(3, 8, 4, 6, generator=generator)
    detector = torch.nn.ModuleDict(dict(neck=torch.nn.Conv2d(1, 1, 1)))
    outputs = SimpleNamespace(calls=lambda name: [tokens])
    monkeypatch.setattr("lad.methods.feature.feature_distillation.dry_run", lambda *args, **kwargs: outputs)
    dry = SimpleNamespace(calls=lambda name: [maps])
    teacher = SimpleNamespace(model=detector, dry_run=lambda names: dry, target=dry.calls)
    method = SimilarityPreservingDistillation(loss_weight=2.0)
    method.bind(detector, teacher)
    step = SimpleNamespace(
        student=detector,
        teacher=teacher,
        outputs=outputs,
        inputs=torch.zeros(3, 3, 64, 96),
        progress=Progress(),
    )
    expected = 2 * similarity_preserving_loss(tokens, maps).mean()
    torch.testing.assert_close(method.losses(step)["loss_similarity"], expected)


def test_a_teacher_with_the_students_weights_has_no_loss(tmp_path):
    inputs, samples = make_batch((2, 1), size=(64, 64))
    twin = distil(tmp_path, similarity(), teacher=two_stage())
    twin.student.load_state_dict(twin.teacher.model.state_dict())
    twin.student.eval()
    twin.student.training = True
    assert seeded_loss(twin, inputs, samples)["loss_similarity"] < 1e-10


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(student="nekc"), ConfigError, "no module 'nekc'; nearest: neck"),
        (
            dict(teacher="neck[7]"),
            ConfigError,
            r"'neck\[7\]': there is no level \[7\]: the module returns 5",
        ),
        (
            dict(teacher="backbone"),
            ConfigError,
            "'neck' returns 5 feature maps for the student and 'backbone' 4",
        ),
        (dict(student="roi_head.bbox_head"), UnsupportedError, "does not see the whole image"),
        (dict(loss_name="similarity"), ConfigError, "loss_name must contain 'loss'"),
    ],
)
def test_what_cannot_work_is_refused_when_built(tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        distil(tmp_path, similarity(**settings))
    assert "\n" not in str(caught.value)
