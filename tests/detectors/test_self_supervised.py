"""Pretraining of backbone and neck without labels: what is trained, saved, and refused."""

import copy
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.cli.label_checks import check_labels, check_views
from lad.detectors import SelfSupervisedPretraining
from lad.engine.batch_sampler import ResumableBatchSampler
from lad.errors import ConfigError, UnsupportedError
from lad.losses import nt_xent_loss

import pytest
import torch
import view_runs
from helpers import build, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.model import ExponentialMovingAverage
from two_stage_detectors import two_stage
from view_runs import pretraining, random_views

HEADS = ("bbox_head.", "rpn_head.", "roi_head.")


def test_checkpoint_has_the_keys_of_a_plain_detector_without_heads():
    state = pretraining().state_dict()
    plain = build(small_paa()).state_dict()
    own = [key for key in state if not key.startswith("distillation.projection.student.")]
    assert own == [key for key in plain if not key.startswith(HEADS)]
    assert len(own) < len(state)
    assert all(state[key].shape == plain[key].shape for key in own)


@pytest.mark.parametrize("config", [small_paa(), two_stage("faster")], ids=["PAA", "Faster R-CNN"])
def test_plain_detector_takes_backbone_and_neck_from_a_pretraining(tmp_path, config):
    """Through ``load_from``'s strict=False and through ``init_cfg``, as MMEngine and MMDetection do it."""
    model = pretraining(config, seed=3)
    path = save_checkpoint(model, tmp_path / "pretrained.pth")
    plain = build(config)
    missing, unexpected = plain.load_state_dict(torch.load(path)["state_dict"], strict=False)
    assert all(key.startswith("distillation.projection.") for key in unexpected)
    assert all(key.startswith(HEADS) for key in missing)
    config = copy.deepcopy(config)
    for part in ("backbone", "neck"):
        config[part]["init_cfg"] = dict(type="Pretrained", checkpoint=path, prefix=f"{part}.")
    again = MODELS.build(config)
    again.init_weights()
    for part in ("backbone", "neck"):
        for key, value in getattr(model, part).state_dict().items():
            assert torch.equal(getattr(plain, part).state_dict()[key], value)
            assert torch.equal(getattr(again, part).state_dict()[key], value)


def test_initial_weights_are_those_of_the_detector_alone():
    weights = []
    for config in (small_paa(), dict(type="SelfSupervisedPretraining", student=small_paa(), methods=METHODS)):
        torch.manual_seed(5)
        model = MODELS.build(copy.deepcopy(config))
        torch.manual_seed(5)
        model.backbone.init_weights()
        model.neck.init_weights()
        weights.append([*model.backbone.parameters(), *model.neck.parameters()])
    assert all(torch.equal(own, plain) for own, plain in zip(*weights, strict=True))


METHODS = [dict(type="ContrastiveLearning", temperature=0.5, loss_weight=2.0)]


def test_loss_is_nt_xent_of_projected_means_and_reaches_every_weight():
    model = pretraining(
        methods=METHODS, projection=dict(out_channels=6, hidden_channels=10, num_layers=2)
    ).train()
    views = random_views()
    losses = model(views, {}, mode="loss")
    assert list(losses) == ["loss_contrastive"]
    images = torch.cat([views["first"], views["second"]])
    means = torch.cat([level.mean((2, 3)) for level in model.neck(model.backbone(images))], dim=1)
    assert means.shape == (8, 5 * 32)
    embeddings = model.distillation["projection"]["student"](means)
    assert embeddings.shape == (8, 6)
    expected = 2 * nt_xent_loss(embeddings[:4], embeddings[4:], 0.5).mean()
    torch.testing.assert_close(losses["loss_contrastive"], expected)
    losses["loss_contrastive"].backward()
    untrained = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert untrained == []


def test_several_methods_add_up_under_names_of_their_own():
    methods = [
        dict(type="ContrastiveLearning"),
        dict(type="ContrastiveLearning", name="warm", temperature=1.0),
    ]
    losses = pretraining(methods=methods)(random_views(), {}, mode="loss")
    assert set(losses) == {"loss_contrastive", "warm.loss_contrastive"}


def test_step_of_training_lowers_the_loss():
    model = pretraining(projection=dict(norm_cfg=None)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(random_views(), {}, mode="loss")["loss_contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_detectors_own_preprocessing_normalises_both_views():
    config = small_paa()
    config.data_preprocessor.update(batch_augments=[dict(type="BatchSyncRandomResize")], pad_mask=True)
    model = pretraining(config)
    images = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    views = dict(first=[images, images], second=[images, images])
    found = model.data_preprocessor(dict(inputs=views), True)
    mean, std = config.data_preprocessor.mean, config.data_preprocessor.std
    for view in found["inputs"].values():
        expected = torch.tensor([(100 - m) / s for m, s in zip(mean, std, strict=True)])
        torch.testing.assert_close(view[0, :, 0, 0], expected)


def test_half_precision_and_ema_work():
    model = pretraining().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(random_views(), {}, mode="loss")["loss_contrastive"]
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    average = ExponentialMovingAverage(model)
    average.update_parameters(model)
    assert list(average.module.state_dict()) == list(model.state_dict())


def test_two_processes_train_as_one_with_the_same_images(tmp_path):
    """Two networks that learn each by itself and from each other."""
    found = view_runs.run(view_runs.pretraining_step, tmp_path)
    assert len(found[1]["losses"]) == 4
    assert min(found[1]["losses"].values()) > 1e-2
    assert found[2]["losses"] == pytest.approx(found[1]["losses"], rel=1e-4)
    # A temperature of 0.1 magnifies rounding: single small entries of 800,000 may differ more.
    one, two = found[1]["gradient"], found[2]["gradient"]
    assert (two - one).norm() < 1e-4 * one.norm()
    assert found[1]["gradient"].abs().max() > 1e-2


@pytest.mark.parametrize(
    "views", [random_views(1), torch.zeros(4, 3, 64, 64), dict(first=torch.zeros(2, 3, 64, 64))]
)
def test_batch_of_one_image_and_batches_without_views_are_refused(views):
    with pytest.raises(UnsupportedError, match=r"batch of one image|needs the views first, second") as caught:
        pretraining()(views, {}, mode="loss")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(methods=[]), "list of dicts"),
        (dict(methods=[dict(type="HintDistillation")]), "no method of SelfSupervisedPretraining"),
        (dict(methods=[dict(type="ContrastLearning")]), "nearest: ContrastiveLearning"),
        (dict(methods=[dict(type="ContrastiveLearning", temperature=0)]), "temperature"),
        (dict(methods=[dict(type="ContrastiveLearning", loss_weight=-1)]), "loss_weight must be positive"),
        (dict(methods=[dict(type="ContrastiveLearning", loss_weight=float("nan"))]), "loss_weight must be a"),
        (dict(methods=[dict(type="ContrastiveLearning")] * 2), "is taken"),
        (dict(methods=[dict(type="ContrastiveLearning", name="projection")]), "is taken"),
        (dict(projection=dict(num_layers=0)), "at least 1"),
        (dict(student=dict(type="Detectron2Wrapper", detector=dict())), "no `backbone`"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(settings, message):
    config = dict(student=small_paa(), methods=[dict(type="ContrastiveLearning")])
    with pytest.raises(ConfigError, match=message):
        SelfSupervisedPretraining(**(config | settings))


def test_detecting_is_refused():
    with pytest.raises(UnsupportedError, match="detect nothing"):
        pretraining()(torch.zeros(1, 3, 64, 64), [], mode="predict")


def test_detector_of_grey_images_is_pretrained_on_them():
    config = small_paa()
    config.backbone.in_channels = 1
    config.data_preprocessor.update(mean=[0.0], std=[1.0], bgr_to_rgb=False)
    views = {name: view[:, :1] for name, view in random_views().items()}
    assert pretraining(config)(views, {}, mode="loss")["loss_contrastive"].isfinite()


def runner(images, batch_size, drop_last=False, **cfg):
    batches = ResumableBatchSampler(DefaultSampler(range(images)), batch_size, drop_last=drop_last)
    loop = SimpleNamespace(dataloader=SimpleNamespace(batch_sampler=batches))
    return SimpleNamespace(train_loop=loop, cfg=Config(cfg))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(images=8, batch_size=1), "batch_size is 1"),
        (dict(images=9, batch_size=4), "last batch of 9 images in batches of 4 has a single one"),
        (dict(images=9, batch_size=4, drop_last=True), None),
        (dict(images=10, batch_size=4), None),
        (dict(images=8, batch_size=4), None),
        (dict(images=8, batch_size=4, val_dataloader=dict()), "no heads that detect"),
    ],
)
def test_batches_of_one_image_and_evaluation_are_refused_before_training(settings, message):
    if message is None:
        check_views(runner(**settings), pretraining())
        return
    with pytest.raises(ConfigError, match=message):
        check_views(runner(**settings), pretraining())
    check_views(runner(**settings), build(small_paa()))


def test_pretraining_needs_no_labels():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type="CocoDataset", labelled=False))))
    check_labels(cfg, pretraining())


def test_dry_run_shows_parts_shapes_and_losses():
    text = describe(pretraining(methods=METHODS))
    assert "ResNet" in text
    assert "2x32x16x16 .. 2x32x1x1 (5)" in text
    assert "2x128" in text
    assert [line.split()[:2] for line in text.splitlines()][-1] == ["loss_contrastive", "2"]
