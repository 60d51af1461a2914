"""Scoped forward hooks."""

from lad.base.capture import capture, find_module, levels_of, root_of, split_level
from lad.errors import ConfigError

import pytest
import torch
from mmdet.models.backbones.resnet import BasicBlock
from torch import nn


def make_model():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.ModuleDict({"head": nn.Linear(3, 1)}))


def test_outputs_are_what_the_modules_returned():
    model = make_model()
    x = torch.ones(1, 2)
    with capture(model, ["0", "1", "0"]) as outputs:
        hidden = model[1](model[0](x))
    assert torch.equal(outputs["1"], hidden)
    assert len(outputs.calls("0")) == 1


def test_hooks_are_gone_after_the_block_and_after_an_exception():
    model = make_model()
    with pytest.raises(ZeroDivisionError), capture(model, ["0"]):
        raise ZeroDivisionError
    assert not model[0]._forward_hooks
    with capture(model, ["0"]) as outputs:
        pass
    model[0](torch.ones(1, 2))
    assert outputs.calls("0") == []


def test_module_called_twice_or_never_has_no_single_output():
    model = make_model()
    with capture(model, ["0", "1"]) as outputs:
        first, second = model[0](torch.ones(1, 2)), model[0](torch.zeros(1, 2))
    assert [torch.equal(a, b) for a, b in zip(outputs.calls("0"), (first, second), strict=True)] == [
        True,
        True,
    ]
    with pytest.raises(KeyError, match="2 times"):
        outputs["0"]
    with pytest.raises(KeyError, match="0 times"):
        outputs["1"]


def test_unknown_module_is_answered_with_the_nearest_and_leaves_no_hook():
    model = make_model()
    with (
        pytest.raises(ConfigError, match=r"no module '2.haed'; nearest: 2.head"),
        capture(model, ["0", "2.haed"]),
    ):
        pass
    assert not model[0]._forward_hooks


def test_one_of_several_outputs_is_named_by_its_number():
    assert split_level("neck[2]") == ("neck", 2)
    assert split_level("backbone[-1]") == ("backbone", -1)
    assert split_level("backbone.layer3") == ("backbone.layer3", None)
    first, second, third = torch.zeros(1), torch.ones(1), torch.ones(2)
    calls = [(first, [second]), dict(more=third, none=None)]
    assert [id(level) for level in levels_of(calls)] == [id(first), id(second), id(third)]
    assert levels_of(calls, 1) == [second]
    assert levels_of(calls, -1)[0] is third
    with pytest.raises(ConfigError, match=r"no level \[3\]: the module returns 3 feature maps"):
        levels_of(calls, 3)


def test_output_that_is_overwritten_afterwards_is_refused_in_one_line():
    """bn1 is followed by a ReLU in place, bn2 by ``out += identity``."""
    blocks = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4))
    with torch.no_grad(), capture(blocks, ["0.bn1", "0.bn2", "0.conv1", "0", "1", "0.relu:input"]) as outputs:
        blocks(torch.randn(2, 4, 5, 5))
    for name in ("0.bn1", "0.bn2"):
        with pytest.raises(
            ConfigError, match=rf"^the output of '{name}' was overwritten in place .*:input'\.$"
        ):
            outputs[name]
    # Nothing writes to a convolution's output, to that of a whole block, or to a copy of an input.
    for name, count in (("0.conv1", 1), ("0", 1), ("1", 1), ("0.relu:input", 2)):
        assert len(outputs.calls(name)) == count


def test_overwriting_through_a_view_is_noticed_too():
    model = nn.Sequential(nn.Linear(2, 3))
    with capture(model, ["0"]) as outputs:
        found = model(torch.ones(1, 2))
    assert outputs["0"] is found
    found.detach()[:, 1] += 1
    with pytest.raises(ConfigError, match="overwritten in place"):
        outputs["0"]


@pytest.mark.parametrize(
    "name",
    ["neck", "neck:input", "neck[1]", "neck:input[-1]", "neck.fpn_convs.0", "neck.fpn_convs.0:input[2]"],
)
def test_root_is_the_part_of_the_detector_whatever_stands_behind_it(name):
    assert root_of(name) == "neck"


def test_module_is_found_without_listing_all(monkeypatch):
    model = make_model()
    monkeypatch.setattr(nn.Module, "named_modules", None)
    assert find_module(model, "2.head:input") is model[2]["head"]
    monkeypatch.undo()
    for wrong in ("", ":input", "2.head.weight", "2..head"):
        with pytest.raises(ConfigError, match="has no module"):
            find_module(model, wrong)
