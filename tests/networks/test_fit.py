"""Comparison of a checkpoint with a model, key by key, without loading it."""

from collections import OrderedDict

from lad.errors import CheckpointError
from lad.networks.fit import compare_state
from lad.networks.verified_checkpoint import load_verified, refuse_misfit, state_dict_of

import pytest
import torch
from helpers import build, save_checkpoint, small_detector, small_paa
from torch import nn

DETECTORS = {
    "paa": small_paa(),
    "faster_rcnn": small_detector("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"),
    "fcos": small_detector("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"),
    "tood": small_detector("mmdet::tood/tood_r50_fpn_1x_coco.py"),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_own_state_fits_and_comparing_changes_nothing(name):
    model, other = build(DETECTORS[name], seed=0), build(DETECTORS[name], seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    fit = compare_state(model, other.state_dict())
    assert fit.is_whole
    assert fit.problem() == fit.not_loaded() == ""
    assert fit.loaded == len(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def layers(width=2, extra=False, bias=True):
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, 1, bias=bias), norm=nn.BatchNorm2d(width)))
    if extra:
        model.add_module("extra", nn.Linear(width, width))
    return model


MISFITS = [
    (
        layers(),
        layers(3),
        "number of classes: conv.weight (2, 3, 1, 1) for (3, 3, 1, 1), conv.bias (2,) for (3,) and 4",
    ),
    (layers(), layers(extra=True), "another architecture: 2 keys are missing (extra.weight, extra.bias)"),
    (layers(extra=True), layers(), "another architecture: 2 are unknown (extra.weight, extra.bias)"),
    (layers(), layers(bias=False), "another architecture: 1 are unknown (conv.bias)"),
    (layers(bias=False), layers(extra=True), "3 keys are missing (conv.bias, extra.weight and 1 more)"),
    (
        nn.Sequential(layers()),
        layers(),
        "no key fits (it has 0.conv.weight, 0.conv.bias and 4 more; the model conv.wei",
    ),
]


@pytest.mark.parametrize(("saved", "model", "says"), MISFITS, ids=[row[2][:40] for row in MISFITS])
def test_what_does_not_fit_is_named_with_counts(saved, model, says):
    with pytest.raises(CheckpointError) as caught:
        refuse_misfit(compare_state(model, saved.state_dict()), "teacher: checkpoint a.pth", "give another.")
    assert str(caught.value).startswith("teacher: checkpoint a.pth is of another architecture")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_partial_loading_lists_every_kind():
    saved = layers(extra=True).state_dict()
    del saved["norm.running_mean"]
    fit = compare_state(layers(3), saved)
    assert fit.loaded == 1  # num_batches_tracked
    assert fit.not_loaded() == (
        "5 of another shape (conv.weight (2, 3, 1, 1) for (3, 3, 1, 1), conv.bias (2,) for (3,), norm.weight (2,) for "
        "(3,) and 2 more); 1 that the checkpoint lacks (norm.running_mean); 2 that the model lacks (extra.weight, "
        "extra.bias)"
    )


@pytest.mark.parametrize("key", ["norm.num_batches_tracked", "language_model.embeddings.position_ids"])
def test_counters_and_constants_may_differ(key):
    state = layers().state_dict()
    if key in state:
        del state[key]
    else:
        state[key] = torch.arange(3)[None]
    assert compare_state(layers(), state).is_whole


class Renamed(nn.Linear):
    """Had its weight under another name in version 1, as some of MMDetection's modules."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version", 1) < 2 and f"{prefix}kernel" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_keys_of_an_older_version_fit_and_the_state_stays_as_it_was():
    model = nn.Sequential(Renamed(2, 3))
    state = model.state_dict()
    state["0.kernel"] = state.pop("0.weight")
    state._metadata["0"]["version"] = 1
    keys = list(state)
    assert compare_state(model, state).is_whole
    assert list(state) == keys
    state._metadata["0"]["version"] = 2
    assert compare_state(model, state).missing == ["0.weight"]


@pytest.mark.parametrize(
    "content",
    [5, "text", [torch.zeros(1)], {}, dict(state_dict={}), dict(state_dict=3), dict(state_dict={"a": "b"}),
     dict(meta={}, model={"a": torch.zeros(1)}), {1: torch.zeros(1)}],
)  # fmt: skip
def test_file_without_a_state_dict_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"teacher: checkpoint .*a\.pth holds no state_dict"):
        load_verified(layers(), str(tmp_path / "a.pth"), "teacher")


def test_prefix_of_ddp_is_taken_off():
    state = state_dict_of(dict(state_dict={"module.a": torch.ones(1), "b": torch.zeros(1)}), "x")
    assert list(state) == ["a", "b"]


def test_refused_checkpoint_leaves_the_model_as_it_was(tmp_path):
    model = build(small_paa(num_classes=5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = save_checkpoint(build(small_paa(), seed=3), tmp_path / "three.pth")
    with pytest.raises(CheckpointError, match="number of classes"):
        load_verified(model, path, "teacher")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
