"""When the teacher is asked, as in JITNet's algorithm 1."""

from lad.errors import ConfigError
from lad.online.controller import Stride, StrideRules, first_stride, next_stride

import pytest
from hypothesis import given
from hypothesis import strategies as st

RULES = StrideRules()


@pytest.mark.parametrize(
    ("length", "f1", "wanted"),
    [
        # Learnt: twice as long, up to the longest.
        (8, 0.95, 16),
        (16, 1.0, 32),
        (32, 0.9, 64),
        (64, 0.95, 64),
        # Not learnt: half as long, down to the shortest.
        (64, 0.89, 32),
        (32, 0.0, 16),
        (16, 0.5, 8),
        (8, 0.5, 8),
    ],
)
def test_success_doubles_and_failure_halves(length, f1, wanted):
    assert next_stride(RULES, Stride(length, 100), 100, f1) == Stride(wanted, 100 + wanted)


def test_first_frame_is_labelled():
    assert first_stride(RULES) == Stride(8, 0)


@pytest.mark.parametrize(
    ("f1", "updates", "wanted"),
    [(0.89, 0, True), (0.89, 7, True), (0.89, 8, False), (0.9, 0, False), (1.0, 3, False)],
)
def test_frame_is_trained_on_until_it_is_learnt_or_the_updates_are_used_up(f1, updates, wanted):
    assert RULES.wants_update(f1, updates) is wanted


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 20), st.integers(0, 60))
def test_stride_stays_in_its_bounds(f1s, least, more):
    rules = StrideRules(min_stride=least, max_stride=least + more)
    stride, frame = first_stride(rules), 0
    for f1 in f1s:
        after = next_stride(rules, stride, frame, f1)
        assert least <= after.length <= least + more
        assert after.due == frame + after.length
        assert after.length >= stride.length if f1 >= rules.threshold else after.length <= stride.length
        stride, frame = after, after.due


@pytest.mark.parametrize(
    "wrong", [dict(min_stride=0), dict(min_stride=9, max_stride=8), dict(threshold=1.1), dict(max_updates=-1)]
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ConfigError):
        StrideRules(**wrong)
