"""Settings of losses that are numbers."""

import inspect

from lad import losses
from lad.errors import ConfigError

import pytest

CLASSES = {name: getattr(losses, name) for name in losses.__all__ if inspect.isclass(getattr(losses, name))}
NUMBERS = [
    (name, setting)
    for name, loss in CLASSES.items()
    for setting, value in inspect.signature(loss).parameters.items()
    if isinstance(value.default, (int, float)) and not isinstance(value.default, bool)
]


def make(name, **settings):
    """A loss with 4 channels where it must be told how many there are."""
    needed = {
        key: 4
        for key, value in inspect.signature(CLASSES[name]).parameters.items()
        if value.default is value.empty and value.kind is value.POSITIONAL_OR_KEYWORD
    }
    return CLASSES[name](**needed, **settings)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, "3", True, ["x"]], ids=repr)
@pytest.mark.parametrize(("name", "setting"), NUMBERS)
def test_what_is_no_number_or_negative_is_one_line(name, setting, wrong):
    with pytest.raises(ConfigError, match=f"^{name}: {setting} must be ") as caught:
        make(name, **{setting: wrong})
    assert "\n" not in str(caught.value)


def test_many_settings_are_numbers():
    assert len(NUMBERS) > 30
    assert {"KDLoss", "QualityKDLoss", "FGDLoss"} <= {name for name, _ in NUMBERS}


def test_weights_of_classes_are_checked_one_by_one():
    make("SoftCrossEntropyLoss", class_weight=[1.0, 2])
    with pytest.raises(ConfigError, match="SoftCrossEntropyLoss: class_weight must be a number, got '2'"):
        make("SoftCrossEntropyLoss", class_weight=[1.0, "2"])
