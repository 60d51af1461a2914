"""Feature distillation of a DETR's encoder: its memory is a sequence of tokens that see the whole image."""

import copy

from lad.errors import UnsupportedError
from lad.losses import hint_loss

import pytest
import torch
from detr_detectors import small_dab, small_detr
from helpers import build, distillation_of, make_batch
from mmdet.registry import MODELS

BATCH = dict(objects=(3, 0, 7), size=(96, 128), shapes=[(64, 128), (96, 90), (96, 128)])
METHOD = dict(type="FeatureDistillation", student="encoder", teacher="encoder", loss=dict(type="HintLoss"))


def recorded(network):
    """What a network's encoder returns, call by call."""
    found = []
    network.encoder.register_forward_hook(lambda module, args, output: found.append(output.detach()))
    return found


@pytest.mark.parametrize("family", ["one_stage", "dino", "dab"])
def test_memory_of_two_encoders_is_compared_with_padding_masked(family, tmp_path):
    make = small_dab if family == "dab" else lambda **model: small_detr(family, **model)
    student, teacher = make(), make(base=16)
    model = distillation_of(tmp_path, student, teacher, dict(METHOD, connector=None))
    model.eval()
    model.student.training = model.student.bbox_head.training = True
    own, taught = recorded(model.student), recorded(model.teacher.model)
    decoded = []
    model.teacher.model.decoder.register_forward_hook(lambda *args: decoded.append(args))
    inputs, samples = make_batch(**BATCH)
    losses = model.loss(inputs, copy.deepcopy(samples))
    assert len(own) == len(taught) == 1
    assert not decoded, "the teacher runs no further than its encoder"
    [value] = [value for name, value in losses.items() if "hint" in name]
    torch.testing.assert_close(value.detach(), hint_loss(own[0], taught[0]).mean())
    # What the teacher's encoder returns when it detects on the padded images.
    alone = build(teacher, 1).eval()
    expected = recorded(alone)
    with torch.no_grad():
        alone.predict(inputs, copy.deepcopy(samples))
    torch.testing.assert_close(taught[0], expected[0], rtol=1e-4, atol=1e-4)
    value.backward()
    assert model.student.encoder.layers[0].ffn.layers[1].weight.grad.any()
    assert all(parameter.grad is None for parameter in model.student.decoder.parameters())


def test_other_widths_get_a_linear_connector_and_another_pyramid_is_refused(tmp_path):
    student = small_detr("one_stage")
    model = distillation_of(tmp_path, student, small_detr("one_stage", dims=64), METHOD)
    adapters = {name: value.shape for name, value in model.state_dict().items() if "distillation." in name}
    assert torch.Size([64, 32]) in adapters.values()
    model.loss(*make_batch((2, 1), (96, 128)))
    fewer = small_detr("one_stage", num_feature_levels=3)
    fewer.neck.num_outs = 3
    for coder in ("encoder", "decoder"):
        attention = "self_attn_cfg" if coder == "encoder" else "cross_attn_cfg"
        fewer[coder].layer_cfg[attention].num_levels = 3
    MODELS.build(copy.deepcopy(fewer))
    with pytest.raises(UnsupportedError, match=r"tokens") as refused:
        distillation_of(tmp_path, student, fewer, METHOD)
    assert "\n" not in str(refused.value)


def test_decoder_is_refused(tmp_path):
    config = small_detr("one_stage")
    with pytest.raises(UnsupportedError, match=r"does not see the whole image.*and of a DETR's encoder"):
        distillation_of(tmp_path, config, config, dict(METHOD, student="decoder"))
