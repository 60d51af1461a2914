"""Test-time augmentation with soft voting."""

import copy

from lad.base.config import load_config
from lad.commands.test import with_tta
from lad.detectors import SoftVoteTTAModel, soft_vote
from lad.errors import ConfigError

import mmcv
import numpy as np
import pytest
import torch
from helpers import ROOT, build, small_paa
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from mmengine.testing import assert_allclose

META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def detections(*rows):
    """From rows x1, y1, x2, y2, score, label."""
    rows = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return InstanceData(bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long())


def view(instances, flip=False, shape=(100, 100)):
    meta = dict(ori_shape=shape, flip=flip, flip_direction="horizontal" if flip else None, img_shape=shape)
    return DetDataSample(metainfo=meta, pred_instances=instances)


def one_by_one(instances, iou_threshold, score_thr):
    """The soft vote as a loop: take the best, collect what overlaps it, go on with the rest."""
    merged = []
    for label in instances.labels.unique().tolist():
        rest = [
            (score, box)
            for score, box, own in zip(
                instances.scores.tolist(), instances.bboxes.tolist(), instances.labels.tolist(), strict=True
            )
            if own == label
        ]
        rest.sort(key=lambda pair: -pair[0])
        while rest:
            best_score, best = rest[0]
            group = [(s, b, overlap(best, b)) for s, b in rest]
            rest = [(s, b) for s, b, o in group[1:] if o <= iou_threshold]
            group = [group[0], *((s, b, o) for s, b, o in group[1:] if o > iou_threshold)]
            total = sum(s for s, _, _ in group)
            mean = [sum(s * b[i] for s, b, _ in group) / total for i in range(4)]
            merged.append((*mean, best_score, label))
            merged += [(*b, s * (1 - o), label) for s, b, o in group[1:] if s * (1 - o) >= score_thr]
    merged.sort(key=lambda row: -row[4])
    return detections(*merged)


def overlap(one, two):
    width = max(0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0, min(one[3], two[3]) - max(one[1], two[1]))
    area = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, two))
    return width * height / (area - width * height)


def assert_same(result, expected, atol=1e-4):
    assert torch.equal(result.labels, expected.labels)
    torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.bboxes, expected.bboxes, rtol=0, atol=atol)


def test_hand_arithmetic():
    """B overlaps A by 100/120 = 5/6: they merge to (0.8 * 10 + 0.4 * 12) / 1.2 = 10.6667 high, with A's score; B
    returns with 0.4 * (1 - 5/6) = 0.0667. C lies elsewhere and D is of another class: both stay as they are."""
    a, b = (0, 0, 10, 10, 0.8, 0), (0, 0, 10, 12, 0.4, 0)
    c, d = (50, 50, 60, 60, 0.5, 0), (0, 0, 10, 10, 0.3, 1)
    merged = soft_vote(detections(b, c, d, a), iou_threshold=0.66, score_thr=0.05)
    voted = (0, 0, 10, 32 / 3, 0.8, 0)
    assert_same(merged, detections(voted, c, d, (*b[:4], 0.4 / 6, 0)))
    # A higher threshold lets B go; a lower overlap is no vote at all.
    assert_same(soft_vote(detections(a, b, c, d), 0.66, 0.07), detections(voted, c, d))
    assert_same(soft_vote(detections(a, b), 0.9, 0.05), detections(a, b))


def test_a_detection_votes_for_the_best_of_those_that_suppress_it():
    """B overlaps A by 5/8 and C by 5/6; A and C overlap by less than half, so both stay. B votes for A, the better."""
    a, b, c = (0, 0, 10, 10, 0.9, 0), (0, 0, 16, 10, 0.3, 0), (0, 0, 20, 9.6, 0.6, 0)
    merged = soft_vote(detections(a, b, c), 0.5, 0.2)
    assert_same(merged, detections((0, 0, (9 + 4.8) / 1.2, 10, 0.9, 0), c))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 60),
    threshold=st.sampled_from([0.3, 0.5, 0.66, 0.9]),
    score_thr=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_equals_the_vote_one_by_one(seed, count, threshold, score_thr):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 20
    size = torch.rand(count, 2, generator=generator) * 20 + 10
    # Distinct scores: the order of equal ones is NMS's own affair.
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    instances = InstanceData(
        bboxes=torch.cat([centre, centre + size], dim=1),
        scores=scores,
        labels=torch.randint(0, 3, (count,), generator=generator),
    )
    merged = soft_vote(instances, threshold, score_thr)
    expected = one_by_one(instances, threshold, score_thr)
    assert len(merged) == len(expected)
    if count:
        # Softened scores may tie; compare as sets of rows.
        rows = [
            sorted(map(tuple, torch.cat([r.labels[:, None], r.scores[:, None], r.bboxes], 1).tolist()))
            for r in (merged, expected)
        ]
        assert_allclose(np.array(rows[0]), np.array(rows[1]), rtol=0, atol=2e-4)
        assert (merged.scores.diff() <= 0).all()


def tta_model(module=None, **tta_cfg):
    return SoftVoteTTAModel(tta_cfg=tta_cfg, module=module or build(small_paa()).eval())


def test_identical_views_give_the_single_views_detections():
    """Copies vote for the same box and return with score * (1 - 1) = 0."""
    single = detections(
        (0, 0, 10, 10, 0.8, 0), (0, 0, 10, 15, 0.4, 0), (3, 3, 40, 50, 0.7, 1), (1, 1, 9, 9, 0.2, 2)
    )
    views = [view(copy.deepcopy(single)) for _ in range(4)]
    (merged,) = tta_model(nms=dict(iou_threshold=0.7)).merge_preds([views])
    assert_same(merged.pred_instances, single[single.scores.argsort(descending=True)], atol=1e-5)


def test_mirrored_views_are_turned_back_before_they_vote():
    """In an image 100 wide, (60, 0, 90, 10) mirrored is (10, 0, 40, 10)."""
    own, mirrored = detections((10, 0, 40, 10, 0.6, 0)), detections((60, 0, 94, 10, 0.3, 0))
    (merged,) = tta_model().merge_preds([[view(own), view(mirrored, flip=True)]])
    # 94 mirrored is 6: x1 = (0.6 * 10 + 0.3 * 6) / 0.9.
    assert_same(merged.pred_instances, detections((7.8 / 0.9, 0, 40, 10, 0.6, 0)))


def test_views_without_detections_give_none_and_the_best_are_kept():
    (merged,) = tta_model().merge_preds([[view(detections()), view(detections())]])
    assert len(merged.pred_instances) == 0
    many = detections(*[(20 * i, 0, 20 * i + 10, 10, 0.1 + 0.01 * i, 0) for i in range(5)])
    (merged,) = tta_model(max_per_img=2).merge_preds([[view(many), view(detections())]])
    torch.testing.assert_close(merged.pred_instances.scores, torch.tensor([0.14, 0.13]))


@pytest.mark.parametrize(
    ("tta_cfg", "message"),
    [
        (dict(iou=0.5), "tta_cfg has no 'iou'; it has nms, score_thr, max_per_img"),
        (dict(nms=dict(type="soft_nms", iou_threshold=0.5)), "nms must be dict.*soft_nms"),
        (dict(nms=dict(type="nms")), "nms must be dict"),
        (
            dict(nms=dict(type="nms", iou_threshold=0.5, class_agnostic=True)),
            "nms must be dict.*class_agnostic",
        ),
    ],
)
def test_settings_that_do_not_work_are_named(tta_cfg, message):
    with pytest.raises(ConfigError, match=message):
        tta_model(**tta_cfg)


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    mmcv.imwrite(np.kron(pixels, np.ones((2, 2, 1), np.uint8)), str(tmp_path / "image.png"))
    return str(tmp_path / "image.png")


def views_of(path, scales=((128, 96), (192, 144))):
    pipeline = Compose(
        [
            dict(type="LoadImageFromFile"),
            dict(
                type="TestTimeAug",
                transforms=[
                    [dict(type="Resize", scale=scale, keep_ratio=True) for scale in scales],
                    [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
                    [dict(type="PackDetInputs", meta_keys=META)],
                ],
            ),
        ]
    )
    return pseudo_collate([pipeline(dict(img_path=path, img_id=0)) for _ in range(2)])


@pytest.mark.parametrize("head", ["BatchedPAAHead", "PAACOPHead"])
def test_detector_tested_with_two_scales_and_flips_merges_what_it_finds_in_each_view(head, image):
    settings = dict(loss_cls=dict(type="ProbabilityFocalLoss")) if head == "PAACOPHead" else {}
    detector = build(small_paa(head, **settings)).eval()
    detector.bbox_head.test_cfg.score_thr = 0.3
    model = MODELS.build(dict(type="SoftVoteTTAModel", module=detector))
    data = views_of(image)
    assert len(data["inputs"]) == 4
    with torch.no_grad():
        results = model.test_step(copy.deepcopy(data))
        alone = [
            detector.test_step(copy.deepcopy({key: value[number] for key, value in data.items()}))[0]
            for number in range(4)
        ]
    assert len(results) == 2
    assert_same(results[0].pred_instances, results[1].pred_instances)
    instances = results[0].pred_instances
    boxes = []
    for number, sample in enumerate(alone):
        own = sample.pred_instances.bboxes.clone()
        if number % 2:
            own[:, [0, 2]] = 128 - own[:, [2, 0]]
        boxes.append(own)
    every = InstanceData(
        bboxes=torch.cat(boxes),
        scores=torch.cat([sample.pred_instances.scores for sample in alone]),
        labels=torch.cat([sample.pred_instances.labels for sample in alone]),
    )
    assert len(every) > 100
    expected = one_by_one(every, 0.66, 0.05)[:100]
    assert len(instances) == min(100, len(expected))
    torch.testing.assert_close(instances.scores, expected.scores, rtol=0, atol=1e-5)
    best = instances.scores[0]
    assert best == every.scores.max()
    torch.testing.assert_close(instances.bboxes[0], expected.bboxes[0], rtol=0, atol=1e-3)
    assert (instances.bboxes >= -1e-3).all()
    assert (instances.bboxes <= torch.tensor([128.0, 96.0, 128.0, 96.0]) + 1e-3).all()


# tools/test.py --tta


@pytest.mark.parametrize("path", ["cop/paa-cop_r18_fpn_1x_coco.py", "cop/paa-iop_r18-c16_fpn_digits.py"])
def test_tool_takes_the_configs_own_model_and_pipeline(path, image):
    cfg = with_tta(load_config(str(ROOT / "configs" / path)))
    assert cfg.model.type == "SoftVoteTTAModel"
    assert cfg.model.module.type == "PAA"
    cfg.model.module.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert model.tta_cfg.nms.iou_threshold == 0.66
    pipeline = [step for step in cfg.test_dataloader.dataset.pipeline if step.type != "LoadAnnotations"]
    (augment,) = [step for step in pipeline if step.type == "TestTimeAug"]
    augment.transforms = [
        branch for branch in augment.transforms if branch[0]["type"] != "LoadAnnotations"
    ]  # an image alone
    sample = Compose(pipeline)(dict(img_path=image, img_id=0))
    flips = [own.flip for own in sample["data_samples"]]
    assert flips == ([True, False] * 3 if "coco" in path else [False, False])


def test_tool_falls_back_to_mmdetections_own(image):
    cfg = with_tta(load_config("mmdet::paa/paa_r50_fpn_1x_coco.py"))
    assert cfg.model.type == "DetTTAModel"
    cfg.model.module = small_paa()
    model = MODELS.build(cfg.model)
    assert type(model) is DetTTAModel
    pipeline = [step for step in cfg.test_dataloader.dataset.pipeline if step.type != "LoadAnnotations"]
    sample = Compose(pipeline)(dict(img_path=image, img_id=0))
    assert [own.flip for own in sample["data_samples"]] == [True, False]


def test_tool_finds_the_pipeline_inside_dataset_wrappers():
    cfg = load_config(str(ROOT / "configs/cop/paa-cop_r18_fpn_1x_coco.py"))
    inner = copy.deepcopy(cfg.test_dataloader.dataset)
    cfg.test_dataloader.dataset = dict(type="RepeatDataset", times=1, dataset=inner)
    with_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline[1].type == "TestTimeAug"
    assert "pipeline" not in cfg.test_dataloader.dataset
