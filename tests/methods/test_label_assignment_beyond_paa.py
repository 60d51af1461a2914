"""LabelAssignmentDistillation on TOOD, RTMDet, YOLOX and DDOD, as a config asks for it."""

import random

from lad.errors import ConfigError, UnsupportedError

import numpy as np
import pytest
import torch
from helpers import make_batch, small_paa
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.logging import MessageHub
from seam_detectors import FAMILIES, distil, loss_of, set_epoch, small


@pytest.fixture(autouse=True)
def _past_initial_epochs():
    set_epoch(5)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_the_student_learns_and_the_teacher_does_not(family, mode, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path, mode=mode)
    before = {name: value.clone() for name, value in model.teacher.model.state_dict().items()}
    sum(loss_of(model, make_batch((3, 2), size=(128, 160))).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.model.state_dict().items())


def test_losses_beside_the_students_own_are_none(tmp_path):
    """LAD adds no term: it changes which positives the student's own terms are computed on."""
    model = distil(small("rtmdet"), small("rtmdet"), tmp_path)
    batch = make_batch((3, 2))
    assert loss_of(model, batch).keys() == loss_of(model.student, batch).keys()


def test_mode_is_hard_unless_told_and_misspelt_ones_are_named(tmp_path):
    model = distil(small("tood"), small("tood"), tmp_path)
    assert model.methods[0].mode == "hard"
    with pytest.raises(ConfigError, match="mode must be 'hard' or 'soft', got 'medium'"):
        distil(small("tood"), small("tood"), tmp_path, mode="medium")


def test_soft_mode_is_refused_for_paa_with_the_reason(tmp_path):
    with pytest.raises(UnsupportedError, match="BatchedPAAHead has mode='hard' only"):
        distil(small_paa(), small_paa(), tmp_path, mode="soft")


@pytest.mark.parametrize("family", FAMILIES)
def test_remembering_the_teacher_is_refused_beyond_paa(family, tmp_path):
    with pytest.raises(
        UnsupportedError, match="cannot replay cached decisions of a teacher: leave out `cache`"
    ):
        distil(small(family), small(family), tmp_path, cache=dict(dir=str(tmp_path)))


@pytest.mark.parametrize(("student", "teacher"), [("tood", "paa"), ("paa", "tood")])
def test_paa_and_the_others_exchange_other_things_and_do_not_mix(student, teacher, tmp_path):
    configs = [small_paa() if family == "paa" else small(family) for family in (student, teacher)]
    with pytest.raises(
        UnsupportedError, match=r"both heads must decide in the same way; it works with PAAHead"
    ):
        distil(*configs, tmp_path)


@pytest.mark.parametrize("family", ["rtmdet", "yolox"])
def test_multi_scale_inputs_of_batch_augments(family, tmp_path):
    """YOLOX changes the size of whole batches behind the pipeline."""
    student = small(family)
    resize = dict(type="BatchSyncRandomResize", random_size_range=(128, 192), size_divisor=32, interval=1)
    student.data_preprocessor.batch_augments = [resize]
    model = distil(student, small(family), tmp_path, weights=(0, 0))
    random.seed(0)  # which sizes it takes
    sizes = set()
    for seed in range(4):
        MessageHub.get_current_instance().update_info("iter", seed)
        images = torch.randint(0, 256, (2, 3, 160, 160), generator=torch.Generator().manual_seed(seed)).byte()
        _, samples = make_batch((3, 2), size=(160, 160), seed=seed)
        data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
        sizes.add(tuple(data["inputs"].shape[-2:]))
        batch = (data["inputs"], data["data_samples"])
        plain, taught = loss_of(model.student, batch), loss_of(model, batch)
        assert all(torch.equal(taught[name], plain[name]) for name in plain)
    assert len(sizes) > 1


class FiveImages(BaseDataset):
    """What Mosaic and MixUp mix: random images with 0 to 4 objects, some of them crowds."""

    METAINFO = dict(classes=("a", "b", "c"))

    def load_data_list(self):
        return [self.image(number) for number in range(5)]

    def image(self, number):
        generator = np.random.default_rng(number)
        corner = generator.uniform(0, 60, (number, 2)).astype(np.float32)
        return dict(
            img=generator.integers(0, 256, (96, 128, 3), dtype=np.uint8),
            img_shape=(96, 128),
            ori_shape=(96, 128),
            img_id=number,
            img_path=f"{number}.jpg",
            gt_bboxes=np.concatenate([corner, corner + 30], axis=1),
            gt_bboxes_labels=generator.integers(0, 3, number),
            gt_ignore_flags=generator.random(number) < 0.3,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_mosaic_and_mixup_train_one_step(family, tmp_path):
    size = (128, 128)
    dataset = DATASETS.build(
        dict(
            type="MultiImageMixDataset",
            dataset=FiveImages(serialize_data=False),
            pipeline=[
                dict(type="Mosaic", img_scale=size, pad_val=114.0),
                dict(type="RandomAffine", scaling_ratio_range=(0.5, 1.5), border=(-64, -64)),
                dict(type="MixUp", img_scale=size, ratio_range=(0.8, 1.6), pad_val=114.0),
                dict(type="RandomFlip", prob=0.5),
                dict(type="Pad", size=size, pad_val=dict(img=(114.0, 114.0, 114.0))),
                dict(type="PackDetInputs"),
            ],
        )
    )
    np.random.seed(0)
    model = distil(small(family), small(family, base=16), tmp_path)
    data = model.data_preprocessor(pseudo_collate([dataset[index] for index in range(3)]), True)
    ignored = sum(len(sample.ignored_instances) for sample in data["data_samples"])
    assert ignored > 0
    losses = loss_of(model, (data["inputs"], data["data_samples"]))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
