"""Tensor forward of detectors: the same detections as MMDetection's own predict."""

import copy

from lad.export.compare import Detections, compare
from lad.export.modules import ExportableDetector, pooled, sample_at_offsets
from lad.export.onnx_file import reference

import numpy as np
import pytest
import torch
from export_detectors import FAMILIES, SHAPE, photographs, samples, trained


def detections(found):
    return [
        Detections(*(part[image, : found.num[image]].numpy() for part in found[:3]))
        for image in range(len(found.num))
    ]


def batch(num=2, seed=0):
    return torch.from_numpy(np.stack(photographs(num, seed=seed))).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_mmdetections(family):
    detector = trained(family)
    module = ExportableDetector(detector, SHAPE, 50).eval()
    images = batch()
    with torch.no_grad():
        found = module(images)
        expected = detector.test_step(dict(inputs=list(images.clone()), data_samples=samples(2)))
    for own, other in zip(expected, detections(found), strict=True):
        instances = own.pred_instances
        assert len(instances) > 10
        own = Detections(instances.bboxes.numpy(), instances.scores.numpy(), instances.labels.numpy())
        difference = compare(own.best(50), other, 2e-3)
        assert difference.unmatched == 0
        assert np.all(np.diff(other.scores) <= 0)


def test_images_of_a_batch_do_not_change_each_other():
    detector = trained("retinanet")
    module = ExportableDetector(detector, SHAPE, 50).eval()
    images = batch(3)
    with torch.no_grad():
        together = detections(module(images))
        alone = [detections(module(images[i : i + 1]))[0] for i in range(3)]
    assert all(not compare(a, b).unmatched for a, b in zip(alone, together, strict=True))
    assert compare(alone[0], together[1]).unmatched


def test_what_is_no_detection_is_zero():
    detector = trained("retinanet")
    module = ExportableDetector(detector, SHAPE, 50).eval()
    with torch.no_grad():
        threshold = module(batch()).scores[0, 20].item()
        detector.bbox_head.test_cfg.score_thr = threshold
        found = module(batch())
    assert found.num[0] == 20
    for image, num in enumerate(found.num):
        assert found.boxes[image, num:].abs().sum() == 0
        assert found.scores[image, num:].abs().sum() == 0
        assert (found.labels[image, num:] == -1).all()
        assert (found.scores[image, :num] > threshold).all()


def test_paa_without_score_voting_keeps_the_candidates_boxes():
    detector = trained("paa")
    voting = copy.deepcopy(detector)
    detector.bbox_head.with_score_voting = False
    images = batch()  # two: group norm refuses one value a channel
    results = {}
    for name, one in (("plain", detector), ("voted", voting)):
        module = ExportableDetector(one, SHAPE, 50).eval()
        with torch.no_grad():
            results[name], _ = detections(module(images))
        expected, _ = reference(one, module, images)
        assert compare(expected.best(50), results[name], 2e-3).unmatched == 0
    np.testing.assert_array_equal(results["plain"].scores, results["voted"].scores)
    assert np.abs(results["plain"].boxes - results["voted"].boxes).max() > 1


def test_offsets_are_sampled_as_by_deformable_convolution():
    head = trained("tood").bbox_head
    features, offsets = torch.randn(2, 4, 5, 7), 3 * torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(
        sample_at_offsets(features, offsets), head.deform_sampling(features, offsets), rtol=1e-5, atol=1e-5
    )


def test_regions_are_pooled_as_by_the_extractor():
    extractor = trained("faster").roi_head.bbox_roi_extractor
    features = tuple(torch.randn(2, 16, 24 // 2**i, 32 // 2**i) for i in range(4))
    corner = torch.rand(30, 2) * 60
    rois = torch.cat([torch.arange(30)[:, None] % 2, corner, corner + torch.rand(30, 2) * 300], 1)
    assert len(extractor.map_roi_levels(rois, 4).unique()) > 1
    torch.testing.assert_close(pooled(extractor, features, rois), extractor(features, rois))


def test_float_and_uint8_images_are_the_same():
    module = ExportableDetector(trained("retinanet"), SHAPE, 50).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(batch()), module(batch().float()), rtol=0, atol=0)
