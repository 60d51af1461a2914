"""Two random views of each image."""

import copy

from lad.engine.randomness import Draw, SeededItems
from lad.errors import ConfigError

import cv2
import numpy as np
import pytest
import torch
from mmdet.models import MultiBranchDataPreprocessor
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate

NOTHING = dict(scale=(1.0, 1.0), flip=0.0, colour=0.0, grey=0.0, blur=0.0)
BLUE, GREEN, RED = 200, 100, 50


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "noise.png"), generator.integers(0, 256, (64, 64, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "plain.png"), np.full((64, 64, 3), (BLUE, GREEN, RED), np.uint8))
    return tmp_path


def views(folder, **settings):
    images = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(folder)))
    return DATASETS.build(dict(dict(type="ViewsDataset", dataset=images, size=64) | settings))


def test_view_without_changes_is_the_image(folder):
    dataset = views(folder, **NOTHING)
    item = dataset[0]
    image = cv2.imread(str(folder / "noise.png"))
    for name in ("first", "second"):
        assert item["inputs"][name].dtype == torch.uint8
        assert torch.equal(item["inputs"][name], torch.from_numpy(image.transpose(2, 0, 1)))
        sample = item["data_samples"][name]
        assert (sample.img_id, sample.ori_shape, sample.img_shape) == (1, (64, 64), (64, 64))
    assert len(dataset) == 2


def test_grey_weighs_the_colours_as_the_eye_does(folder):
    """Red 0.2989, green 0.587, blue 0.114: the other way round it would be 180 and not 96."""
    view = views(folder, **NOTHING | dict(grey=1.0))[1]["inputs"]["first"]
    assert view.unique().tolist() == [int(0.2989 * RED + 0.587 * GREEN + 0.114 * BLUE)]


def test_flip_mirrors(folder):
    view = views(folder, **NOTHING | dict(flip=1.0))[0]["inputs"]["first"]
    image = cv2.imread(str(folder / "noise.png"))[:, ::-1].copy()
    assert torch.equal(view, torch.from_numpy(image.transpose(2, 0, 1)))


@pytest.mark.parametrize("setting", [dict(scale=(0.2, 0.5)), dict(colour=1.0), dict(blur=1.0)])
def test_each_change_makes_the_two_views_differ(folder, setting):
    torch.manual_seed(0)
    inputs = views(folder, **NOTHING | setting)[0]["inputs"]
    assert not torch.equal(inputs["first"], inputs["second"])


def test_size_is_height_and_width(folder):
    assert views(folder, size=(32, 96))[0]["inputs"]["second"].shape == (3, 32, 96)


def test_grey_images_have_views_too(folder):
    images = dict(
        type="CocoDataset",
        labelled=False,
        data_prefix=dict(img=str(folder)),
        pipeline=[dict(type="LoadImageFromFile", color_type="grayscale")],
    )
    assert views(folder, dataset=images)[0]["inputs"]["first"].shape == (1, 64, 64)


def test_views_depend_on_the_place_in_the_run_alone(folder):
    """What a resumed run draws is what an undisturbed one does, whatever was drawn before."""
    load = SeededItems(views(folder))
    draws = [Draw(0, (5, 0, 0)), Draw(0, (5, 0, 1))]
    first, second = load(draws)
    torch.rand(10)
    (again,) = load(draws[1:])
    assert torch.equal(second["inputs"]["first"], again["inputs"]["first"])
    assert torch.equal(second["inputs"]["second"], again["inputs"]["second"])
    assert not torch.equal(first["inputs"]["first"], second["inputs"]["first"])


def test_multi_branch_preprocessor_takes_them(folder):
    dataset = views(folder, **NOTHING)
    settings = dict(mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 2.0], bgr_to_rgb=True)
    preprocess = MultiBranchDataPreprocessor(dict(type="DetDataPreprocessor", **settings))
    data = preprocess(pseudo_collate([dataset[1], dataset[1]]), True)
    expected = torch.tensor([(RED - 1) / 2, (GREEN - 2) / 2, (BLUE - 3) / 2])
    for name in ("first", "second"):
        assert data["inputs"][name].shape == (2, 3, 64, 64)
        assert torch.equal(data["inputs"][name][1, :, 5, 5], expected)
        assert len(data["data_samples"][name]) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(size=16), "at least 32"),
        (dict(size="big"), "size"),
        (dict(scale=(0.5, 0.2)), "scale"),
        (dict(flip=2), "flip"),
        (dict(colour=-1), "colour"),
    ],
)
def test_settings_out_of_range_are_refused(folder, setting, message):
    with pytest.raises(ConfigError, match=message):
        views(folder, **setting)


def test_pipeline_that_packs_is_refused(folder):
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackDetInputs")]
    images = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(folder)), pipeline=pipeline)
    with pytest.raises(ConfigError, match="take out what packs"):
        views(folder, dataset=images)[0]


def test_reference_is_a_view_of_each_other_image_as_often(tmp_path):
    for value in range(4):
        cv2.imwrite(str(tmp_path / f"{value}.png"), np.full((64, 64, 3), 50 * value, np.uint8))
    dataset = views(tmp_path, **NOTHING, references=True)
    torch.manual_seed(0)
    items = [dataset[2] for _ in range(300)]
    assert {int(item["inputs"]["first"].unique()) for item in items} == {100}
    shown = [int(item["inputs"]["reference"].unique()) for item in items]
    counts = {value: shown.count(value) for value in set(shown)}
    assert set(counts) == {0, 50, 150}
    # 100 of each expected, with a standard deviation of 8.
    assert all(70 < count < 130 for count in counts.values())
    assert {item["data_samples"]["reference"].img_id for item in items} == {1, 2, 4}


def test_views_are_the_same_beside_a_reference(folder):
    pairs = []
    for references in (False, True):
        torch.manual_seed(3)
        pairs.append(views(folder, references=references)[0]["inputs"])
    assert "reference" not in pairs[0]
    assert all(torch.equal(pairs[1][name], view) for name, view in pairs[0].items())


def test_single_image_has_no_reference(tmp_path):
    cv2.imwrite(str(tmp_path / "only.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"references=True .* the data set has 1"):
        views(tmp_path, references=True)


def test_wrapped_data_sets_load_their_images_by_default(folder):
    images = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(folder)))
    wrapped = dict(
        type="ConcatDataset", datasets=[images, dict(type="RepeatDataset", times=2, dataset=images)]
    )
    before = copy.deepcopy(wrapped)
    dataset = views(folder, dataset=wrapped, **NOTHING)
    assert len(dataset) == 6
    assert torch.equal(dataset[0]["inputs"]["first"], dataset[4]["inputs"]["first"])
    assert wrapped == before


def test_image_that_a_data_set_has_several_times_is_not_its_own_reference(folder):
    images = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(folder)))
    repeated = dict(type="RepeatDataset", times=5, dataset=images)
    dataset = views(folder, dataset=repeated, **NOTHING, references=True)
    torch.manual_seed(0)
    for _ in range(20):
        samples = dataset[3]["data_samples"]
        assert samples["reference"].img_path != samples["first"].img_path


def test_single_image_that_is_repeated_has_no_reference(tmp_path):
    cv2.imwrite(str(tmp_path / "only.png"), np.zeros((64, 64, 3), np.uint8))
    images = dict(type="CocoDataset", labelled=False, data_prefix=dict(img=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"references=True .* the data set has 1"):
        views(tmp_path, dataset=dict(type="RepeatDataset", times=3, dataset=images), references=True)
