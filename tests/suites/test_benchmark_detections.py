"""Trainings that read what another training's detector finds in images that it is not evaluated on."""

import json
import sys
from pathlib import Path

from lad.errors import ConfigError
from suites.detecting import Detecting
from suites.records import Key

import pytest
from benchmark_runs import TEST, FakeSuite, change, found, records, run

TRAINING_IMAGES = {"test_evaluator.ann_file": "training.json", "test_dataloader": {"batch_size": 4}}


def command(self):
    """As of tools/test.py; a file beside the checkpoint makes it fail."""
    checkpoint = self.run.checkpoint()
    given = str(self._given)
    if (self.run.folder / "blindfold").exists():
        (self.run.folder / "blindfold").unlink()
        given = "/gone.py"
    with open(self.run.folder / "detected.txt", "a") as log:
        log.write("once\n")
    content = json.dumps(found(1))
    return [sys.executable, "-S", "-c", TEST, str(checkpoint), given, content]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The distilled student reads the teacher's detections in the place of its weights."""
    fake = FakeSuite(tmp_path, monkeypatch)
    monkeypatch.setattr(Detecting, "command", command)
    with fake.edited() as content:
        content["entries"]["lad"]["needs"]["teacher"]["detect"] = TRAINING_IMAGES
    return fake


def files(fake):
    return sorted((fake.folder("teacher/0") / "detections").glob("*.bbox.json"))


def test_detections_are_written_once_and_their_place_is_what_the_trainings_are_given(fake):
    assert run(fake, jobs=2)[0] == 0
    (file,) = files(fake)
    assert json.loads(file.read_text()) == found(1)
    for seed in (0, 1):
        assert fake.starts(f"lad/{seed}") == [f"teacher={file} seed={seed} threads=1"]
    assert (fake.folder("teacher/0") / "detected.txt").read_text() == "once\n"
    # Its own evaluation is of its own images, and stays.
    assert json.loads((fake.folder("teacher/0") / "detector.bbox.json").read_text()) == found(0)
    settings = {}
    exec(file.with_name(file.name.replace(".bbox.json", ".py")).read_text(), settings)
    assert settings["test_evaluator"]["ann_file"] == "training.json"
    assert settings["test_dataloader"]["batch_size"] == 4
    assert run(fake)[1][0].startswith("fake: 5 of 5 runs are recorded")


def test_other_images_are_another_training_and_their_detections_another_file(fake):
    assert run(fake)[0] == 0
    digests = {key: one.digest for key, one in records(fake).items()}
    with fake.edited() as content:
        content["entries"]["lad"]["needs"]["teacher"]["detect"]["test_evaluator.ann_file"] = "more.json"
    assert run(fake)[0] == 1
    assert run(fake, rerun_changed=True)[0] == 0
    assert len(files(fake)) == 2
    changed = {key.row for key, one in records(fake).items() if one.digest != digests[key]}
    assert changed == {"lad"}
    assert len(fake.starts("teacher/0")) == 1


def test_places_and_speed_of_reading_do_not_make_another_file(fake):
    assert run(fake)[0] == 0
    with fake.edited() as content:
        content["entries"]["lad"]["needs"]["teacher"]["detect"]["test_dataloader.num_workers"] = 3
    assert run(fake)[1][0].startswith("fake: 5 of 5 runs are recorded")


def test_a_detector_that_fails_is_recorded_and_tried_again(fake):
    (fake.folder("teacher/0") / "blindfold").touch()
    assert run(fake, seeds=[0])[0] == 1
    failed = records(fake)[Key("lad", 0)]
    assert failed.error.startswith("detecting ended with exit code 1: ")
    assert "/gone.py" in failed.error
    assert files(fake) == []
    assert fake.starts("lad/0") == []
    assert records(fake)[Key("student", 0)].status == "ok"
    assert run(fake, seeds=[0])[0] == 0


def test_detections_of_a_teacher_that_is_trained_again_are_made_again(fake, tmp_path):
    assert run(fake)[0] == 0
    (old,) = files(fake)
    change(tmp_path / "teacher.py", "lr=0.1", "lr=0.2")
    assert run(fake, rerun_changed=True)[0] == 0
    (file,) = files(fake)
    assert file == old
    assert (fake.folder("teacher/0") / "detected.txt").read_text() == "once\n"
    aside = fake.folder("teacher/0").with_name("seed_0_before_1")
    assert (aside / "detections" / old.name).is_file()


@pytest.mark.parametrize(
    ("change_entry", "message"),
    [
        (lambda entries: entries["teacher"].update(evaluate=False), "'teacher' is not evaluated"),
        (lambda entries: entries["teacher"].update(evaluate_with="plain.py"), "'teacher' has evaluate_with"),
        (
            lambda entries: entries["lad"]["needs"]["teacher"].update(detect="train"),
            "detect must be a mapping, got 'train'",
        ),
    ],
)
def test_what_cannot_detect_is_one_line(fake, change_entry, message):
    with fake.edited() as content:
        change_entry(content["entries"])
    with pytest.raises(ConfigError) as refused:
        _ = fake.suite
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert Path(fake.file).name in str(refused.value)
