"""Folder of synthesised images: what is in it, and going on with it."""

import json

from lad.base.processes import locked
from lad.datasets.coco_checks import check_coco
from lad.errors import ConfigError, DataError
from lad.synthesis.dataset import SynthesisedFolder, SynthesisSettings, png
from lad.synthesis.layouts import Layout, RandomLayouts, RecordedLayouts
from lad.synthesis.optimisation import Losses, Objective, Schedule, SynthesisedBatch

import numpy as np
import pytest
import torch
from PIL import Image

SIZE = (32, 64)
CLASSES = ("cat", "dog", "cow")
LAYOUTS = RandomLayouts(SIZE, 3, (1, 3), (0.3, 0.6))


def settings(**changed):
    return SynthesisSettings(
        **(
            dict(
                config="mine.py",
                model="def",
                epoch=11,
                checkpoint="abc",
                classes=CLASSES,
                layouts=dict(objects=[1, 3]),
                images=7,
                size=SIZE,
                batch_size=3,
                seed=0,
                objective=Objective(),
                schedule=Schedule(steps=2),
            )
            | changed
        )
    )


class StandIn:
    """Makes random pixels of the seed alone; fails in a batch."""

    def __init__(self, fails_in=None):
        self.made = []
        self.fails_in = fails_in

    def make(self, layouts, size, seed, progress=None):
        if len(self.made) == self.fails_in:
            raise KeyboardInterrupt
        self.made.append(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (len(layouts), *size, 3), dtype=np.uint8)
        losses = Losses(*np.random.default_rng(seed).random(5).tolist())
        if progress is not None:
            progress(2)
        return SynthesisedBatch(torch.from_numpy(pixels), layouts, losses, losses)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_folder_is_a_coco_data_set(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    path = folder.path / "annotations.json"
    made = json.loads(path.read_text())
    assert check_coco(made, str(path), CLASSES) == []
    assert [category["name"] for category in made["categories"]] == list(CLASSES)
    assert len(made["images"]) == 7
    assert all(image["width"] == 64 and image["height"] == 32 for image in made["images"])
    for image in made["images"]:
        with Image.open(folder.path / "images" / image["file_name"]) as file:
            assert file.size == (64, 32)
    # The boxes are those that were drawn, as left, top, width and height.
    first = LAYOUTS.draw(7, np.random.default_rng(settings().layouts_seed()))[0]
    boxes = [one["bbox"] for one in made["annotations"] if one["image_id"] == 1]
    drawn = torch.cat([first.bboxes[:, :2], first.bboxes[:, 2:] - first.bboxes[:, :2]], dim=1)
    assert torch.allclose(torch.tensor(boxes), drawn, atol=0.011)
    labels = [one["category_id"] - 1 for one in made["annotations"] if one["image_id"] == 1]
    assert labels == first.labels.tolist()


def test_log_has_settings_and_losses_of_each_batch(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    first, *batches = map(json.loads, (folder.path / "synthesis.jsonl").read_text().splitlines())
    assert first["settings"]["schedule"]["steps"] == 2
    assert [len(batch["images"]) for batch in batches] == [3, 3, 1]
    assert set(batches[0]["before"]) == {"total", "detector", "statistics", "first", "variation"}


@pytest.mark.parametrize("fails_in", [0, 1, 2])
def test_interrupted_run_ends_with_the_same_files(tmp_path, fails_in):
    whole = SynthesisedFolder(tmp_path / "whole", settings())
    whole.fill(StandIn(), LAYOUTS)
    with pytest.raises(KeyboardInterrupt):
        SynthesisedFolder(tmp_path / "parts", settings()).fill(StandIn(fails_in), LAYOUTS)
    again = StandIn()
    resumed = SynthesisedFolder(tmp_path / "parts", settings())
    assert len(resumed.batches) == fails_in
    resumed.fill(again, LAYOUTS)
    assert len(again.made) == 3 - fails_in
    assert content(whole.path) == content(resumed.path)


def test_images_of_a_batch_that_is_not_in_the_log_are_made_again(tmp_path):
    """As a kill leaves them: images and annotations written, the log's line not."""
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    before = content(folder.path)
    log = folder.path / "synthesis.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:2]))
    (folder.path / "images/000005.png").write_bytes(b"half an im")
    (folder.path / "images/.000006.png.partial").write_bytes(b"")
    SynthesisedFolder(folder.path, settings()).fill(StandIn(), LAYOUTS)
    assert content(folder.path) == before


def test_broken_last_line_of_the_log_is_dropped(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    log = folder.path / "synthesis.jsonl"
    log.write_text(log.read_text()[:-40])
    assert len(SynthesisedFolder(folder.path, settings()).batches) == 2


def test_images_that_were_taken_away_are_made_again(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    before = content(folder.path)
    (folder.path / "images/000004.png").unlink()
    again = StandIn()
    SynthesisedFolder(folder.path, settings()).fill(again, LAYOUTS)
    assert len(again.made) == 2
    assert content(folder.path) == before


def test_finished_folder_makes_nothing(tmp_path):
    SynthesisedFolder(tmp_path, settings()).fill(StandIn(), LAYOUTS)
    again = StandIn()
    SynthesisedFolder(tmp_path, settings()).fill(again, LAYOUTS)
    assert not again.made


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (dict(seed=1), r"seed: 0, now 1"),
        (dict(images=8), "images: 7, now 8"),
        (dict(checkpoint="abd"), "checkpoint"),
        (dict(model="deg"), "model: 'def', now 'deg'"),
        (dict(epoch=2), "epoch: 11, now 2"),
        (dict(objective=Objective(variation=3)), "objective"),
        (dict(classes=("cat", "cow", "dog")), "classes"),
    ],
)
def test_folder_of_other_settings_is_refused_and_left_alone(tmp_path, changed, named):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    before = content(folder.path)
    with pytest.raises(ConfigError, match=named) as refused:
        SynthesisedFolder(folder.path, settings(**changed))
    assert "\n" not in str(refused.value)
    assert content(folder.path) == before


def test_config_by_another_path_goes_on_in_the_same_folder(tmp_path):
    SynthesisedFolder(tmp_path / "made", settings()).fill(StandIn(), LAYOUTS)
    again = StandIn()
    moved = SynthesisedFolder(tmp_path / "made", settings(config="/there/mine.py"))
    moved.fill(again, LAYOUTS)
    assert not again.made


def test_folder_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    folder.fill(StandIn(), LAYOUTS)
    log = folder.path / "synthesis.jsonl"
    first, *batches = map(json.loads, log.read_text().splitlines())
    del first["settings"]["model"], first["settings"]["epoch"]
    log.write_text("".join(json.dumps(line) + "\n" for line in [first, *batches]))
    before = content(folder.path)
    with pytest.raises(ConfigError, match=r"made by an earlier version, .*: give another folder") as refused:
        SynthesisedFolder(folder.path, settings())
    assert "\n" not in str(refused.value)
    assert content(folder.path) == before


@pytest.mark.parametrize("first", ["[1]", '{"settings": [1]}', '{"images": []}'])
def test_log_without_settings_is_refused(tmp_path, first):
    (tmp_path / "synthesis.jsonl").write_text(f"{first}\n")
    with pytest.raises(ConfigError, match="is not the log of a synthesis"):
        SynthesisedFolder(tmp_path, settings())


def drawn_labels(folder):
    return [one[4] for batch in folder.batches for image in batch["images"] for one in image["objects"]]


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_classes_occur_equally_often_over_all_batches(tmp_path, batch_size):
    folder = SynthesisedFolder(tmp_path / "made", settings(images=40, batch_size=batch_size))
    folder.fill(StandIn(), LAYOUTS)
    counts = np.bincount(drawn_labels(folder), minlength=3)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 4, 11, 25])
def test_layouts_of_a_file_are_used_equally_often_over_all_batches(tmp_path, batch_size):
    recorded = RecordedLayouts(
        [Layout(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([number])) for number in range(10)]
    )
    folder = SynthesisedFolder(tmp_path / "made", settings(images=25, batch_size=batch_size))
    folder.fill(StandIn(), recorded)
    # 25 images of 10 layouts.
    assert sorted(np.bincount(drawn_labels(folder), minlength=10)) == [2] * 5 + [3] * 5


@pytest.mark.parametrize("name", ["annotations.json", "photo.png", "images.zip"])
def test_folder_with_something_else_in_it_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="holds no synthesised images"):
        SynthesisedFolder(tmp_path, settings())
    assert (tmp_path / name).read_text() == "mine"


def test_folder_of_photographs_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/000001.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(ConfigError, match="holds no synthesised images"):
        SynthesisedFolder(tmp_path, settings())


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "made").write_text("mine")
    with pytest.raises(ConfigError, match="give another folder"):
        SynthesisedFolder(tmp_path / "made", settings())


def test_foreign_log_is_refused(tmp_path):
    (tmp_path / "synthesis.jsonl").write_text("[1]\n")
    with pytest.raises(ConfigError, match="is not the log of a synthesis"):
        SynthesisedFolder(tmp_path, settings())


def test_folder_that_another_process_writes_to_is_refused(tmp_path):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    made = StandIn()
    with locked(folder.path), pytest.raises(ConfigError, match="another process is writing to"):
        folder.fill(made, LAYOUTS)
    assert not made.made
    folder.fill(made, LAYOUTS)
    assert len(made.made) == 3


def test_full_disk_is_told_in_one_line_and_loses_nothing(tmp_path, monkeypatch):
    folder = SynthesisedFolder(tmp_path / "made", settings())
    with pytest.raises(KeyboardInterrupt):
        folder.fill(StandIn(fails_in=1), LAYOUTS)
    before = content(folder.path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lad.engine.checkpoints.os.fsync", full)
    with pytest.raises(
        DataError, match=r"cannot write to .*No space left on device.*the same command goes on"
    ):
        SynthesisedFolder(folder.path, settings()).fill(StandIn(), LAYOUTS)
    assert content(folder.path) == before


def test_seeds_of_batches_differ_and_depend_on_the_seed():
    seeds = {settings(seed=seed).image_seed(batch) for seed in (0, 1) for batch in range(50)}
    seeds |= {settings(seed=seed).layouts_seed() for seed in (0, 1)}
    assert len(seeds) == 102


@pytest.mark.parametrize(("images", "batches"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2])])
def test_batches_are_full_but_the_last(images, batches):
    assert settings(images=images).batches() == batches


@pytest.mark.parametrize("wrong", [dict(images=0), dict(batch_size=0), dict(size=(16, 64)), dict(seed=-1)])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        settings(**wrong)
