"""The average of clients' weights: hand arithmetic, data types, and what cannot be averaged."""

from lad.federated.aggregation import non_finite, norm_keys, weighted_average

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LSTM(4, 4))


def states(count, **types):
    found = []
    for seed in range(count):
        own = model(seed)
        own[1].num_batches_tracked += 10 * seed
        found.append({**own.state_dict(), "flag": torch.tensor(seed == 0), "half": torch.randn(3).half()})
    return found


def test_by_hand():
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])
    average = weighted_average([dict(w=first), dict(w=second)], [1, 3])
    assert average["w"].tolist() == [4.0, -1.0]


def test_every_entry_keeps_its_data_type_and_shape():
    clients = states(3)
    average = weighted_average(clients, [5, 1, 2])
    assert list(average) == list(clients[0])
    for name, value in clients[0].items():
        assert average[name].dtype == value.dtype, name
        assert average[name].shape == value.shape, name
    assert average["1.num_batches_tracked"] == round((5 * 0 + 1 * 10 + 2 * 20) / 8)
    assert average["flag"].item() is True  # five of eight
    nn.Module.load_state_dict(model(0), {k: v for k, v in average.items() if k not in ("flag", "half")})


@given(st.integers(0, 100), st.lists(st.integers(0, 1000), min_size=1, max_size=5).filter(any))
def test_is_between_the_clients_and_does_not_depend_on_the_scale_of_weights(seed, weights):
    generator = torch.Generator().manual_seed(seed)
    clients = [dict(w=torch.randn(7, generator=generator)) for _ in weights]
    average = weighted_average(clients, weights)["w"]
    counted = torch.stack([own["w"] for own, weight in zip(clients, weights, strict=True) if weight])
    assert (average >= counted.min(0).values - 1e-6).all()
    assert (average <= counted.max(0).values + 1e-6).all()
    doubled = weighted_average(clients, [2 * weight for weight in weights])["w"]
    torch.testing.assert_close(doubled, average, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weight", [1, 3, 7, 0.1])
def test_one_client_and_equal_clients_stay_bit_for_bit(weight):
    [own] = states(1)
    for clients in ([own], [own, own, own]):
        average = weighted_average(clients, [weight] * len(clients))
        assert all(torch.equal(average[name], value) for name, value in own.items())


def test_large_integers_that_agree_are_not_rounded():
    large = torch.tensor(2**60 + 1)
    assert weighted_average([dict(n=large)] * 2, [1, 2])["n"] == large


def test_result_shares_no_memory_with_a_client():
    own = dict(w=torch.ones(2))
    weighted_average([own], [1])["w"].zero_()
    assert own["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("clients", "weights", "message"),
    [
        ([], [], "0 states"),
        ([dict(w=torch.ones(1))], [1, 2], "1 states and 2 weights"),
        ([dict(w=torch.ones(1))], [0], "not all 0"),
        ([dict(w=torch.ones(1))] * 2, [2, -1], "negative"),
        ([dict(w=torch.ones(1)), dict(v=torch.ones(1))], [1, 1], "'v' is in some"),
        ([dict(w=torch.ones(1)), dict(w=torch.ones(2))], [1, 1], r"'w' has the shapes \(1,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_averaged_is_refused(clients, weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_average(clients, weights)


def test_norm_keys_are_those_of_layers_with_running_statistics():
    names = norm_keys(model(0).state_dict())
    assert names == {
        f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_non_finite_names_the_entry():
    assert non_finite(model(0).state_dict()) is None
    assert non_finite(dict(a=torch.ones(2), b=torch.tensor([0.0, torch.nan]))) == "b"
    assert non_finite(dict(a=torch.ones(2), b=torch.tensor([torch.inf]))) == "b"
