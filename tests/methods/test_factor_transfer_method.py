"""Factor transfer between two detectors, in both phases."""

from lad.errors import ConfigError
from lad.losses import factor_transfer_loss
from lad.methods.feature.maps import adapt

import pytest
import torch
from helpers import at, make_batch, small_paa
from two_stage_detectors import distil, random_teacher, seeded_loss, total, two_stage

TASK = 10**9
FT = dict(type="FactorTransferDistillation", pretrain=dict(iters=2))
KINDS = dict(one=small_paa, two=two_stage)


def with_gradient(model):
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("kind", KINDS)
def test_paraphrasers_learn_alone_and_then_rest_while_translators_learn(tmp_path, kind):
    """Teacher's maps of 24 channels become factors of 12."""
    inputs, samples = make_batch((2, 1), size=(64, 64))
    teacher = random_teacher(two_stage(base=16, channels=24))
    model = distil(tmp_path, [dict(FT, loss_weight=3.0)], KINDS[kind](), teacher)
    method = model.methods[0]
    width = model.student.neck.out_channels
    assert {link.connector for link in method.links()} == {f"Translator, Paraphraser (teacher) {width} -> 24"}
    hints = model.teacher.model.extract_feat(inputs)
    at(model, 0)
    losses = seeded_loss(model, inputs, samples)
    assert set(losses) == {"loss_paraphrase"}
    with torch.no_grad():
        expected = sum(
            (paraphraser.decoder(paraphraser.encoder(hint)) - hint).square().mean()
            for paraphraser, hint in zip(method.teacher_transforms, hints, strict=True)
        )
    torch.testing.assert_close(losses["loss_paraphrase"], expected)
    losses["loss_paraphrase"].backward()
    prefix = "distillation.FactorTransferDistillation."
    learned = with_gradient(model)
    assert len(learned) == 5 * 12
    assert all(name.startswith(f"{prefix}teacher_transforms.") for name in learned)
    model.zero_grad()
    at(model, TASK)
    model.student.eval()
    model.student.training = True
    for head in ("bbox_head", "rpn_head", "roi_head"):
        if hasattr(model.student, head):
            getattr(model.student, head).training = True
    losses = seeded_loss(model, inputs, samples)
    assert "loss_paraphrase" not in losses
    with torch.no_grad():
        own = model.student.extract_feat(inputs)
        expected = sum(
            3 * factor_transfer_loss(adapt(translator, x, hint), paraphraser.encoder(hint)).mean()
            for translator, paraphraser, x, hint in zip(
                method.connectors, method.teacher_transforms, own, hints, strict=True
            )
        )
    torch.testing.assert_close(losses["loss_ft"], expected)
    total(losses).backward()
    learned = with_gradient(model)
    assert sum(name.startswith(f"{prefix}connectors.") for name in learned) == 5 * 6
    assert not any(name.startswith(f"{prefix}teacher_transforms.") for name in learned)
    assert "backbone.conv1.weight" in learned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(pretrain=None), "it needs pretrain"),
        (dict(rate=0.01), "a rate of 0.01 leaves nothing of 16 channels"),
    ],
)
def test_what_cannot_work_is_refused_when_built(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        distil(tmp_path, [dict(FT, **settings)])
