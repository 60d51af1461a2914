"""Pictures of the assignment while training: there, and without effect on it."""

import copy
import re

from lad.analysis.hooks import AssignmentVisualizationHook
from lad.cli.arguments import log_to_tensorboard
from lad.errors import ConfigError

import cv2
import numpy as np
import pytest
import torch
from helpers import build, make_batch, small_detector, small_paa
from helpers import co_learning as co_learning_config
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from seam_detectors import distil


class Images:
    """Noise with two objects an image."""

    metainfo = dict(classes=("a", "b", "c"))

    def __len__(self):
        return 6

    def __getitem__(self, index):
        sample = make_batch((2,), size=(64, 96), seed=index)[1][0]
        generator = torch.Generator().manual_seed(index)
        inputs = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
        return dict(inputs=inputs, data_samples=sample)


def with_dropout(model):
    """Random numbers in every step, beside the statistics of batch norm."""
    model.backbone.layer4.register_forward_hook(
        lambda module, args, out: torch.nn.functional.dropout(out, 0.1)
    )
    return model


def lad(tmp_path):
    return distil(small_paa(), small_paa(base=16), tmp_path)


def co_learning(tmp_path):
    networks = dict(a=small_paa(), b=small_paa())
    torch.manual_seed(0)
    model = MODELS.build(co_learning_config(networks, dict(type="StdMeanSwitch", per="gt_level")))
    model.init_weights()
    return model


def train(model, work_dir, hooks, name):
    torch.manual_seed(3)
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
        custom_hooks=hooks,
        visualizer=dict(type="DetLocalVisualizer", name=name, vis_backends=[dict(type="LocalVisBackend")]),
        randomness=dict(seed=3),
        experiment_name=name,
        default_scope="mmdet",
        log_level="ERROR",
    )
    runner.train()
    return runner


def state_of(runner):
    losses = runner.message_hub.log_scalars
    recorded = {key: buffer.data[0].tolist() for key, buffer in losses.items() if "loss" in key}
    return recorded, runner.model.state_dict(), torch.get_rng_state(), np.random.get_state()[1]


@pytest.mark.parametrize(("make", "interval"), [(lad, 2), (co_learning, 9)])
def test_training_is_the_same_bit_by_bit_and_pictures_are_written(make, interval, tmp_path):
    model = make(tmp_path)
    twin = copy.deepcopy(model)
    for network in (model, twin):
        with_dropout(network.student)
    hook = dict(type="AssignmentVisualizationHook", interval=interval, max_images=2, max_objects=1)
    plain = train(model, tmp_path / "plain", [], f"{make.__name__}_plain")
    expected = copy.deepcopy(state_of(plain))
    drawn = train(twin, tmp_path / "drawn", [hook], f"{make.__name__}_drawn")
    losses, weights, random, numpy_random = state_of(drawn)
    assert len(losses["train/loss"]) == 3
    assert losses == expected[0]
    assert all(torch.equal(value, expected[1][key]) for key, value in weights.items())
    assert torch.equal(random, expected[2])
    assert (numpy_random == expected[3]).all()

    files = {path.name: path for path in (tmp_path / "drawn").glob("*/vis_data/vis_image/*.png")}
    # After the first iteration of three, and after those that the interval divides.
    steps = (1, 2) if interval == 2 else (1,)
    assert set(files) == {f"assignment_{image}_{step}.png" for image in (0, 1) for step in steps}
    assert cv2.imread(str(files["assignment_0_1.png"])).shape[1] > 600
    assert not list((tmp_path / "plain").glob("*/vis_data/vis_image"))


def test_images_stay_those_of_the_first_batch(tmp_path):
    hook = AssignmentVisualizationHook(max_images=1)
    batches = [[Images()[n] for n in pair] for pair in ((1, 2), (3, 4))]
    for number, batch in enumerate(batches):
        collated = {key: [sample[key] for sample in batch] for key in ("inputs", "data_samples")}
        hook.before_train_iter(None, number, collated)
        collated["inputs"][0].zero_()  # as a data preprocessor may
    assert len(hook._data["inputs"]) == len(hook._data["data_samples"]) == 1
    assert torch.equal(hook._data["inputs"][0], Images()[1]["inputs"])


def test_detectors_without_such_an_assignment_are_refused_before_training(tmp_path):
    runner = type("Runner", (), dict(model=build(small_detector("mmdet::atss/atss_r50_fpn_1x_coco.py"))))
    with pytest.raises(ConfigError, match=r"ATSSHead cannot be drawn.*Take the hook out of custom_hooks\."):
        AssignmentVisualizationHook().before_train(runner)


@pytest.mark.parametrize("name", ["interval", "max_images", "max_objects"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ConfigError, match=re.escape(f"{name} must be at least 1, got 0")):
        AssignmentVisualizationHook(**{name: 0})


LOCAL, TENSORBOARD = dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")


@pytest.mark.parametrize("backends", [None, [LOCAL], [LOCAL, TENSORBOARD]])
@pytest.mark.parametrize("visualizer", [None, dict(type="DetLocalVisualizer", line_width=3)])
def test_tensorboard_is_added_once_to_any_visualizer(visualizer, backends):
    cfg = Config()
    if visualizer is not None:
        cfg.visualizer = dict(visualizer, vis_backends=copy.deepcopy(backends))
    once = log_to_tensorboard(cfg).visualizer.to_dict()
    assert once["vis_backends"] == [LOCAL, TENSORBOARD]
    assert once["type"] == "DetLocalVisualizer"
    assert once.get("line_width") == (visualizer and 3)
    assert log_to_tensorboard(cfg).visualizer.to_dict() == once
