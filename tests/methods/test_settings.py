"""Settings that many methods have, of every method that has them."""

import inspect

from lad.base.settings import check_numbers, checked_flag, is_number, is_whole
from lad.errors import ConfigError
from lad.methods.settings import checked_classes, checked_loss_name

import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_table import CONFIGS, TABLE
from mmdet.registry import MODELS

#: What a method cannot be built without.
NEEDED = {
    "FeatureDistillation": dict(CONFIGS["FeatureDistillation"][1]),
    "FeatureFusionSelfDistillation": dict(leader="c"),
}
NUMBERS = [
    (name, setting)
    for name in TABLE
    for setting, value in inspect.signature(MODELS.get(name)).parameters.items()
    if isinstance(value.default, (int, float)) and not isinstance(value.default, bool)
]
FLAGS = {
    f"{name}.{setting}": (name, setting)
    for name in TABLE
    for setting, value in inspect.signature(MODELS.get(name)).parameters.items()
    if isinstance(value.default, bool)
}


def with_setting(setting):
    return [name for name in TABLE if setting in inspect.signature(MODELS.get(name)).parameters]


def make(name, **settings):
    needed = {key: value for key, value in NEEDED.get(name, {}).items() if key != "name"}
    return MODELS.build(dict(type=name, **needed, **settings))


def test_many_methods_have_them():
    assert len(with_setting("loss_name")) > 10
    assert len(with_setting("classes")) > 5
    assert len(FLAGS) > 3


@pytest.mark.parametrize("wrong", [3, "kd", ["loss"], ""], ids=repr)
@pytest.mark.parametrize("name", with_setting("loss_name"))
def test_name_without_loss_is_one_line(name, wrong):
    with pytest.raises(
        ConfigError, match=rf"^{name}: loss_name must (contain|begin with) 'loss', got "
    ) as caught:
        make(name, loss_name=wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [5, "cat", [1, 2], dict(cat=1), True], ids=repr)
@pytest.mark.parametrize("name", with_setting("classes"))
def test_classes_that_are_no_list_of_names_are_one_line(name, wrong):
    with pytest.raises(
        ConfigError, match=rf"^{name}: classes must be a list of the student's class names, got "
    ):
        make(name, classes=wrong)


@pytest.mark.parametrize("wrong", ["no", 0, 1.0, None], ids=repr)
@pytest.mark.parametrize("flag", FLAGS)
def test_word_or_number_is_no_flag(flag, wrong):
    name, setting = FLAGS[flag]
    with pytest.raises(ConfigError, match=rf"^{name}: {setting} must be .*True.* or .*, got "):
        make(name, **{setting: wrong})


@given(st.text(max_size=8), st.text(max_size=8))
def test_name_with_loss_in_it_is_taken(before, after):
    assert checked_loss_name("M", f"{before}loss{after}") == f"{before}loss{after}"
    if not f"{before}loss".startswith("loss"):
        with pytest.raises(ConfigError, match="must begin with"):
            checked_loss_name("M", f"{before}loss{after}", begins=True)


@given(st.lists(st.text()))
def test_classes_are_kept_in_their_order(classes):
    assert checked_classes("M", classes) == tuple(classes)


def test_no_classes_and_flags_are_kept():
    assert checked_classes("M", None) is None
    assert checked_flag("M", "rescale", True) is True


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "3", True, [1.0]], ids=repr)
@pytest.mark.parametrize(("name", "setting"), NUMBERS)
def test_what_is_no_number_is_one_line(name, setting, wrong):
    with pytest.raises(ConfigError, match=setting) as caught:
        make(name, **{setting: wrong})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_settings_are_numbers():
    assert len(NUMBERS) > 30


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none(), st.lists(st.floats())))
def test_numbers_are_finite_and_whole_ones_are_ints(value):
    assert is_whole(value) is (type(value) is int)
    assert is_number(value) is (type(value) in (int, float) and abs(value) < float("inf"))


@pytest.mark.parametrize(
    ("bounds", "value", "wanted"),
    [
        (dict(above=0), 0, "positive"),
        (dict(above=2), 2.0, "above 2"),
        (dict(minimum=0), -1, "at least 0"),
        (dict(maximum=0.5), 1, "at most 0.5"),
        (dict(minimum=0, maximum=1), 1.5, "between 0 and 1"),
        (dict(minimum=0, maximum=1), -0.5, "between 0 and 1"),
        (dict(minimum=0), None, "a number"),
        ({}, "lots", "a number"),
    ],
)
def test_numbers_out_of_bounds_are_named(bounds, value, wanted):
    with pytest.raises(ConfigError) as caught:
        check_numbers("KD", **bounds, bad=value)
    assert str(caught.value) == f"KD: bad must be {wanted}, got {value!r}."


def test_numbers_on_their_bounds_are_allowed():
    check_numbers("KD", minimum=0, maximum=1, least=0, most=1, between=0.5)
    check_numbers("KD", above=0, tiny=5e-324, huge=10**400)
