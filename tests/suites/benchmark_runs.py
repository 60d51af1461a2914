"""A suite whose trainings are a few lines of Python: they leave the files of a training, and can be told to fail."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

from suites import digest, runs
from suites.plan import Options
from suites.records import read_records
from suites.runner import SuiteRunner
from suites.suite_file import load_suite

import yaml

# WORK_DIR CONFIG STEPS: what tools/train.py leaves. Goes on from the steps that are noted.
TRAIN = """
import os, pathlib, sys, time
folder, config, steps = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with open(folder / 'starts.txt', 'a') as file:
    settings = {}
    exec(pathlib.Path(config).read_text(), settings)
    told = dict(teacher=settings.get('teacher_checkpoint'), seed=settings['randomness']['seed'])
    print(*(f'{k}={v}' for k, v in told.items()), 'threads=' + os.environ.get('OMP_NUM_THREADS', '-'), file=file)
(folder / pathlib.Path(config).name).write_text(pathlib.Path(config).read_text())
done = folder / 'steps.txt'
for step in range(int(done.read_text()) if done.exists() else 0, steps):
    if (folder / 'silence').exists():
        (folder / 'silence').unlink()
        sys.exit(3)
    if (folder / 'obstacle').exists():
        (folder / 'obstacle').unlink()
        print('2026/01/01 00:00:00 - mmengine - INFO - ...')
        print('Traceback (most recent call last):')
        print('ValueError: an obstacle')
        print('some last words')
        sys.exit(1)
    done.write_text(str(step + 1))
    while (folder / 'wait').exists():
        time.sleep(0.02)
(folder / f'epoch_{steps}.pth').write_text('weights')
"""
# CHECKPOINT CONFIG DETECTIONS: what tools/test.py leaves.
TEST = """
import pathlib, sys
assert pathlib.Path(sys.argv[1]).read_text().startswith('weights')
settings = {}
exec(pathlib.Path(sys.argv[2]).read_text(), settings)
with open(settings['test_evaluator']['outfile_prefix'] + '.bbox.json', 'w') as file:
    file.write(sys.argv[3])
"""
CONFIG = """
teacher_checkpoint = None
model = dict(type='Nothing')
train_dataloader = dict()
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
optim_wrapper = dict(optimizer=dict(lr=0.1))
test_dataloader = dict(dataset=dict(metainfo=dict(classes=('thing',))))
test_evaluator = dict(type='CocoMetric', ann_file={annotations!r})
"""


def annotations(images=8):
    """One object on each image."""
    box = dict(category_id=1, bbox=[10, 10, 40, 40], area=1600, iscrowd=0)
    return dict(
        images=[dict(id=i, width=100, height=100, file_name=f"{i}.png") for i in range(1, images + 1)],
        categories=[dict(id=1, name="thing")],
        annotations=[dict(box, id=i, image_id=i) for i in range(1, images + 1)],
    )


def found(shift, images=8):
    """Detections that are so many pixels off, more and more from image to image."""
    box = dict(category_id=1, score=0.9)
    return [dict(box, image_id=i, bbox=[10 + shift * i / images, 10, 40, 40]) for i in range(1, images + 1)]


class FakeSuite:
    """A teacher (seed 0), a student alone and a distilled student (seeds 0 and 1), on disk.

    Attributes:
        root: Folder of its runs.
        shifts: Pixels that an entry's detections are off.
        annotations: What all are evaluated on.
        versions: What trainings run with.
    """

    def __init__(self, tmp_path, monkeypatch, **changes):
        self.root = tmp_path / "work"
        self.shifts = dict(teacher=0, student=18, lad=6)
        self.versions = "torch 2"
        self.annotations = tmp_path / "annotations.json"
        self.annotations.write_text(json.dumps(annotations()))
        for name in self.shifts:
            (tmp_path / f"{name}.py").write_text(CONFIG.format(annotations=str(self.annotations)))
        content = dict(
            name="fake",
            title="A fake",
            seeds=[0, 1],
            entries=dict(
                lad=dict(
                    config=str(tmp_path / "lad.py"),
                    needs=dict(teacher=dict(entry="teacher", seed=0)),
                    options={"teacher_checkpoint": "{teacher}"},
                    baseline="student",
                    title="Student with LAD",
                ),
                student=dict(config=str(tmp_path / "student.py"), title="Student"),
                teacher=dict(config=str(tmp_path / "teacher.py"), seeds=[0], title="Teacher"),
            ),
            claims=[dict(text="LAD helps", better="lad", than="student")],
            **changes,
        )
        self.file = tmp_path / "fake.yaml"
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))
        monkeypatch.setattr(runs, "train_command", self.train_command)
        monkeypatch.setattr(runs, "test_command", self.test_command)
        monkeypatch.setattr(runs, "count_parameters", lambda cfg: 1000)
        monkeypatch.setattr(runs, "versions", lambda: self.versions)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    @property
    def suite(self):
        """As its file says now."""
        runs._read_config.cache_clear()
        digest._detectors.clear()
        return load_suite(self.file)

    @contextmanager
    def edited(self):
        """The content of its file, which is written again with what is changed in it."""
        content = yaml.safe_load(self.file.read_text())
        yield content
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))

    def folder(self, name):
        """A run's folder, there before its training."""
        entry, seed = name.split("/")
        folder = self.root / entry / f"seed_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def starts(self, name):
        """What each start of a run's training was given."""
        file = self.folder(name) / "starts.txt"
        return file.read_text().splitlines() if file.is_file() else []

    @staticmethod
    def train_command(run):
        steps = str(run.config.train_cfg.max_epochs)
        return [sys.executable, "-S", "-c", TRAIN, str(run.folder), str(run.given_config()), steps]

    def test_command(self, run, network):
        content = json.dumps(found(self.shifts[run.entry.name] + run.seed))
        return [
            sys.executable,
            "-S",
            "-c",
            TEST,
            str(run.checkpoint()),
            str(run.evaluated_config(network)),
            content,
        ]


def run(fake, **options):
    """Run the suite; its exit code and what it said."""
    said = []
    return SuiteRunner(fake.suite, fake.root, Options(**options), said.append).run(), said


def records(fake):
    """The records of a suite's work_dir."""
    return read_records(fake.root / "results.jsonl")


def change(file: Path, old: str, new: str) -> None:
    """Edit a file."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
