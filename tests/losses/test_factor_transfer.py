"""Factor transfer: paraphraser, translator and the distance of their factors."""

from lad.errors import ConfigError
from lad.losses import FTLoss, factor_transfer_loss
from lad.losses.factor_transfer import Paraphraser, Translator

import pytest
import torch
from helpers import fake_cuda
from hypothesis import given
from hypothesis import strategies as st


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_arithmetic():
    """(3, 4) / 5 and (0, 2) / 2: |0.6 - 0| + |0.8 - 1| = 0.8 over two elements; times 500."""
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    assert factor_transfer_loss(student, teacher).item() == pytest.approx(0.4)
    assert FTLoss()(student, teacher).item() == pytest.approx(200)
    both = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    assert FTLoss(loss_weight=1.0)(*both).item() == pytest.approx(0.2)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scales_do_not_matter_and_an_equal_direction_has_no_loss(seed, first, second):
    student, teacher = random_maps(seed, 2, 3, 4, 4), random_maps(seed + 1, 2, 3, 4, 4)
    expected = factor_transfer_loss(student, teacher)
    assert (expected > 1e-3).all()
    torch.testing.assert_close(factor_transfer_loss(first * student, second * teacher), expected)
    assert factor_transfer_loss(first * student, student).max() < 1e-6
    order = torch.randperm(16)
    shuffled = (maps.flatten(2)[..., order].view_as(maps) for maps in (student, teacher))
    torch.testing.assert_close(factor_transfer_loss(*shuffled), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 6e4])
def test_constant_maps_in_half_precision_are_finite(dtype, value):
    student = torch.full((1, 2, 3, 3), value, dtype=dtype, requires_grad=True)
    teacher = torch.full((1, 2, 3, 3), 6e4, dtype=dtype, requires_grad=True)
    loss = factor_transfer_loss(student, teacher)
    assert loss.item() == pytest.approx(0 if value else 18**-0.5, abs=1e-3)
    loss.sum().backward()
    assert student.grad.isfinite().all()
    assert teacher.grad is None


def test_paraphraser_learns_to_reconstruct_from_fewer_channels():
    """Four channels that two numbers determine: the factor has room for them."""
    torch.manual_seed(0)
    codes = torch.rand(4, 2, 4, 4)
    features = torch.einsum(
        "fc,nfhw->nchw", torch.tensor([[1.0, 0.5, 0.0, 2.0], [0.0, 1.0, 1.0, 0.5]]), codes
    )
    paraphraser = Paraphraser(4, rate=0.5)
    assert paraphraser(features).shape == (4, 2, 4, 4)
    optimizer = torch.optim.Adam(paraphraser.parameters(), lr=0.03)
    first = paraphraser.reconstruction_loss(features)
    for _ in range(80):
        optimizer.zero_grad()
        loss = paraphraser.reconstruction_loss(features)
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * first


def test_reconstruction_loss_is_the_mean_squared_difference():
    paraphraser = Paraphraser(4, rate=0.25)
    features = random_maps(0, 2, 4, 5, 5)
    with torch.no_grad():
        expected = (paraphraser.decoder(paraphraser(features)) - features).square().mean()
        torch.testing.assert_close(paraphraser.reconstruction_loss(features), expected)
        # A teacher in half precision.
        assert paraphraser.reconstruction_loss(features.half()).dtype == torch.float32


def test_translator_is_built_as_the_encoder():
    shapes = {name: tuple(weight.shape) for name, weight in Translator(6, 2).encoder.named_parameters()}
    assert shapes == {
        name: tuple(weight.shape) for name, weight in Paraphraser(6, rate=0.34).encoder.named_parameters()
    }
    assert sum(name.endswith("bias") for name in shapes) == 3


def test_rate_that_leaves_no_channel_and_wrong_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"a rate of 0\.1 leaves nothing of 4 channels"):
        Paraphraser(4, rate=0.1)
    with pytest.raises(ValueError, match="need maps"):
        factor_transfer_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda(), torch.device("cuda"):
        features = torch.randn(2, 4, 5, 5)
        paraphraser, translator = Paraphraser(4), Translator(4, 2)
        assert FTLoss()(translator(features), paraphraser(features)).device.type == "cuda"
        assert paraphraser.reconstruction_loss(features).device.type == "cuda"
