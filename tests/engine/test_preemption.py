"""When the hook checks whether a signal came."""

import signal
from types import SimpleNamespace
from unittest import mock

from lad.engine.hooks import PreemptionHook

import pytest


class ExitedError(Exception):
    """The run would end here."""


def iterations_until_exit(hook, signalled_in, accumulation=1, number=20):
    """Number of iterations until a run exits that receives a signal in a given iteration, and the checks it made."""
    runner = SimpleNamespace(
        iter=0, epoch=0, optim_wrapper=SimpleNamespace(_accumulative_counts=accumulation)
    )
    checks = []
    received = hook._any_rank_received_signal

    def check():
        checks.append(runner.iter + 1)
        return received()

    with (
        mock.patch.object(hook, "_any_rank_received_signal", check),
        mock.patch.object(hook, "_save"),
        mock.patch.object(hook, "_exit", side_effect=ExitedError),
    ):
        for runner.iter in range(number):
            if runner.iter + 1 == signalled_in:
                hook._receive(signal.SIGTERM, None)
            try:
                hook.after_train_iter(runner, runner.iter)
            except ExitedError:
                hook._save.assert_called_once_with(runner, epoch=0, iteration=runner.iter + 1)
                return runner.iter + 1, checks
    return None, checks


@pytest.mark.parametrize(
    ("interval", "accumulation", "signalled_in", "left_after", "checks"),
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
def test_run_exits_at_the_next_iteration_of_its_interval(
    interval, accumulation, signalled_in, left_after, checks
):
    hook = PreemptionHook(interval=interval)
    assert iterations_until_exit(hook, signalled_in, accumulation) == (left_after, checks)


def test_run_without_a_signal_does_not_exit():
    assert iterations_until_exit(PreemptionHook(interval=8), signalled_in=None) == (None, [8, 16])
