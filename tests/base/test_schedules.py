"""Schedules: values by hand at every place of a run, bounds, and mistakes in one line."""

import doctest
import math

from lad.base import schedules
from lad.base.progress import Progress
from lad.base.schedules import RAMPS, Schedule, build_schedule
from lad.errors import ConfigError

import pytest
from hypothesis import given
from hypothesis import strategies as st


def values(schedule, places):
    return [schedule.at(place) for place in places]


EPOCHS = [Progress(epoch=epoch) for epoch in range(7)]


def test_number_is_the_same_everywhere():
    assert values(build_schedule(0.3, "alpha"), EPOCHS) == [0.3] * 7
    assert values(build_schedule(dict(end=2, epochs=3), "alpha"), EPOCHS) == [2.0] * 7


def test_linear_from_start_to_end_in_iterations_then_constant():
    schedule = build_schedule(dict(type="linear", start=1.0, end=3.0, iters=8), "weight")
    found = values(schedule, [Progress(iteration=number) for number in (0, 2, 4, 8, 9, 1000)])
    assert found == [1.0, 1.5, 2.0, 3.0, 3.0, 3.0]


def test_cosine_over_the_whole_run():
    schedule = build_schedule(dict(type="cosine", start=4.0, end=0.0), "temperature")
    places = [Progress(iteration=number, max_iters=12) for number in (0, 4, 6, 8, 12)]
    # (1 + cos(pi / 3)) / 2 = 3/4, (1 + cos(2 pi / 3)) / 2 = 1/4
    assert values(schedule, places) == pytest.approx([4.0, 3.0, 2.0, 1.0, 0.0])


def test_exponential_is_the_warm_up_of_five_epochs():
    """e^(-5 (1 - e/5)^2): e^-5, e^-3.2, e^-1.8, e^-0.8, e^-0.2, 1 and no more."""
    schedule = build_schedule(dict(type="exponential", end=10.0, epochs=5), "weight")
    exponents = (-5, -3.2, -1.8, -0.8, -0.2, 0, 0)
    assert values(schedule, EPOCHS) == pytest.approx([10 * math.exp(each) for each in exponents])
    assert schedule.at(EPOCHS[0]) == pytest.approx(0.0673794700)


def test_whole_run_of_unknown_length_stays_at_its_beginning():
    schedule = build_schedule(dict(type="linear", start=1.0, end=3.0), "weight")
    assert schedule.at(Progress(iteration=50)) == 1.0


def test_epochs_count_in_whole_ones():
    schedule = build_schedule(dict(type="linear", end=1.0, epochs=2), "weight")
    assert values(schedule, [Progress(9, 0, 40, 4), Progress(10, 1, 40, 4), Progress(19, 1, 40, 4)]) == [
        0,
        0.5,
        0.5,
    ]


@given(
    st.sampled_from(sorted(RAMPS)),
    st.floats(-10, 10),
    st.floats(-10, 10),
    st.integers(1, 50),
    st.integers(0, 100),
)
def test_value_lies_between_start_and_end_and_ends_at_end(kind, start, end, iters, iteration):
    schedule = Schedule(end, start, kind, iters=iters)
    value = schedule.at(Progress(iteration=iteration))
    assert min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9
    assert schedule.at(Progress(iteration=iters)) == pytest.approx(end)


@pytest.mark.parametrize(
    ("config", "bounds", "message"),
    [
        (0, dict(above=0), "SelfDistillation: tau must be above 0, got 0"),
        (-1.0, dict(minimum=0), "tau must be at least 0, got -1.0"),
        (1.5, dict(maximum=1), "tau must be at most 1, got 1.5"),
        (True, {}, "tau must be a number, or like .* got True"),
        ("3", {}, "tau must be a number, .* got '3'"),
        (None, {}, "tau must be a number, .* got None"),
        (float("nan"), {}, "tau must be a number, .* got nan"),
        (dict(type="cosine", start=0.0, end=1.0), dict(above=0), r"tau \(start\) must be above 0, got 0.0"),
        (dict(type="linear", start=1.0, end="x"), {}, r"tau \(end\) must be a number"),
        (
            dict(type="cosin", end=1.0),
            {},
            "there is no schedule 'cosin'; nearest: cosine; there are constant",
        ),
        (dict(type=3, end=1.0), {}, "there is no schedule 3"),
        (dict(type="cosine", start=1.0), {}, "a schedule needs end"),
        (dict(type="cosine", end=1.0, epoch=5), {}, "'epoch' is no key of a schedule; it is a number"),
        (
            dict(type="linear", end=1.0, epochs=0),
            {},
            "epochs of a schedule must be a positive whole number, got 0",
        ),
        (dict(type="linear", end=1.0, iters=2.5), {}, "iters of a schedule must be a positive whole number"),
        (dict(type="linear", end=1.0, iters=2, epochs=2), {}, "a length in iters or in epochs, not in both"),
    ],
)
def test_wrong_schedule_is_answered_in_one_line(config, bounds, message):
    with pytest.raises(ConfigError, match=message) as refused:
        build_schedule(config, "SelfDistillation: tau", **bounds)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "is_zero"),
    [
        (0, True),
        (0.1, False),
        (dict(type="linear", end=0.0), True),
        (dict(type="linear", start=1.0, end=0.0), False),
        (dict(start=1.0, end=0.0), True),
    ],
)
def test_schedule_knows_whether_it_is_zero_throughout(config, is_zero):
    assert build_schedule(config, "weight").is_zero == is_zero


def test_start_of_a_constant_is_not_checked():
    assert build_schedule(3.0, "tau", above=0).at(Progress()) == 3.0


def test_examples_are_true():
    failed, attempted = doctest.testmod(schedules)
    assert attempted
    assert not failed
