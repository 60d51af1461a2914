"""Numbers of a step are the same in all processes, or others in each, whatever was drawn before."""

from lad.base import draws
from lad.base.draws import step_generator

import pytest
import torch


@pytest.fixture
def rank(monkeypatch):
    def be(number):
        monkeypatch.setattr(draws, "get_rank", lambda: number)

    return be


def draw(iteration=0, **settings):
    return torch.rand(4, generator=step_generator(iteration, **settings)).tolist()


def test_all_processes_draw_the_same_whatever_they_drew_before(rank):
    torch.manual_seed(3)
    rank(0)
    first = draw()
    rank(1)
    torch.rand(7)
    assert draw() == first
    assert draw(iteration=1) != first
    torch.manual_seed(4)
    assert draw() != first


def test_each_process_draws_others(rank):
    torch.manual_seed(3)
    found = []
    for number in range(4):
        rank(number)
        found += [draw(step, each_process=True) for step in range(4)]
        assert draw(2, each_process=True) == found[-2]
    assert len({tuple(one) for one in found}) == 16


def test_the_default_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    draw()
    assert torch.equal(torch.rand(2), expected)
