"""The labels that a dense head trains on, read while it computes its loss."""

import copy
from types import SimpleNamespace

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.labels import can_read_labels, reading_labels

import pytest
import torch
from dense_detectors import class_loss_divisor, dense
from helpers import build, make_batch
from mmdet.models.utils import unpack_gt_instances
from seam_detectors import FAMILIES, decisions, set_epoch

BATCH = ((3, 0, 4), (64, 96))


def from_the_assigner(model, batch):
    """(N, P) labels from what the head's assigner said, image by image; (N, P) whether it left a prior out."""
    answers = decisions(model, batch)[: len(batch[1])]
    labels, ignored = [], []
    answers = iter(answers)
    for sample in batch[1]:
        if len(sample.gt_instances) == 0 and not asks_without_objects(model):
            labels.append(None)
            ignored.append(None)
            continue
        answer = next(answers)
        own = torch.full_like(answer.gt_inds, 3)
        positive = answer.gt_inds > 0
        own[positive] = sample.gt_instances.labels[answer.gt_inds[positive] - 1]
        labels.append(own)
        ignored.append(answer.gt_inds < 0)
    size = next(len(own) for own in labels if own is not None)
    labels = [torch.full((size,), 3) if own is None else own for own in labels]
    ignored = [torch.zeros(size, dtype=torch.bool) if own is None else own for own in ignored]
    return torch.stack(labels), torch.stack(ignored)


def asks_without_objects(model):
    return type(model).__name__ != "YOLOX"


def read(model, batch):
    inputs, samples = batch
    with reading_labels(model.bbox_head) as reader:
        model.loss(inputs, copy.deepcopy(samples))
    levels = model.bbox_head(model.extract_feat(inputs))[0]
    channels = model.bbox_head.cls_out_channels
    return reader.labels(len(samples), [level[0].numel() // channels for level in levels])


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ("retinanet", "vfnet", "yolox") else [pytest.mark.slow])
        for family in ("retinanet", "atss", "gfl", "vfnet", *FAMILIES)
    ],
)
def test_labels_are_those_that_the_assigner_decides_in_the_order_of_the_priors(family):
    set_epoch(100)
    config = dense(family)
    if family == "retinanet":
        config.train_cfg.assigner.neg_iou_thr = 0.2  # near misses, which take no part
    model = build(config).eval()
    model.training = model.bbox_head.training = True
    batch = make_batch(BATCH[0], size=BATCH[1])
    expected, ignored = from_the_assigner(model, batch)
    labels = read(model, batch)
    assert torch.equal(labels.labels.masked_fill(ignored, 3), expected)
    assert torch.equal(labels.positive, expected < 3)
    assert torch.equal(labels.counts, ~ignored)
    assert labels.positive[[0, 2]].any(dim=1).all()
    assert not labels.positive[1].any()
    assert bool(ignored.any()) == (family == "retinanet")


def test_labels_of_fcos_are_its_targets():
    model = build(dense("fcos")).train()
    inputs, samples = make_batch(BATCH[0], size=BATCH[1])
    head = model.bbox_head
    sizes = [level.shape[-2:] for level in head(model.extract_feat(inputs))[0]]
    points = head.prior_generator.grid_priors(sizes, device="cpu")
    targets, _ = head.get_targets(points, unpack_gt_instances(samples)[0])
    expected = torch.cat([level.view(3, -1) for level in targets], dim=1)
    labels = read(model, (inputs, samples))
    assert torch.equal(labels.labels, expected)
    assert labels.positive.sum() == (expected < 3).sum() > 0


def test_labels_of_the_batched_paa_are_mmdetections():
    batch = make_batch(BATCH[0], size=BATCH[1])
    found = [read(build(dense("paa", type=head)).train(), batch) for head in ("BatchedPAAHead", "PAAHead")]
    assert torch.equal(found[0].labels, found[1].labels)
    assert found[0].positive[0].any()
    assert not found[0].positive[1].any()


def test_classes_of_yolox_do_not_hang_on_how_well_its_boxes_lie():
    """A positive whose predicted box misses its object has class targets of 0; its class is the object's."""
    batch = make_batch(BATCH[0], size=BATCH[1])
    for sample in batch[1]:
        sample.gt_instances.labels.fill_(2)
    head = (model := build(dense("yolox")).train()).bbox_head
    asked = head.assigner.assign

    def missing(*args, **kwargs):
        answer = asked(*args, **kwargs)
        answer.max_overlaps.zero_()
        return answer

    expected = read(model, batch)
    head.assigner.assign = missing
    found = read(model, batch)
    assert found.positive.any()
    assert (found.labels[found.positive] == 2).all()
    assert torch.equal(found.labels, expected.labels)
    assert "sample" not in vars(head.sampler)


def test_early_tood_labels_come_through_its_first_loss():
    config = dense("tood")
    config.train_cfg.initial_epoch = 4
    model = build(config).train()
    assigner, results = model.bbox_head.initial_assigner, []
    original = assigner.assign
    batch = make_batch(BATCH[0], size=BATCH[1])
    set_epoch(0)
    with replaced(assigner, "assign", lambda *args: results.append(original(*args)) or results[-1]):
        labels = read(model, batch)
    set_epoch(100)
    for image, (result, sample) in enumerate(zip(results, batch[1], strict=True)):
        expected = torch.full_like(result.gt_inds, 3)
        positive = result.gt_inds > 0
        expected[positive] = sample.gt_instances.labels[result.gt_inds[positive] - 1]
        assert torch.equal(labels.labels[image], expected)
        assert positive.any() == (len(sample.gt_instances) > 0)


def test_the_head_is_as_before_when_the_block_ends():
    for family in ("retinanet", "yolox"):
        head = build(dense(family)).bbox_head
        before = dict(vars(head))
        with reading_labels(head):
            pass
        assert vars(head) == before
        assert not head.loss_cls._forward_pre_hooks


def test_heads_with_other_losses_are_not_known():
    config = dense("retinanet")
    assert can_read_labels(build(config).bbox_head)
    config.bbox_head.type = "FreeAnchorRetinaHead"
    assert not can_read_labels(build(config).bbox_head)
    assert not can_read_labels(None)


#: What a family divides its class loss by in a batch of three images without objects: alone, and beside a process
#: that has 100 positives, where it averages over processes.
WITHOUT_OBJECTS = dict(
    retinanet=(3, 3),
    mmdet_paa=(3, 3),
    atss=(3, 51.5),
    gfl=(3, 51.5),
    ddod=(3, 51.5),
    paa=(3, 50),
    fcos=(1, 50),
    vfnet=(1, 50),
    tood=(1, 50),
    rtmdet=(1, 50),
    yolox=(1, 50),
)


@pytest.mark.parametrize("family", WITHOUT_OBJECTS)
@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_head_divides_its_class_loss_by(family, processes, monkeypatch):
    set_epoch(100)
    config = dense("paa", type="PAAHead") if family == "mmdet_paa" else dense(family)
    model = build(config).eval()
    model.training = model.bbox_head.training = True
    if processes == 2:
        beside = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_world_size=lambda: 2,
            all_reduce=lambda tensor, op: tensor.add_(100 / 2),
            ReduceOp=torch.distributed.ReduceOp,
        )
        monkeypatch.setattr("mmdet.utils.dist_utils.dist", beside)
    for objects in ((0, 0, 0), (0, 0, 1), (3, 0, 4)):
        batch = make_batch(objects, size=BATCH[1])
        expected = class_loss_divisor(model, *batch)
        assert float(read(model, batch).avg_factor) == pytest.approx(expected, rel=1e-4)
        if not any(objects):
            assert expected == pytest.approx(WITHOUT_OBJECTS[family][processes - 1], rel=1e-4)


def test_a_class_loss_without_a_divisor_is_refused():
    head = build(dense("atss")).bbox_head
    with reading_labels(head) as reader:
        reader.hook(head.loss_cls, (None, torch.zeros(6), torch.ones(6)), {})
    with pytest.raises(UnsupportedError, match="ATSSHead calls its loss_cls without avg_factor"):
        reader.labels(2, [3])
