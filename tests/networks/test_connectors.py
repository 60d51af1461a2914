"""Adaptation layers."""

from lad.errors import UnsupportedError
from lad.networks.connectors import ConvConnector, LinearConnector, build_connector, match_size

import pytest
import torch
from helpers import fake_cuda


def test_maps_get_a_1x1_convolution_even_where_the_channels_agree():
    connector = build_connector(None, torch.Size([1, 3, 4, 4]), torch.Size([1, 3, 4, 4]))
    assert isinstance(connector, ConvConnector)
    features = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = connector.conv.weight[:, :, 0, 0], connector.conv.bias
    expected = torch.einsum("oc,nchw->nohw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(connector(features), expected)


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 5)), ((2, 7, 3), (2, 7, 5))])
def test_tokens_and_vectors_get_a_linear_layer(student, teacher):
    connector = build_connector(None, torch.Size(student), torch.Size(teacher))
    assert isinstance(connector, LinearConnector)
    features = torch.randn(student)
    expected = features @ connector.linear.weight.T + connector.linear.bias
    torch.testing.assert_close(connector(features), expected)


def test_config_names_another_connector_and_its_channels_are_filled_in():
    shapes = torch.Size([1, 2, 4, 4]), torch.Size([1, 6, 4, 4])
    connector = build_connector(dict(type="ConvConnector", kernel_size=3, bias=False), *shapes)
    assert connector.conv.weight.shape == (6, 2, 3, 3)
    assert connector.conv.bias is None
    assert connector(torch.zeros(1, 2, 5, 7)).shape == (1, 6, 5, 7)
    with pytest.raises(UnsupportedError, match="student has 2 channels and the teacher 6; use ConvConnector"):
        build_connector(dict(type="IdentityConnector"), *shapes)
    same = build_connector(dict(type="IdentityConnector"), shapes[0], shapes[0])
    features = torch.randn(1, 2, 3, 3)
    assert same(features) is features


def test_shapes_that_no_layer_connects_are_refused():
    with pytest.raises(UnsupportedError, match=r"\(1, 3, 4, 4\) \(student\) to \(1, 16, 3\)"):
        build_connector(None, torch.Size([1, 3, 4, 4]), torch.Size([1, 16, 3]))
    with pytest.raises(UnsupportedError, match="sequences of 16 tokens and the teacher's of 9"):
        build_connector(None, torch.Size([1, 16, 3]), torch.Size([1, 9, 3]))


def test_larger_maps_are_averaged_and_smaller_ones_interpolated():
    """Averages of 2x2 blocks; then, doubled by bilinear weights of 1/4 and 3/4 between neighbours 1 and 3."""
    large = torch.tensor([[[[1.0, 3, 5, 7], [1, 3, 5, 7]]]])
    assert match_size(large, (1, 2)).tolist() == [[[[2, 6]]]]
    small = torch.tensor([[[[1.0, 3.0]]]])
    assert match_size(small, (1, 4)).tolist() == [[[[1, 1.5, 2.5, 3]]]]
    # Larger in one direction and smaller in the other.
    mixed = torch.tensor([[[[1.0, 3.0], [3.0, 5.0]]]])
    assert match_size(mixed, (1, 4)).tolist() == [[[[2, 2.5, 3.5, 4]]]]
    assert match_size(mixed, (2, 2)) is mixed


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        features = torch.randn(2, 3, 8, 6, device="cuda")
        with torch.device("cuda"):
            connector = build_connector(None, torch.Size([1, 3, 8, 6]), torch.Size([1, 5, 4, 12]))
        adapted = match_size(connector(features), (4, 12))
        assert (adapted.device.type, adapted.shape) == ("cuda", (2, 5, 4, 12))
