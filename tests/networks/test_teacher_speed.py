"""Cheaper teachers say the same."""

from lad.errors import ConfigError, UnsupportedError
from lad.networks.building import build_teacher

import pytest
import torch
from helpers import make_batch, small_paa
from mmdet.registry import MODELS


def outputs(spec, **speed):
    teacher = build_teacher(dict(spec, speed=speed), MODELS.build(small_paa()))
    scores, boxes, ious = teacher.run(*make_batch((1, 1)), ["bbox_head"])["bbox_head"]
    # The last two levels are one cell high: with as many groups as channels their group norm divides rounding errors
    # by nothing but its epsilon.
    return teacher, [*scores[:3], *boxes[:3], *ious[:3]]


@pytest.mark.parametrize(
    "speed",
    [
        dict(fuse=True),
        dict(channels_last=True),
        dict(inference_mode=True),
        dict(fuse=True, channels_last=True, inference_mode=True),
    ],
)
def test_outputs_are_the_same_up_to_rounding(teacher_spec, speed):
    spec = teacher_spec()
    _, expected = outputs(spec)
    teacher, found = outputs(spec, **speed)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
    if speed.get("fuse"):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in teacher.model.modules())
    assert found[0].is_inference() == bool(speed.get("inference_mode"))


def test_bfloat16_is_close_and_is_its_own_precision(teacher_spec):
    spec = teacher_spec()
    _, expected = outputs(spec)
    _, found = outputs(spec, bfloat16=True)
    assert found[0].dtype == torch.bfloat16
    error = (found[0].float() - expected[0]).abs().mean() / expected[0].abs().mean()
    assert 0 < error < 0.05


def test_unknown_option_is_answered_with_the_known_ones(teacher_spec):
    with pytest.raises(ConfigError, match=r"speed takes inference_mode, fuse, .*; got \['fused'\]"):
        outputs(teacher_spec(), fused=True)


def test_compiled_teacher_is_heard_after_it_ran_unheard_and_is_tried_out_uncompiled(
    teacher_spec, monkeypatch
):
    """The check of the teacher before training runs it with nobody listening; a compiled module does not ask again."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_with(module, backend))
    spec, (inputs, samples) = teacher_spec(), make_batch((1, 1))
    student = MODELS.build(small_paa())
    plain = build_teacher(spec, student).run(inputs, samples, ["neck"])["neck"]
    teacher = build_teacher(dict(spec, speed=dict(compile=True)), student)
    assert len(teacher.dry_run(["neck"])["neck"]) == 5
    assert not compiled
    with torch.no_grad():
        teacher.model.extract_feat(inputs)
    assert compiled
    for value, wanted in zip(teacher.run(inputs, samples, ["neck"])["neck"], plain, strict=True):
        torch.testing.assert_close(value, wanted)
    with pytest.raises(
        UnsupportedError, match=r"'backbone.layer3' is inside of what is compiled, .* name 'backbone'"
    ):
        teacher.dry_run(["backbone.layer3"])
    with pytest.raises(UnsupportedError, match=r"'neck.fpn_convs.0' is inside of what is compiled"):
        teacher.check_modules(["bbox_head", "neck.fpn_convs.0"])


def compile_with(module, backend):
    """``Module.compile`` with another backend, which needs no compiler."""
    module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)
