"""BatchedPAAHead against MMDetection's PAAHead (mixtures in float64) and LADHead."""

import copy

from lad.assignment import candidates
from lad.base.replace import replaced
from lad.errors import ConfigError
from lad.exchange.paa_memory import RECORD, CachedScorer
from lad.heads.batched_paa_head import PAAPredictions, PAAScorer

import numpy as np
import pytest
import torch
from helpers import build, fake_cuda, float64_mixtures, make_batch, small_paa
from mmdet.models.dense_heads import LADHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode


def losses_and_gradients(model, inputs, samples):
    losses = model.loss(inputs, copy.deepcopy(samples))
    gradients = torch.autograd.grad(sum(losses.values()), list(model.parameters()), allow_unused=True)
    return losses, gradients


def compare(config_changes, inputs, samples, seed=0):
    plain = build(small_paa("PAAHead"), seed).train()
    batched = build(small_paa("BatchedPAAHead"), seed).train()
    for model in (plain, batched):
        for key, value in config_changes.items():
            model.bbox_head.train_cfg[key] = value
        if "assigner" in config_changes:
            model.bbox_head.assigner = copy.deepcopy(config_changes["assigner"])
    losses, gradients = losses_and_gradients(batched, inputs, samples)
    with float64_mixtures():
        expected, expected_gradients = losses_and_gradients(plain, inputs, samples)
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    for value, wanted in zip(gradients, expected_gradients, strict=True):
        if wanted is None:
            assert value is None or not value.any()
        else:
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
    return losses


@pytest.mark.parametrize("objects", [(3, 0, 7), (1, 1), (0, 0), (40, 2), (0, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_and_gradients_equal_mmdetections(objects, seed):
    losses = compare({}, *make_batch(objects, seed=seed), seed=seed)
    if not any(objects):
        assert losses["loss_bbox"] == 0
        assert losses["loss_iou"] == 0


def test_images_of_several_sizes_in_one_batch_equal_mmdetections():
    compare({}, *make_batch((4, 3, 5), shapes=[(96, 128), (60, 128), (90, 70)]))


@pytest.mark.parametrize("border", [0, 16])
def test_allowed_border_equals_mmdetections(border):
    compare(dict(allowed_border=border), *make_batch((4, 3), shapes=[(96, 128), (90, 100)]))


def test_positive_weight_equals_mmdetections():
    compare(dict(pos_weight=2.5), *make_batch())


def test_ignored_regions_take_mmdetections_own_assigner_and_equal_it():
    from mmdet.models.task_modules import MaxIoUAssigner

    inputs, samples = make_batch((4, 3))
    samples[0].ignored_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 64, 64]]), labels=torch.zeros(1).long()
    )
    compare(dict(assigner=MaxIoUAssigner(0.1, 0.1, min_pos_iou=0, ignore_iof_thr=0.3)), inputs, samples)


@pytest.mark.parametrize(("num", "share"), [(20, 0.5), (500, 0.1), (60, 0.25)])
def test_sampled_anchors_are_mmdetections(num, share):
    sampler = dict(
        type="RandomSampler", num=num, pos_fraction=share, neg_pos_ub=-1, add_gt_as_proposals=False
    )
    found = []
    for head in ("PAAHead", "BatchedPAAHead"):
        model = small_paa(head)
        model.train_cfg.sampler = sampler
        model = build(model, 0).train()
        torch.manual_seed(1)
        with float64_mixtures():
            found.append(losses_and_gradients(model, *make_batch((3, 0, 7))))
    (wanted, gradients), (losses, own) = found
    assert wanted["loss_bbox"] > 0
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(own, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_loss_of_deltas_is_refused():
    with pytest.raises(
        ConfigError, match="BatchedPAAHead learns boxes, not deltas: set reg_decoded_bbox=True"
    ):
        build(small_paa(reg_decoded_bbox=False))


def test_predictions_equal_mmdetections():
    inputs, samples = make_batch()
    results = []
    for head in ("PAAHead", "BatchedPAAHead"):
        model = build(small_paa(head)).eval()
        model.bbox_head.test_cfg.score_thr = 0.0
        with torch.no_grad():
            results.append([r.pred_instances for r in model.predict(inputs, copy.deepcopy(samples))])
    for expected, result in zip(*results, strict=True):
        assert len(expected) > 50
        torch.testing.assert_close(result.bboxes, expected.bboxes, rtol=1e-5, atol=1e-3)
        assert torch.equal(result.scores, expected.scores)
        assert torch.equal(result.labels, expected.labels)


@pytest.mark.parametrize("objects", [(3, 0, 7), (0, 0), (12, 1)])
def test_uniform_box_weight_gives_ladheads_losses(objects):
    inputs, samples = make_batch(objects)
    batched = build(small_paa("BatchedPAAHead", box_loss_weight="uniform")).train()
    lad = build(small_paa("LADHead")).train()
    assert isinstance(lad.bbox_head, LADHead)
    features = lad.extract_feat(inputs)
    instances = [sample.gt_instances for sample in samples]
    metas = [sample.metainfo for sample in samples]
    with float64_mixtures(), torch.no_grad():
        assignment = lad.bbox_head.get_label_assignment(*lad.bbox_head(features), instances, metas)
    expected = lad.bbox_head.loss(features, assignment, samples)
    losses = batched.loss(inputs, samples)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)


def test_unknown_box_weight_is_refused():
    with pytest.raises(ConfigError, match="'iou' or 'uniform', got 'num_pos'"):
        MODELS.build(small_paa(box_loss_weight="num_pos"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_predictions_that_are_not_finite_stop_with_the_images_name(value):
    inputs, samples = make_batch((2, 2, 2))
    inputs[1, 0, 5, 5] = value
    with pytest.raises(FloatingPointError, match=r"image_1\.jpg are NaN or infinite") as caught:
        build(small_paa()).eval().loss(inputs, samples)
    assert "image_0" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_predictions_are_scored_in_float32(dtype):
    head = build(small_paa()).bbox_head
    head.loss_cls.loss_weight = 1.0
    inputs, samples = make_batch()
    with torch.no_grad():
        outputs = build(small_paa()).train()._forward(inputs)
    low = [[level.to(dtype) for level in levels] for levels in outputs]
    high = [[level.float() for level in levels] for levels in low]
    metas = [sample.metainfo for sample in samples]
    instances = [sample.gt_instances for sample in samples]
    with torch.no_grad():
        losses = head.loss_by_feat(*low, instances, metas)
        expected = head.loss_by_feat(*high, instances, metas)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].float(), value, rtol=2e-2, atol=1e-2)


def fake_problem(head, num_objects=(4, 0, 3)):
    """Head outputs and ground truth as CUDA tensors without data."""
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    levels = [
        [torch.randn(len(num_objects), channels, *size, device="cuda", requires_grad=True) for size in sizes]
        for channels in (head.cls_out_channels, 4, 1)
    ]
    instances = [
        InstanceData(
            bboxes=torch.rand(count, 4, device="cuda"),
            labels=torch.zeros(count, dtype=torch.long, device="cuda"),
        )
        for count in num_objects
    ]
    metas = [
        dict(img_id=i, img_shape=(96, 128), pad_shape=(96, 128 - 32 * (i == 2)))
        for i in range(len(num_objects))
    ]
    return levels, instances, metas


def test_losses_on_cuda_inputs_wait_for_the_device_once(monkeypatch):
    """The whole loss on tensors without data; only ``fetch`` is answered from outside.

    A backward pass would need the device.
    """
    fetched = []

    def fetch(values):
        fetched.append(values)
        return [9, 1, 1, 1]

    monkeypatch.setattr(candidates, "fetch", fetch)
    with fake_cuda():
        with torch.device("cuda"):
            head = MODELS.build(small_paa()).bbox_head
        levels, instances, metas = fake_problem(head)
        losses = head.loss_by_feat(*levels, instances, metas)
        assert all(value.device.type == "cuda" and value.shape == () for value in losses.values())
    assert [values.device.type for values in fetched] == ["cuda"]


def test_remembered_candidates_on_cuda_inputs_wait_for_the_device_once(monkeypatch):
    """One image remembered, two computed; records live on the host and are sent over, not asked for."""
    fetched = []
    monkeypatch.setattr(candidates, "fetch", lambda values: fetched.append(values) or [9, 1, 1, 1])
    record = np.array([(3, 0.5), (7, 1.5)], dtype=RECORD).tobytes()
    with fake_cuda():
        with torch.device("cuda"):
            head = MODELS.build(small_paa()).bbox_head
        levels, instances, metas = fake_problem(head)
        seen = PAAPredictions.from_levels(head, *[[level[1:] for level in branch] for branch in levels])
        scorer = CachedScorer([record, None, None], metas, PAAScorer(head, seen), torch.device("cuda"))
        with replaced(head, "scorer", lambda predictions: scorer):
            losses = head.loss_by_feat(*levels, instances, metas)
        assert all(value.device.type == "cuda" for value in losses.values())
    assert len(fetched) == 1


def test_fake_device_finds_a_wait_and_a_stray_cpu_tensor():
    """Controls of the test above."""
    with fake_cuda():
        with torch.device("cuda"):
            head = MODELS.build(small_paa()).bbox_head
        levels, instances, metas = fake_problem(head)
        with pytest.raises(GuardOnDataDependentSymNode):
            head.loss_by_feat(*levels, instances, metas)
        instances[0].bboxes = torch.rand(4, 4)
        with pytest.raises(FakeTensorDeviceMismatchError):
            head.loss_by_feat(*levels, instances, metas)
