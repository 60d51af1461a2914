"""A loss that is no number ends the run, or its step, before a weight has changed."""

import logging
from unittest import mock

from lad.compat.safe_loading import load_safely
from lad.engine.hooks import NumericalFaultHook
from lad.engine.hooks.bad_batch import bad_input, plain
from lad.engine.hooks.numerical_faults import BAD_BATCH, DeviceFlag, not_finite
from lad.errors import ConfigError, NumericalError

import numpy as np
import pytest
import torch
from fault_runs import Trainer, final_state, make_data, write_config
from helpers import fake_cuda, make_batch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData

NAN, INF = float("nan"), float("inf")


class Line(BaseModel):
    """One weight, with batch norm; the loss is the inputs' mean times the weight, in two terms."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.norm = torch.nn.BatchNorm1d(1)
        self.raises = False

    def forward(self, inputs, data_samples, mode="tensor"):
        value = torch.stack(inputs).float().mean(dim=(1, 2, 3))
        self.norm(value[:, None])
        if self.raises and not bool(value.isfinite().all()):
            raise FloatingPointError("predictions for image 0 are NaN or infinite")
        return dict(
            loss_cls=[self.weight * value[:1], self.weight * value[1:]],
            loss_bbox=self.weight.sum(),
            accuracy=value * NAN,
        )


class Items:
    """Images of one pixel value each, two a batch."""

    metainfo = {}

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        sample = make_batch(objects=(2,), seed=index)[1][0]
        sample.set_metainfo(dict(img_id=100 + index, img_path=f"{index}.jpg"))
        return dict(inputs=torch.full((3, 4, 4), float(self.values[index])), data_samples=sample)


def make_runner(work_dir, values, wrapper=None, epochs=1, **options):
    return Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Items(values),
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), **(wrapper or {})),
        custom_hooks=[NumericalFaultHook(**options)],
        experiment_name=f"{work_dir.name}_{len(list(work_dir.glob('*')))}",
        default_scope="mmdet",
    )


@pytest.mark.parametrize(("bad", "term"), [(NAN, "loss_cls[1] is nan"), (-INF, "loss_cls[1] is -inf")])
def test_run_stops_at_that_step_with_the_weights_before_it(tmp_path, bad, term):
    # Losses of the first step: w * 1, w * 3 and w, so the gradient is 5 and w = 1 - 0.1 * 5.
    runner = make_runner(tmp_path, [1, 3, 1, bad, 1, 1])
    with pytest.raises(NumericalError) as caught:
        runner.train()
    assert runner.model.weight.item() == pytest.approx(0.5)
    message = str(caught.value)
    assert (
        f"iteration 2 of epoch 1: {term} for image 102 (2.jpg), image 103 (3.jpg); the batch is in" in message
    )
    assert "the pixels of image 103 (3.jpg) are not finite" in message
    assert "\n" not in message


def test_batch_is_written_as_tensors_and_plain_data(tmp_path):
    runner = make_runner(tmp_path, [1, 3, 1, NAN])
    with pytest.raises(NumericalError):
        runner.train()
    batch = load_safely(tmp_path / BAD_BATCH)
    assert [image.flatten()[0].item() for image in batch["inputs"]] == pytest.approx([1, NAN], nan_ok=True)
    expected = Items([0] * 4)[3]["data_samples"]
    sample = batch["data_samples"][1]
    assert torch.equal(sample["gt_instances"]["bboxes"], expected.gt_instances.bboxes)
    assert torch.equal(sample["gt_instances"]["labels"], expected.gt_instances.labels)
    assert sample["metainfo"]["img_path"] == "3.jpg"
    assert sample["metainfo"]["img_shape"] == (96, 128)
    # Before the step: the weight is 0.5.
    assert batch["losses"]["loss_cls"][0].item() == pytest.approx(0.5)
    assert batch["losses"]["loss_bbox"].item() == pytest.approx(0.5)
    assert (batch["iter"], batch["epoch"], batch["rank"]) == (1, 0, 0)


def test_skipped_step_leaves_weights_buffers_and_averages_as_without_it(tmp_path):
    skipping = make_runner(tmp_path / "a", [1, 3, NAN, 1, 2, 4], policy="skip")
    skipping.train()
    without = make_runner(tmp_path / "b", [1, 3, 2, 4], policy="skip")
    without.train()
    for name, value in without.model.state_dict().items():
        assert torch.equal(skipping.model.state_dict()[name], value), name
    assert skipping.message_hub.get_info("skipped_steps") == 1
    assert "skipped_steps" not in without.message_hub.runtime_info
    losses = [runner.message_hub.get_scalar("train/loss").data[0].tolist() for runner in (skipping, without)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_number_of_skipped_steps_is_bounded_and_resumed(tmp_path):
    runner = make_runner(tmp_path, [NAN, 1] * 3, policy="skip", max_skips=2)
    with pytest.raises(NumericalError, match="2 steps were left out before, as max_skips allows"):
        runner.train()
    assert runner.model.weight.item() == 1
    first = make_runner(tmp_path / "first", [NAN, 1, NAN, 1], policy="skip", max_skips=2)
    first.train()
    second = make_runner(tmp_path / "second", [NAN, 1], epochs=2, policy="skip", max_skips=2)
    second.message_hub.load_state_dict(first.message_hub.state_dict())
    with pytest.raises(NumericalError, match="2 steps were left out"):
        second.train()


def test_skipping_drops_the_gradients_accumulated_with_the_bad_one(tmp_path):
    # Two batches a step. The first pair holds the bad one and is dropped; the second moves w by 0.1 * (5 + 5) / 2.
    runner = make_runner(
        tmp_path, [1, 3, NAN, 1, 1, 3, 1, 3], wrapper=dict(accumulative_counts=2), policy="skip"
    )
    runner.train()
    assert runner.model.weight.item() == pytest.approx(0.5)


def test_weights_that_are_broken_already_are_not_skipped_but_named(tmp_path):
    runner = make_runner(tmp_path, [1, 3], policy="skip")
    runner.model.weight.data.fill_(NAN)
    with pytest.raises(NumericalError, match=r"the weights were not finite before this step \(weight\)"):
        runner.train()


def test_between_two_looks_a_nan_reaches_the_weights_and_the_next_look_finds_it(tmp_path):
    runner = make_runner(tmp_path, [NAN, 1, 1, 1, 1, 1], interval=2)
    with pytest.raises(NumericalError, match=r"iteration 2 of epoch 1.*weights were not finite before"):
        runner.train()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_refusal_on_the_way_to_the_loss_is_treated_likewise(tmp_path, policy):
    runner = make_runner(tmp_path, [1, 3, NAN, 1, 1, 3], policy=policy)
    runner.model.raises = True
    if policy == "skip":
        runner.train()
        assert runner.model.weight.item() == pytest.approx(0, abs=1e-6)
        assert runner.model.norm.num_batches_tracked == 2
    else:
        with pytest.raises(NumericalError, match=r"iteration 2 .* predictions for image 0 are NaN.*102"):
            runner.train()
    assert load_safely(tmp_path / BAD_BATCH)["data_samples"][0]["metainfo"]["img_id"] == 102


def test_hook_changes_nothing_and_leaves_nothing_behind(tmp_path):
    watched = make_runner(tmp_path / "a", [1, 3, 2, 4], policy="stop")
    plain_run = make_runner(tmp_path / "b", [1, 3, 2, 4])
    plain_run._hooks = [hook for hook in plain_run.hooks if not isinstance(hook, NumericalFaultHook)]
    for runner in (watched, plain_run):
        runner.train()
        assert not {"train_step", "parse_losses"} & set(runner.model.__dict__)
        assert "should_update" not in runner.optim_wrapper.__dict__
    assert torch.equal(watched.model.weight, plain_run.model.weight)
    assert not list((tmp_path / "a").glob("*.pth.*"))
    assert not (tmp_path / "a" / BAD_BATCH).exists()


def test_infinite_gradient_of_a_finite_loss_is_left_to_the_scaler_of_mixed_precision(tmp_path):
    runner = make_runner(tmp_path, [1, 3])
    runner.model.weight.register_hook(lambda gradient: gradient * INF)
    runner.train()
    assert not (tmp_path / BAD_BATCH).exists()


def test_nothing_waits_for_a_gpu_before_the_backward_pass_is_queued():
    with fake_cuda(), mock.patch("torch.cuda.Event") as event:
        loss = torch.ones((), device="cuda")
        flag = DeviceFlag(not_finite(loss))
        event.return_value.record.assert_called_once()
        event.return_value.synchronize.assert_not_called()
        # Control: reading it waits, for the copy alone.
        with pytest.raises(Exception, match=r"data-dependent"):
            flag.value()
        event.return_value.synchronize.assert_called_once()


def test_boxes_that_no_loss_can_come_from_are_named():
    for box, reason in [([0, 0, INF, 4], "not finite"), ([5, 5, 5, 9], "no area")]:
        sample = make_batch(objects=(1,))[1][0]
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor([box]).float()), labels=torch.zeros(1)
        )
        assert f"boxes of image 0 (image_0.jpg) {'are' if 'not' in reason else 'have'} {reason}" in bad_input(
            [sample]
        )
    assert bad_input(dict(inputs=[], data_samples=make_batch()[1])) == ""


def test_any_batch_becomes_plain_data():
    value = dict(
        a=np.float32(2), b=(np.arange(3), np.array(["x"])), c={1: None}, d=object(), e=np.array(True)
    )
    result = plain(value)
    assert result["a"] == 2.0
    assert type(result["a"]) is float
    assert result["b"][0].tolist() == [0, 1, 2]
    assert result["b"][1] == ["x"]
    assert result["c"] == {1: None}
    assert result["d"].startswith("<object")
    assert result["e"] is True


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="policy must be 'stop' or 'skip', got 'ignore'"):
        NumericalFaultHook(policy="ignore")
    with pytest.raises(ConfigError, match="at least 1, got 0 and 1"):
        NumericalFaultHook(max_skips=0)


def test_optimizer_wrapper_without_the_place_to_look_is_said(tmp_path, caplog):
    runner = make_runner(tmp_path, [1, 3])
    runner.optim_wrapper = object()
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        NumericalFaultHook().before_train(runner)
    assert "losses are not checked with object" in caplog.text


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    make_data(folder)
    return Trainer(folder)


def two_process_config(trainer, policy):

    return write_config(
        trainer.folder / f"{policy}.py",
        more=f"""

custom_imports['imports'] += ['nan_losses']
custom_hooks += [dict(type='NaNLossHook', rank=1, iteration=1)]
default_hooks['numerical_faults'] = dict(type='NumericalFaultHook', policy={policy!r})
""",
    )


def test_all_processes_stop_together_when_the_loss_of_one_is_bad(trainer):
    codes = trainer.run_two(two_process_config(trainer, "stop"), "stop")
    assert codes == [2, 2], trainer.output
    for rank in (0, 1):
        lines = (trainer.folder / f"stop.{rank}.txt").read_text().splitlines()
        error = next(line for line in lines if line.startswith("error: "))
        assert "iteration 2 of epoch 1, rank 1: loss_cls is nan for image" in error
    assert load_safely(trainer.folder / "stop/bad_batch_rank1.pth")["rank"] == 1
    assert not (trainer.folder / "stop/bad_batch.pth").exists()


def test_all_processes_leave_the_step_out_together(trainer):
    assert trainer.run_two(two_process_config(trainer, "skip"), "skip") == [0, 0], trainer.output
    weights = final_state(trainer.folder / "skip")["weights"]
    assert all(bool(value.isfinite().all()) for value in weights.values())
    checkpoint = load_safely((trainer.folder / "skip/last_checkpoint").read_text())
    assert checkpoint["message_hub"]["runtime_info"]["skipped_steps"] == 1
