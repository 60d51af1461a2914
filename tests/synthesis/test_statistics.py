"""Distance of batch statistics from those that batch norm layers have stored."""

from lad.synthesis.statistics import StatisticsDistance, batch_norms, channel_statistics

import pytest
import torch
from helpers import fake_cuda
from torch import nn


def test_mean_and_variance_by_hand():
    values = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[2.0, 6.0], [5.0, 9.0]]])  # (N, C, L)
    mean, var = channel_statistics(values)
    assert mean.tolist() == [3.0, 6.0]
    # Sums of squares 4 + 0 + 1 + 9 and 1 + 1 + 1 + 9, divided by 3.
    assert var.tolist() == pytest.approx([14 / 3, 4.0])


def test_a_single_value_has_no_variance():
    assert channel_statistics(torch.tensor([[7.0, 8.0]]))[1].tolist() == [0.0, 0.0]


def test_distance_by_hand():
    layer = nn.BatchNorm1d(2).eval()
    layer.running_mean.copy_(torch.tensor([0.0, 2.0]))
    layer.running_var.copy_(torch.tensor([2.0, 5.0]))
    statistics = StatisticsDistance(nn.Sequential(layer))
    with statistics.record():
        layer(torch.tensor([[2.0, 6.0], [4.0, 6.0]]))
    # Means (3, 6) and variances (2, 0): a distance of 5 from (0, 2), and one of 5 from (2, 5).
    assert statistics.distances().tolist() == pytest.approx([10.0])


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm2d(3), (4, 3, 5, 6)), (nn.BatchNorm1d(3), (7, 3))])
def test_batch_that_the_layer_was_trained_on_has_distance_zero(layer, shape):
    batch = torch.randn(shape) * 3 + 1
    layer.momentum = 1.0
    layer.train()(batch)
    statistics = StatisticsDistance(layer.eval())
    with statistics.record():
        layer(batch)
    assert statistics.distances().item() == pytest.approx(0, abs=1e-5)


def test_layer_of_several_levels_is_compared_by_the_mean_of_its_calls():
    levels = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4) * 4]
    layer = nn.BatchNorm2d(3, momentum=None)  # its running statistics are the mean over its calls
    for level in levels:
        layer.train()(level)
    statistics = StatisticsDistance(layer.eval())
    # The running statistics start from (0, 1), which the first call replaces.
    with statistics.record():
        for level in levels:
            layer(level)
    assert statistics.distances().item() == pytest.approx(0, abs=1e-5)


def test_distances_come_in_the_order_of_calls_and_of_called_layers_only():
    used, unused, later = nn.BatchNorm1d(1), nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    statistics = StatisticsDistance(nn.ModuleList([later, unused, used]).eval())
    with statistics.record():
        later(used(torch.full((2, 1), 3.0)) + 4)
    first, second = statistics.distances().tolist()
    assert first == pytest.approx(3 + 1)  # mean 3 instead of 0, variance 0 instead of 1
    assert second == pytest.approx(7 + 1, abs=1e-4)


def test_record_leaves_the_layers_as_they_were():
    layer = nn.BatchNorm2d(2).eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with StatisticsDistance(layer).record():
        layer(torch.randn(2, 2, 4, 4))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert not layer._forward_pre_hooks


def test_gradient_reaches_the_images_and_is_finite_where_the_distance_is_zero():
    layer = nn.BatchNorm1d(1).eval()
    values = torch.tensor([[-(0.5**0.5)], [0.5**0.5]], requires_grad=True)  # mean 0, variance 1
    statistics = StatisticsDistance(layer)
    with statistics.record():
        layer(values)
    statistics.distances().sum().backward()
    assert torch.isfinite(values.grad).all()


def test_layers_without_running_statistics_do_not_count():
    model = nn.ModuleList(
        [nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2), nn.SyncBatchNorm(2)]
    )
    assert batch_norms(model) == [model[2]]


def test_without_a_record_there_are_no_distances():
    with pytest.raises(RuntimeError, match="no batch norm layer was called"):
        StatisticsDistance(nn.BatchNorm2d(2)).distances()


def test_distances_do_not_wait_for_the_device():
    with fake_cuda():
        layer = nn.BatchNorm2d(2, device="cuda").eval()
        statistics = StatisticsDistance(layer)
        with statistics.record():
            layer(torch.randn(2, 2, 4, 4, device="cuda"))
        assert statistics.distances().shape == (1,)
