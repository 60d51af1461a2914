"""When the hook looks whether a signal came."""

import signal
from types import SimpleNamespace
from unittest import mock

from lad.engine.hooks import PreemptionHook

import pytest


class LeftError(Exception):
    """The run would end here."""


def iterations_until_it_leaves(hook, asked_in, accumulation=1, number=20):
    """After how many iterations a run ends whose signal comes in the iteration of a number; and the looks it took."""
    runner = SimpleNamespace(
        iter=0, epoch=0, optim_wrapper=SimpleNamespace(_accumulative_counts=accumulation)
    )
    looks = []
    asked = hook._any_rank_was_asked

    def look():
        looks.append(runner.iter + 1)
        return asked()

    with (
        mock.patch.object(hook, "_any_rank_was_asked", look),
        mock.patch.object(hook, "_save"),
        mock.patch.object(hook, "_leave", side_effect=LeftError),
    ):
        for runner.iter in range(number):
            if runner.iter + 1 == asked_in:
                hook._receive(signal.SIGTERM, None)
            try:
                hook.after_train_iter(runner, runner.iter)
            except LeftError:
                hook._save.assert_called_once_with(runner, epoch=0, iteration=runner.iter + 1)
                return runner.iter + 1, looks
    return None, looks


@pytest.mark.parametrize(
    ("interval", "accumulation", "asked_in", "left_after", "looks"),
    [
        (1, 1, 3, 3, [1, 2, 3]),
        # Ranks exchange a number at these alone.
        (5, 1, 1, 5, [5]),
        (5, 1, 6, 10, [5, 10]),
        (5, 1, 5, 5, [5]),
        # Where gradients are accumulated over 4 iterations, the first look at which nothing is lost.
        (1, 4, 5, 8, [4, 8]),
        (6, 4, 1, 12, [12]),
    ],
)
def test_run_leaves_at_the_next_iteration_of_its_interval(
    interval, accumulation, asked_in, left_after, looks
):
    hook = PreemptionHook(interval=interval)
    assert iterations_until_it_leaves(hook, asked_in, accumulation) == (left_after, looks)


def test_run_that_nobody_asks_does_not_leave():
    assert iterations_until_it_leaves(PreemptionHook(interval=8), asked_in=None) == (None, [8, 16])
