"""Maps generated from a part of the student's."""

from lad.errors import ConfigError, UnsupportedError
from lad.losses import MGDLoss, generation_loss
from lad.networks.connectors import MaskedGenerationConnector, tokens_to_map

import pytest
import torch
import torch.nn.functional as F
from helpers import fake_cuda


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_arithmetic():
    """Differences 1, -2 in the first image: 5; 3 and 0 in the second: 9. Their mean times 2e-5 is 1.4e-4."""
    generated = torch.tensor([[[[1.0, 0]]], [[[3.0, 1]]]])
    teacher = torch.tensor([[[[0.0, 2]]], [[[0.0, 1]]]])
    assert generation_loss(generated, teacher).tolist() == [5, 9]
    assert MGDLoss()(generated, teacher).item() == pytest.approx(1.4e-4)
    assert MGDLoss(loss_weight=1.0)(
        generated, teacher, torch.tensor([0.0, 1]), avg_factor=1
    ).item() == pytest.approx(9)
    assert generation_loss(teacher, teacher).tolist() == [0, 0]


def test_gradient_moves_towards_the_teacher_and_half_precision_does_not_overflow():
    generated = torch.tensor([[[[400.0, -400]]]], dtype=torch.float16, requires_grad=True)
    teacher = -generated.detach()
    loss = generation_loss(generated, teacher)
    assert loss.tolist() == [2 * 800**2]
    loss.sum().backward()
    assert generated.grad.tolist() == [[[[1600, -1600]]]]


def test_connector_generates_from_the_positions_that_are_left():
    torch.manual_seed(0)
    connector = MaskedGenerationConnector(3, 5, mask_ratio=0.4)
    features = random_maps(0, 2, 3, 6, 7)
    torch.manual_seed(7)
    generated = connector(features)
    torch.manual_seed(7)
    kept = (torch.rand(2, 1, 6, 7) >= 0.4).float()
    assert 0 < kept.mean() < 1
    first, _, last = connector.generation
    masked = F.conv2d(features, connector.align.weight, connector.align.bias) * kept
    hidden = F.conv2d(masked, first.weight, first.bias, padding=1).relu()
    torch.testing.assert_close(generated, F.conv2d(hidden, last.weight, last.bias, padding=1))


def test_part_that_is_left_out_is_the_ratio_and_another_in_each_step():
    connector = MaskedGenerationConnector(1, 1, mask_ratio=0.65)
    with torch.no_grad():
        for conv in (connector.generation[0], connector.generation[2]):
            conv.weight.zero_()[:, :, 1, 1] = 1
            conv.bias.zero_()
    ones = torch.ones(1, 1, 100, 100)
    torch.manual_seed(0)
    first, second = connector(ones), connector(ones)
    # 10,000 positions: the standard deviation is 0.005.
    assert (first == 0).float().mean().item() == pytest.approx(0.65, abs=0.02)
    assert not torch.equal(first, second)
    assert sorted(first.unique().tolist()) == [0, 1]


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_ratio_is_checked(ratio):
    with pytest.raises(ConfigError, match=r"mask_ratio must be in \[0, 1\), got"):
        MaskedGenerationConnector(1, 1, mask_ratio=ratio)


@pytest.mark.parametrize(
    ("image", "size"), [((96, 64), (6, 4)), ((100, 64), (7, 4)), ((112, 56), (8, 4)), ((126, 70), (8, 5))]
)
def test_tokens_become_the_map_that_their_number_and_the_image_tell(image, size):
    """Strides 16, 16 with a padded edge, 14, and 16 with padded edges."""
    maps = random_maps(0, 2, 3, *size)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.equal(tokens_to_map(tokens, image), maps)


def test_tokens_that_are_no_map_are_refused():
    with pytest.raises(UnsupportedError, match="23 tokens are no map of an image of 64 x 64 pixels"):
        tokens_to_map(torch.zeros(1, 23, 3), (64, 64))


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        with torch.device("cuda"):
            connector = MaskedGenerationConnector(4, 6)
        features = torch.randn(2, 4, 8, 8, device="cuda")
        teacher = tokens_to_map(torch.randn(2, 64, 6, device="cuda"), (128, 128))
        assert MGDLoss()(connector(features), teacher).device.type == "cuda"
