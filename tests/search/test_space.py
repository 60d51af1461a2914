"""What is searched is read from the command line, and mistakes are one line."""

from lad.errors import ConfigError
from lad.search.space import Parameter, current_value, parse_parameter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("a.b=0.1..10", Parameter("a.b", 0.1, 10)),
        ("a=log:0.01..100", Parameter("a", 0.01, 100, log=True)),
        ("a=log:1e-4..1e-2", Parameter("a", 1e-4, 1e-2, log=True)),
        ("a=1e-4..1e-2", Parameter("a", 1e-4, 1e-2)),
        ("a=-1.5..2", Parameter("a", -1.5, 2)),
        ("a=1..8", Parameter("a", 1, 8, integer=True)),
        ("a=1..8.0", Parameter("a", 1, 8)),
        ("a=hard,soft", Parameter("a", choices=("hard", "soft"))),
        ("a=1,2.5,True,b", Parameter("a", choices=(1, 2.5, True, "b"))),
    ],
)
def test_a_parameter_is_read(text, parameter):
    assert parse_parameter(text) == parameter


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "it is not like KEY=VALUES"),
        ("=1..2", "it is not like KEY=VALUES"),
        ("a=", "it is not like KEY=VALUES"),
        ("a=2..1", "the first bound must be below the second"),
        ("a=1..1", "the first bound must be below the second"),
        ("a=1..inf", "the first bound must be below the second"),
        ("a=log:0..1", "on a logarithmic scale both bounds must be positive"),
        ("a=x..y", "its bounds are no numbers"),
        ("a=3", "a choice needs two different values"),
        ("a=3,3", "a choice needs two different values"),
    ],
)
def test_what_is_no_parameter_is_refused_in_one_line(text, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_parameter(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.booleans())
def test_bounds_come_out_as_they_were_written(one, other, log):
    low, high = sorted((one, other))
    if low == high:
        return
    parameter = parse_parameter(f"a={'log:' if log else ''}{low!r}..{high!r}")
    assert (parameter.low, parameter.high, parameter.log) == (low, high, log)
    assert parameter.allows(low)
    assert parameter.allows(high)
    assert not parameter.allows(high * 1.01)
    assert not parameter.allows("x")


def test_a_whole_number_allows_whole_numbers_and_a_choice_its_values():
    assert parse_parameter("a=1..8").allows(3)
    assert not parse_parameter("a=1..8").allows(3.5)
    assert not parse_parameter("a=1..8").allows(True)
    assert parse_parameter("a=hard,soft").allows("soft")
    assert not parse_parameter("a=hard,soft").allows("hrad")


def test_the_current_value_is_found_in_lists_and_dicts(tmp_path):
    cfg = Config(dict(model=dict(methods=[dict(weight=2.0)])))
    assert current_value(cfg, "model.methods.0.weight") == 2.0
    assert current_value(cfg, "model.methods.1.weight") is None
    assert current_value(cfg, "model.methods.0.weight.x") is None
    assert current_value(cfg, "nothing.at.all") is None
