"""Distance of features at each position: values by hand, the gradient where the two are equal, and mistakes."""

from lad.losses import FeatureDistanceLoss, feature_distance_loss

import pytest
import torch


def test_value_is_the_mean_over_positions_of_the_norm_over_channels():
    """Differences (3, 4), (0, 0), (6, 8) and (5, 12): norms 5, 0, 10, 13, of the first image 15 / 3 positions."""
    student = torch.tensor([[[[3.0, 0.0, 6.0]], [[4.0, 0.0, 8.0]]], [[[5.0, 0.0, 0.0]], [[12.0, 0.0, 0.0]]]])
    found = feature_distance_loss(student, torch.zeros(2, 2, 1, 3))
    torch.testing.assert_close(found, torch.tensor([5.0, 13 / 3]))
    torch.testing.assert_close(
        FeatureDistanceLoss(loss_weight=3.0)(student, torch.zeros(2, 2, 1, 3)), found.mean() * 3
    )


def test_gradient_is_the_unit_vector_over_the_positions_and_0_where_the_two_are_equal():
    student = torch.tensor([[[[3.0, 1.0]], [[4.0, 2.0]]]], requires_grad=True)
    teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]], requires_grad=True)
    feature_distance_loss(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, torch.tensor([[[[0.3, 0.0]], [[0.4, 0.0]]]]))
    assert teacher.grad is None


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="need maps"):
        feature_distance_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="need maps"):
        feature_distance_loss(torch.zeros(1, 2), torch.zeros(1, 2))
