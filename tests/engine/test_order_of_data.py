"""Where a run goes on: order of the data, random numbers, and what every config gets."""

import random
from types import SimpleNamespace

from lad.base.config import load_config
from lad.engine import ResumableBatchSampler, survive_interruption
from lad.engine.defaults import resume_request
from lad.engine.loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from lad.engine.randomness import SeededItems, seed_step

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler


def batches_of(sampler, count=None):
    return [batch for _, batch in zip(range(count or 10**6), sampler, strict=False)]


def indices_of(batches):
    return [[draw.index for draw in batch] for batch in batches]


@given(
    samples=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    drop_last=st.booleans(),
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_epoch_from_any_batch_on_is_the_rest_of_the_whole_epoch(samples, batch_size, drop_last, epoch, data):
    def make():
        return ResumableBatchSampler(
            DefaultSampler(range(samples), seed=3), batch_size, drop_last=drop_last, seed=5
        )

    whole, part = make(), make()
    whole.seek(epoch, 0)
    expected = batches_of(whole)
    assert len(expected) == len(whole)
    skip = data.draw(st.integers(0, len(expected)))
    part.seek(epoch, skip)
    assert batches_of(part) == expected[skip:]
    # The next epoch, of itself.
    assert batches_of(part) == batches_of(whole)


def test_every_sample_of_every_epoch_has_random_numbers_of_its_own():
    sampler = ResumableBatchSampler(DefaultSampler(range(10), seed=3), 3, seed=5)
    draws = [draw for _ in range(4) for batch in batches_of(sampler) for draw in batch]
    assert len(draws) == 40
    assert len({draw.entropy for draw in draws}) == 40


def test_endless_sampler_goes_on_where_it_was():
    whole = ResumableBatchSampler(InfiniteSampler(range(7), seed=3), 3)
    part = ResumableBatchSampler(InfiniteSampler(range(7), seed=3), 3)
    assert not whole.counts_epochs
    part.seek(0, 5)
    assert batches_of(part, 4) == batches_of(whole, 9)[5:]


def test_paused_sampler_gives_nothing_until_it_is_placed():
    sampler = ResumableBatchSampler(InfiniteSampler(range(7), seed=3), 3)
    sampler.paused = True
    assert batches_of(sampler, 2) == []
    sampler.seek(0, 0)
    fresh = ResumableBatchSampler(InfiniteSampler(range(7), seed=3), 3)
    assert batches_of(sampler, 5) == batches_of(fresh, 5)


def test_ranks_together_draw_what_one_process_draws(monkeypatch):
    def draws(rank, world_size):
        monkeypatch.setattr("lad.engine.batch_sampler.get_dist_info", lambda: (rank, world_size))
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (rank, world_size))
        sampler = ResumableBatchSampler(DefaultSampler(range(12), seed=3), 4 // world_size, seed=5)
        return batches_of(sampler)

    alone = draws(0, 1)
    together = [[*first, *second] for first, second in zip(draws(0, 2), draws(1, 2), strict=True)]
    assert [set(batch) for batch in together] == [set(batch) for batch in alone]


class Random:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()


def test_samples_do_not_depend_on_what_was_loaded_before_nor_disturb_what_comes_after():
    load = SeededItems(Random())
    draws = [draw for batch in ResumableBatchSampler(DefaultSampler(Random(), seed=3), 2) for draw in batch]
    together = load(draws)
    seed_step(1, 2)
    before = [random.random(), np.random.rand(), torch.rand(1).item()]
    seed_step(1, 2)
    assert [load([draw])[0] for draw in reversed(draws)] == together[::-1]
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == before
    for column in list(zip(*together, strict=True))[1:]:
        assert len(set(column)) == 5


def test_steps_have_unrelated_random_numbers():
    values = []
    for seed in range(4):
        for step in range(100):
            seed_step(seed, step)
            values.append((random.random(), np.random.rand(), torch.rand(1).item()))
    values = np.array(values)
    assert len(np.unique(values)) == values.size
    # The standard error of the mean of 1,200 uniform numbers is 0.008.
    assert abs(values.mean() - 0.5) < 0.03
    neighbours = np.corrcoef(values[:-1, 2], values[1:, 2])[0, 1]
    assert abs(neighbours) < 0.15


def test_mmdetections_configs_get_the_hooks_and_keep_their_settings():
    cfg = load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.default_hooks.checkpoint.update(interval=3, save_best="auto")
    survive_interruption(cfg)
    assert cfg.default_hooks.checkpoint == dict(type="AtomicCheckpointHook", interval=3, save_best="auto")
    assert cfg.default_hooks.preemption == dict(type="PreemptionHook")
    assert cfg.train_cfg.type == "ResumableEpochBasedTrainLoop"
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.custom_imports["imports"] == ["lad"]


def test_own_choices_of_a_config_stay():
    cfg = Config(
        dict(
            default_hooks=dict(checkpoint=None, preemption=dict(type="PreemptionHook", exit_code=85)),
            train_cfg=dict(type="MyLoop"),
            custom_imports=dict(imports=["mine", "lad"]),
        )
    )
    survive_interruption(cfg)
    assert cfg.default_hooks.checkpoint is None
    assert cfg.default_hooks.preemption.exit_code == 85
    assert cfg.train_cfg.type == "MyLoop"
    assert cfg.custom_imports["imports"] == ["mine", "lad"]


@pytest.mark.parametrize(
    ("by_epoch", "loop"),
    [(True, "ResumableEpochBasedTrainLoop"), (False, "ResumableIterBasedTrainLoop")],
)
def test_loops_given_by_epoch_are_exchanged_too(by_epoch, loop):
    cfg = Config(dict(train_cfg=dict(by_epoch=by_epoch)))
    survive_interruption(cfg)
    assert cfg.train_cfg == dict(type=loop)
    assert cfg.default_hooks.checkpoint.type == "AtomicCheckpointHook"


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_restarted_run_resumes_without_being_asked_from_its_own_checkpoint_alone(
    tmp_path, monkeypatch, variable
):
    assert resume_request(str(tmp_path), None) is None
    assert resume_request(str(tmp_path), "auto") is None
    assert resume_request(str(tmp_path), "some.pth") == "some.pth"
    torch.save(dict(reason="a loss was NaN"), tmp_path / "bad_batch.pth")
    assert resume_request(str(tmp_path), "auto") is None  # so that load_from is not given up for it
    state = dict(state_dict={}, meta=dict(epoch=1, iter=5), message_hub={}, optimizer={})
    torch.save(state, tmp_path / "epoch_1.pth")
    assert resume_request(str(tmp_path), "auto") == "auto"
    monkeypatch.setenv(variable, "1")
    # An earlier run's: this one has not written last_checkpoint.
    assert resume_request(str(tmp_path), None) is None
    (tmp_path / "last_checkpoint").write_text("epoch_1.pth")
    assert resume_request(str(tmp_path), None) == "auto"
    # It began with some.pth, and has come further.
    assert resume_request(str(tmp_path), "some.pth") == "auto"
    monkeypatch.setenv(variable, "0")
    assert resume_request(str(tmp_path), None) is None
    assert resume_request(str(tmp_path), "some.pth") == "some.pth"


@pytest.mark.parametrize(
    ("kind", "expected"), [(ResumableEpochBasedTrainLoop, 15), (ResumableIterBasedTrainLoop, 37)]
)
def test_run_with_another_number_of_batches_keeps_its_iteration_or_begins_its_epoch_anew(kind, expected):
    """Iteration 37 in epoch 3 of 12 batches; now an epoch has 5. An iteration-based run counts no epochs."""
    loop = kind.__new__(kind)
    loop._iter, loop._epoch = 37, 3
    loop.dataloader = SimpleNamespace(
        batch_sampler=ResumableBatchSampler(DefaultSampler(range(10)), batch_size=2)
    )
    loop._restart_position(loop.batch_sampler, 5)
    assert loop._iter == expected
