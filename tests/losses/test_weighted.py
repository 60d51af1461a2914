"""Settings of losses that cannot be meant are refused when the loss is built."""

from lad import losses
from lad.errors import ConfigError
from lad.losses.weighted import WeightedLoss

import pytest

CHANNELS = dict(FGDLoss=dict(channels=4))
LOSSES = sorted(
    name
    for name in losses.__all__
    if isinstance(kind := getattr(losses, name), type) and issubclass(kind, WeightedLoss) and "Loss" in name
)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "RKDLoss"])
def test_unknown_reduction_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: reduction must be one of none, mean, sum, got 'avg'"):
        getattr(losses, name)(**CHANNELS.get(name, {}), reduction="avg")


@pytest.mark.parametrize(
    "name", ["KDLoss", "DKDLoss", "LDLoss", "CWDLoss", "FGDLoss", "SoftCrossEntropyLoss"]
)
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_that_is_not_positive_is_refused(name, temperature):
    with pytest.raises(ConfigError, match=f"{name}: temperature must be positive, got {temperature}"):
        getattr(losses, name)(**CHANNELS.get(name, {}), temperature=temperature)


def test_exponents_without_a_gradient_are_refused():
    with pytest.raises(ConfigError, match=r"ATLoss: power must be at least 1, got 0\.5"):
        losses.ATLoss(power=0.5)
    with pytest.raises(ConfigError, match="FocalKLLoss: gamma must not be negative, got -1"):
        losses.FocalKLLoss(gamma=-1)
