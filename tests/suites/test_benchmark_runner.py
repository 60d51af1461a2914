"""A suite goes on where it was, whatever happened to it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lad.base.processes import locked
from lad.errors import ConfigError
from suites import runs
from suites.archiving import archive_results
from suites.plan import Options, plan
from suites.records import Key
from suites.results import summarise
from suites.runner import SuiteRunner
from suites.stale import OLDER, OTHER, changed_since

import pytest
from benchmark_runs import FakeSuite, change, found, records, run


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSuite(tmp_path, monkeypatch)


def test_every_run_is_trained_once_after_its_teacher_and_recorded(fake):
    code, said = run(fake)
    assert code == 0
    found = records(fake)
    assert {(key.row, key.seed) for key in found} == {
        ("teacher", 0), ("student", 0), ("student", 1), ("lad", 0), ("lad", 1)
    }  # fmt: skip
    teacher = fake.folder("teacher/0") / "epoch_2.pth"
    # A teacher first, also where the suite names it last; its checkpoint is what the student is given.
    assert fake.starts("lad/1") == [f"teacher={teacher} seed=1 threads=-"]
    one = found[Key("lad", 0)]
    assert one.status == "ok"
    assert one.parameters == 1000
    assert one.trained_with == ("torch 2",)
    # 6 pixels off at most: IoU 34/46 = 0.74 on the last image, and 1 nearly on the first.
    assert one.metrics["AP50"] == 1.0
    assert 0.6 < one.metrics["mAP"] < 1.0
    assert found[Key("teacher", 0)].metrics["mAP"] == pytest.approx(1.0)
    assert json.loads((fake.root / one.detections).read_text())[0]["image_id"] == 1
    assert any(line.startswith("lad seed 0: mAP 0.") for line in said)


def test_the_same_command_again_does_nothing(fake):
    run(fake)
    lines = (fake.root / "results.jsonl").read_text()
    code, said = run(fake)
    assert (code, len(said)) == (0, 1)
    assert said[0].startswith("fake: 5 of 5 runs are recorded")
    assert (fake.root / "results.jsonl").read_text() == lines
    assert len(fake.starts("lad/0")) == 1


def test_a_training_that_others_need_and_that_detects_nothing_has_no_row(fake):
    with fake.edited() as content:
        entries = content["entries"]
        entries["pretraining"] = dict(config=entries["teacher"]["config"], evaluate=False)
        entries["lad"]["needs"]["pretrained"] = dict(entry="pretraining", seed="same")
        entries["lad"]["options"] = {"teacher_checkpoint": "{pretrained}", "model.init": "{teacher}"}
    assert run(fake, only=["lad"])[0] == 0  # an evaluation would not know its detections
    assert {key.row for key in records(fake)} == {"teacher", "lad"}
    for seed in (0, 1):
        checkpoint = fake.folder(f"pretraining/{seed}") / "epoch_2.pth"
        assert fake.starts(f"lad/{seed}") == [f"teacher={checkpoint} seed={seed} threads=-"]
    assert run(fake)[1][0].startswith("fake: 5 of 7 runs are recorded")
    assert run(fake)[1][0].startswith("fake: 7 of 7 runs are recorded")
    assert len(fake.starts("pretraining/1")) == 1
    rows = summarise(fake.suite, records(fake), fake.root, replicates=10).rows
    assert [row.network.row for row in rows] == ["lad", "student", "teacher"]
    # Alone, and where all that needs it is archived.
    assert run(fake, only=["pretraining"])[1][0].startswith("fake: 2 of 2 runs are recorded")
    shutil.rmtree(fake.root / "pretraining")
    assert run(fake, only=["pretraining"], seeds=[0])[0] == 0
    assert len(fake.starts("pretraining/0")) == 1
    assert archive_results(fake.suite, fake.root, records(fake)).total == 5
    shutil.rmtree(fake.root)
    assert run(fake)[1][0].startswith("fake: 7 of 7 runs are recorded")
    assert fake.starts("pretraining/0") == []
    assert run(fake, use_archive=False)[0] == 0
    # What is trained with other weights before is another training.
    change(Path(entries["teacher"]["config"]), "lr=0.1", "lr=0.2")
    code, said = run(fake, only=["lad"])
    assert code == 1
    assert any("pretraining/seed_0: " in line and "changed since it was trained" in line for line in said)


def test_a_failed_training_is_recorded_with_its_error_and_the_suite_goes_on(fake):
    (fake.folder("student/0") / "obstacle").touch()
    code, said = run(fake)
    assert code == 1
    failed = records(fake)[Key("student", 0)]
    assert (failed.status, failed.error) == (
        "failed",
        "training ended with exit code 1: ValueError: an obstacle",
    )
    assert {key.seed for key, record in records(fake).items() if record.status == "ok"} == {0, 1}
    assert any("no result: student/seed_0: training ended" in line for line in said)
    assert any(line.startswith("FAILED") and line.endswith("train.log)") for line in said)
    # It is tried again next time, from where it was.
    assert run(fake)[0] == 0
    assert records(fake)[Key("student", 0)].status == "ok"
    assert len(fake.starts("student/0")) == 2


def test_detections_that_cannot_be_recorded_fail_their_run_alone(fake, monkeypatch):
    def count(cfg):
        if "student" in cfg.filename:
            raise ValueError("an obstacle")
        return 1000

    monkeypatch.setattr(runs, "count_parameters", count)
    assert run(fake)[0] == 1
    assert records(fake)[Key("student", 1)].error == "ValueError: an obstacle"
    assert records(fake)[Key("lad", 1)].status == "ok"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "ann_file=",
            "ann_file_=",
            r"student.py: a suite needs test_evaluator=dict\(type='CocoMetric', ann_file",
        ),
        (
            "'thing',",
            "'thing', 'other'",
            "fake: of 'student' and 'teacher' only one is evaluated on other; evaluate both on the same, or give "
            "'evaluate: false' to an entry",
        ),
        (
            "annotations.json",
            "others.json",
            r"'student' is evaluated on \S*others.json and 'teacher' on \S*annotations",
        ),
    ],
    ids=["nothing", "other classes", "other images"],
)
def test_rows_that_are_not_evaluated_on_the_same_are_refused_before_the_first_training(
    fake, tmp_path, old, new, message
):
    change(tmp_path / "student.py", old, new)
    with pytest.raises(ConfigError, match=message):
        run(fake)
    assert fake.starts("teacher/0") == []
    # What is not asked for, and what has no row, does not matter.
    assert run(fake, only=["lad"], seeds=[0])[0] == 0
    with fake.edited() as content:
        del content["claims"], content["entries"]["lad"]["baseline"]
        content["entries"]["student"]["evaluate"] = False
        content["entries"]["lad"]["needs"]["before"] = dict(entry="student", seed="same")
        content["entries"]["lad"]["options"] = {"teacher_checkpoint": "{teacher}{before}"}
    assert run(fake, seeds=[0], rerun_changed=True)[0] == 0


def test_classes_in_another_order_are_the_same(fake, tmp_path):
    for name in ("teacher", "student", "lad"):
        change(tmp_path / f"{name}.py", "'thing',", "'thing', 'other'")
    change(tmp_path / "student.py", "'thing', 'other'", "'other', 'thing'")
    assert run(fake, seeds=[0])[0] == 0


def test_students_of_a_teacher_that_failed_wait_for_the_next_time(fake):
    (fake.folder("teacher/0") / "obstacle").touch()
    code, said = run(fake)
    assert code == 1
    assert any("no result: lad/seed_1: it needs teacher/seed_0" in line for line in said)
    assert fake.starts("lad/0") == []
    assert run(fake)[0] == 0
    assert records(fake)[Key("lad", 1)].status == "ok"


def test_a_training_that_was_killed_half_way_is_resumed(fake):
    folder = fake.folder("student/0")
    (folder / "steps.txt").write_text("1")
    (folder / "obstacle").touch()
    run(fake, only=["student"], seeds=[0])
    assert (folder / "steps.txt").read_text() == "1"
    run(fake, only=["student"], seeds=[0])
    assert (folder / "steps.txt").read_text() == "2"
    # Killed after the training: evaluated, not trained.
    (fake.root / "results.jsonl").unlink()
    run(fake, only=["student"], seeds=[0])
    assert len(fake.starts("student/0")) == 2
    assert records(fake)[Key("student", 0)].status == "ok"


def test_detections_that_were_lost_are_made_again(fake):
    run(fake)
    (fake.folder("lad/1") / "detector.bbox.json").unlink()
    code, _ = run(fake)
    assert code == 0
    assert (fake.folder("lad/1") / "detector.bbox.json").is_file()
    assert len(fake.starts("lad/1")) == 1


def test_only_entries_and_seeds_that_are_asked_for_and_what_they_need(fake):
    chosen = [one.name for one in plan(fake.suite, fake.root, Options(only=["lad"], seeds=[1]))]
    assert chosen == ["teacher/seed_0", "lad/seed_1"]
    everything = [one.name for one in plan(fake.suite, fake.root, Options())]
    assert everything == ["teacher/seed_0", "lad/seed_0", "student/seed_0", "lad/seed_1", "student/seed_1"]
    with pytest.raises(ConfigError, match="there is no entry 'lda'; nearest: lad"):
        plan(fake.suite, fake.root, Options(only=["lda"]))
    with pytest.raises(ConfigError, match="the suite has no seed 7; it has 0, 1"):
        plan(fake.suite, fake.root, Options(seeds=[7]))


def test_a_changed_config_is_said_and_trained_again_only_when_asked(fake, tmp_path):
    run(fake)
    change(tmp_path / "teacher.py", "lr=0.1", "lr=0.2")
    code, said = run(fake)
    assert code == 1
    assert any(
        "teacher/seed_0: optim_wrapper changed since it was trained; --rerun-changed" in line for line in said
    )
    # Whoever learned from it is concerned, the student alone is not.
    assert any("lad/seed_1: its teacher changed since it was trained" in line for line in said)
    assert not any("no result: student" in line for line in said)
    assert changed_since(fake.suite, fake.root, records(fake)) == dict.fromkeys(
        [Key("teacher", 0), Key("lad", 0), Key("lad", 1)], OTHER
    )
    assert run(fake, rerun_changed=True)[0] == 0
    assert len(fake.starts("teacher/0")) == 1  # in a new folder
    assert (fake.root / "teacher/seed_0_before_1/starts.txt").is_file()
    # Whoever waits for the folder has the same lock.
    assert not (fake.root / "teacher/seed_0_before_1/.lock").exists()
    assert len(fake.starts("student/0")) == 1
    assert changed_since(fake.suite, fake.root, records(fake)) == {}
    assert run(fake)[0] == 0


def test_another_evaluation_is_made_without_training(fake, tmp_path):
    run(fake)
    change(tmp_path / "student.py", "type='CocoMetric'", "type='CocoMetric', classwise=True")
    code, said = run(fake)
    assert code == 0
    assert any("student/seed_0: its evaluation changed" in line for line in said)
    assert len(fake.starts("student/0")) == 1
    assert run(fake)[1][0].startswith("fake: 5 of 5")


def test_detections_of_other_weights_than_their_record_are_evaluated_again(fake):
    """As after a kill between the new detections and their record."""
    run(fake)
    file = fake.folder("lad/1") / "detector.bbox.json"
    before = file.read_text()
    file.write_text(json.dumps(found(25)))
    code, said = run(fake)
    assert code == 0
    assert "lad/seed_1: its detections changed since it was recorded; evaluated again" in said
    assert file.read_text() == before
    assert len(fake.starts("lad/1")) == 1
    assert run(fake)[1][0].startswith("fake: 5 of 5")


def test_results_on_annotations_that_were_edited_are_measured_again(fake):
    run(fake, only=["student"], seeds=[0])
    before = records(fake)[Key("student", 0)].metrics["mAP"]
    change(fake.annotations, '"bbox": [10, 10, 40, 40]', '"bbox": [10, 10, 50, 50]')
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 0
    assert "student/seed_0: its annotations changed since it was recorded; evaluated again" in said
    assert records(fake)[Key("student", 0)].metrics["mAP"] < before
    assert len(fake.starts("student/0")) == 1
    assert len(run(fake, only=["student"], seeds=[0])[1]) == 1


def trained_on(fake, tmp_path):
    """Have the students trained on two data sets; the annotations of the second."""
    first, second = (tmp_path / name for name in ("first.json", "second.json"))
    first.write_text("{}")
    second.write_text("{}")
    sets = [dict(ann_file=str(first)), dict(data_root=str(tmp_path), ann_file=second.name)]
    loader = dict(dataset=dict(type="ConcatDataset", datasets=sets))
    change(tmp_path / "student.py", "train_dataloader = dict()", f"train_dataloader = {loader}")
    return second


def test_a_training_on_annotations_that_were_edited_is_another(fake, tmp_path):
    second = trained_on(fake, tmp_path)
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    second.write_text('{"images": []}')
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 1
    assert any(f"student/seed_0: {second} changed since it was trained; --rerun-changed" in s for s in said)
    # What is not known may be the same.
    second.unlink()
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    assert len(fake.starts("student/0")) == 1


def make_older(fake, name, row, seed):
    """A run as it was written before contents of files and versions were noted."""
    state = fake.folder(name) / "benchmark.json"
    content = json.loads(state.read_text())
    del content["annotations"], content["trained_with"]
    state.write_text(json.dumps(content))
    file = fake.root / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if (line["row"], line["seed"]) == (row, seed):
            del line["sha256"], line["format"], line["trained_with"]
            line["versions"] = dict(torch="1")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_an_older_version_recorded_is_evaluated_again_and_not_trained(fake, tmp_path):
    second = trained_on(fake, tmp_path)
    run(fake)
    make_older(fake, "student/0", "student", 0)
    assert changed_since(fake.suite, fake.root, records(fake)) == {Key("student", 0): OLDER}
    code, said = run(fake)
    assert code == 0
    assert "student/seed_0: recorded by an older version; evaluated again" in said
    assert len(fake.starts("student/0")) == 1
    assert records(fake)[Key("student", 0)].trained_with == ("unknown",)
    assert changed_since(fake.suite, fake.root, records(fake)) == {}
    assert len(run(fake)[1]) == 1
    # From now on its training's annotations are known too.
    second.write_text('{"images": []}')
    assert set(changed_since(fake.suite, fake.root, records(fake))) == {Key("student", 0), Key("student", 1)}


def test_a_record_tells_with_what_each_part_of_a_training_ran(fake):
    folder = fake.folder("student/0")
    (folder / "obstacle").touch()
    run(fake, only=["student"], seeds=[0])
    make_older(fake, "student/0", "student", 0)  # that nobody knows
    (folder / "epoch_1.pth").write_text("half of the weights")
    for fake.versions in ("commit a", "commit b"):
        (folder / "obstacle").touch()
        run(fake, only=["student"], seeds=[0])
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    fake.versions = "commit c"
    (fake.root / "results.jsonl").unlink()
    # Who evaluates does not matter.
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    assert records(fake)[Key("student", 0)].trained_with == ("unknown", "commit a", "commit b")


def test_a_training_that_left_no_checkpoint_begins_anew(fake):
    (fake.folder("student/0") / "obstacle").touch()
    run(fake, only=["student"], seeds=[0])
    fake.versions = "torch 3"
    run(fake, only=["student"], seeds=[0])
    assert records(fake)[Key("student", 0)].trained_with == ("torch 3",)


def test_another_checkpoint_of_a_teacher_that_the_suite_does_not_train_is_another_training(fake):
    def teacher(checkpoint):
        with_options(fake, "student", options={"model.teacher_ckpt": checkpoint})

    teacher("there/one.pth")
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    teacher("here/one.pth")  # where it lies is no matter
    assert len(run(fake, only=["student"], seeds=[0])[1]) == 1
    teacher("here/two.pth")
    assert changed_since(fake.suite, fake.root, records(fake)) == {Key("student", 0): OTHER}
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 1
    assert any("student/seed_0: teacher checkpoint changed since it was trained" in line for line in said)
    # The same is seen where the training wrote its config down itself.
    file = moved(fake, "student/1") / "student.py"
    file.write_text(file.read_text().replace("seed=0", "seed=1") + "model['teacher_ckpt'] = 'x/one.pth'\n")
    assert run(fake, only=["student"], seeds=[1])[0] == 1
    teacher("here/one.pth")
    assert run(fake, only=["student"], seeds=[1])[0] == 0


def moved(fake, name):
    """A finished training of elsewhere, moved into the suite's folders."""
    folder = fake.folder(name)
    (folder / "epoch_2.pth").write_text("weights")
    text = (fake.file.parent / "student.py").read_text()
    # As tools/train.py writes it: with its own types and the seed.
    text = (
        text.replace("EpochBasedTrainLoop", "ResumableEpochBasedTrainLoop") + "\nrandomness = dict(seed=0)\n"
    )
    (folder / "student.py").write_text(text)
    return folder


def test_a_finished_training_that_was_moved_here_is_evaluated_and_not_trained(fake):
    folder = moved(fake, "student/0")
    log = folder / "20260101_000000" / "20260101_000000.log"
    log.parent.mkdir()
    log.write_text(
        "2026/01/01 00:00:00 - mmengine - INFO - hello\n"
        "2026/01/01 00:01:30 - mmengine - INFO - Saving checkpoint at 2 epochs\n"
        "2026/01/01 00:02:00 - mmengine - INFO - Epoch(val) [2][1/1]\n"
    )
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    assert fake.starts("student/0") == []
    one = records(fake)[Key("student", 0)]
    assert (one.status, one.seconds, one.trained_with) == ("ok", 90.0, ("unknown",))


def test_a_training_of_another_config_that_was_moved_here_is_refused(fake):
    change(moved(fake, "student/0") / "student.py", "seed=0", "seed=5")
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 1
    assert any("student/seed_0: randomness changed" in line for line in said)
    assert fake.starts("student/0") == []


def test_several_jobs_share_the_cores(fake):
    assert run(fake, jobs=2)[0] == 0
    assert fake.starts("student/1")[0].endswith("threads=1")


def test_a_folder_in_which_a_training_still_runs_is_waited_for(fake, tmp_path):
    """Such as one that lives on after the suite was killed."""
    script = (
        "import fcntl, sys, time, pathlib; folder = pathlib.Path(sys.argv[1]); f = open(folder / '.lock', 'a');"
        "fcntl.flock(f, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(0.5);"
        "(folder / 'epoch_2.pth').write_text('weights')"
    )
    folder = fake.folder("student/0")
    other = subprocess.Popen([sys.executable, "-S", "-c", script, str(folder)], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    with locked(folder, poll=0.02):
        assert (folder / "epoch_2.pth").is_file()
    other.wait()


def test_the_lock_lives_as_long_as_the_command_that_inherits_it(tmp_path):
    with locked(tmp_path) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=(descriptor,)
        )
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, poll=0.01, stopped=lambda: True):
        pass
    child.kill()
    child.wait()
    with locked(tmp_path, stopped=lambda: True):
        pass


@pytest.fixture
def _ctrl_c():
    """What Ctrl-C does in a process of one's own; pytest-xdist's processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_a_suite_that_is_stopped_ends_its_trainings_and_records_nothing(fake):
    folder = fake.folder("student/0")
    (folder / "wait").touch()

    def stop():
        while not (folder / "steps.txt").is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 130
    assert "stopping" in said[-1]
    assert records(fake) == {}
    (folder / "wait").unlink()
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    assert len(fake.starts("student/0")) == 2


def settings(file):
    """What a config file says."""
    found = {}
    exec(file.read_text(), found)
    return found


def with_options(fake, entry, **changes):
    with fake.edited() as content:
        content["entries"][entry].update(changes)


def test_options_of_any_kind_arrive_as_they_are(fake):
    hooks = [dict(type="X", file="{teacher}", at=[1, [2, 3]])]
    options = {"model.classes": ["red cell", "a, b"], "custom_hooks": hooks}
    needs = dict(teacher=dict(entry="teacher", seed=0))
    with_options(fake, "student", options=options, needs=needs)
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    arrived = settings(fake.folder("student/0") / "given/train/student.py")
    assert arrived["model"]["classes"] == ["red cell", "a, b"]
    teacher = str(fake.folder("teacher/0") / "epoch_2.pth")
    assert arrived["custom_hooks"] == [dict(type="X", file=teacher, at=[1, [2, 3]])]


def test_a_config_that_is_edited_meanwhile_is_trained_as_it_was_and_seen_next_time(fake, tmp_path):
    runner = SuiteRunner(fake.suite, fake.root, Options(only=["student"], seeds=[0]), lambda line: None)
    change(tmp_path / "student.py", "lr=0.1", "lr=0.2")
    assert runner.run() == 0
    assert settings(fake.folder("student/0") / "student.py")["optim_wrapper"]["optimizer"]["lr"] == 0.1
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 1
    assert any("student/seed_0: optim_wrapper changed since it was trained" in line for line in said)


def test_a_teacher_that_was_trained_anew_makes_its_students_stale(fake):
    run(fake)
    teacher = fake.folder("teacher/0") / "epoch_2.pth"
    # The same weights again are no reason.
    teacher.unlink()
    assert run(fake)[0] == 0
    assert len(fake.starts("lad/0")) == 1
    teacher.write_text("weights of another day")
    assert changed_since(fake.suite, fake.root, records(fake)) == dict.fromkeys(
        [Key("lad", 0), Key("lad", 1)], OTHER
    )
    code, said = run(fake)
    assert code == 1
    assert any(
        "no result: lad/seed_0: the weights of its teacher changed since it was trained" in s for s in said
    )
    assert run(fake, rerun_changed=True, seeds=[0])[0] == 0
    assert (fake.root / "lad/seed_0_before_1/epoch_2.pth").is_file()
    assert len(fake.starts("teacher/0")) == 2  # the first time, and after it was lost
    assert changed_since(fake.suite, fake.root, records(fake)) == {Key("lad", 1): OTHER}


@pytest.mark.parametrize(
    "content",
    [json.dumps(dict(parts=dict(model="0"), needs={}, digest="0")), '{"parts": {"mo', '{"format": 2}', "[1]"],
    ids=["older", "cut off", "without parts", "list"],
)
def test_a_folder_whose_state_cannot_be_read_is_recognised_by_its_config(fake, content):
    run(fake, only=["student"], seeds=[0])
    state = fake.folder("student/0") / "benchmark.json"
    state.write_text(content)
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    assert len(fake.starts("student/0")) == 1
    assert json.loads(state.read_text())["parts"]["model"] != "0"


def test_a_moved_training_that_started_from_weights_is_recognised(fake):
    """It writes down where they lay, unless it was resumed."""
    needs = dict(teacher=dict(entry="teacher", seed=0))
    with_options(fake, "student", options={"load_from": "{teacher}", "model.init": "{teacher}"}, needs=needs)
    file = moved(fake, "student/0") / "student.py"
    file.write_text(file.read_text() + "load_from = 'there.pth'\nmodel['init'] = 'there.pth'\n")
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    with_options(fake, "student", options={"load_from": "start.pth"}, needs={})
    file = moved(fake, "student/1") / "student.py"
    text = file.read_text().replace("seed=0", "seed=1")
    file.write_text(text + "load_from = 'other.pth'\n")
    code, said = run(fake, only=["student"], seeds=[1])
    assert code == 1
    assert any("load_from changed" in line for line in said)
    file.write_text(text + "load_from = None\nresume = True\n")
    assert run(fake, only=["student"], seeds=[1])[0] == 0


def test_a_change_of_what_is_evaluated_instead_is_seen(fake, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text((tmp_path / "student.py").read_text())
    with_options(fake, "student", evaluate_with=str(plain))
    run(fake, only=["student"], seeds=[0])
    change(plain, "type='Nothing'", "type='Nothing', score=1")
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 0
    assert any("student/seed_0: its evaluation changed" in line for line in said)
    assert settings(fake.folder("student/0") / "given/test/detector.py")["model"]["score"] == 1
    assert len(fake.starts("student/0")) == 1


def test_what_is_evaluated_instead_has_the_entrys_own_options_of_the_evaluation(fake, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text((tmp_path / "student.py").read_text())
    options = {"test_evaluator.classwise": True, "test_dataloader.batch_size": 3, "optim_wrapper.type": "X"}
    with_options(fake, "student", evaluate_with=str(plain), options=options)
    assert run(fake, only=["student"], seeds=[0])[0] == 0
    evaluated = settings(fake.folder("student/0") / "given/test/detector.py")
    assert evaluated["test_evaluator"]["classwise"] is True
    assert evaluated["test_dataloader"]["batch_size"] == 3
    assert "type" not in evaluated["optim_wrapper"]


def test_what_another_process_did_meanwhile_is_not_done_again(fake):
    options = Options(only=["student"], seeds=[0])
    mine, other = (SuiteRunner(fake.suite, fake.root, options, lambda line: None) for _ in range(2))
    own = mine.runs[0]
    codes = []
    with locked(own.folder) as lock:
        waiting = threading.Thread(target=lambda: codes.append(other.run()))
        waiting.start()
        time.sleep(0.3)  # it has read the state
        assert mine._work_locked(own, lock).error is None
    waiting.join()
    assert codes == [0]
    assert len(fake.starts("student/0")) == 1
    assert len((fake.root / "results.jsonl").read_text().splitlines()) == 1


def test_what_another_process_works_at_is_waited_for_last(fake):
    runner = SuiteRunner(fake.suite, fake.root, Options(only=["student"]), lambda line: None)
    codes = []
    with locked(fake.folder("student/0")):
        thread = threading.Thread(target=lambda: codes.append(runner.run()))
        thread.start()
        end = time.monotonic() + 30
        while Key("student", 1) not in records(fake) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(records(fake)) == [Key("student", 1)]
    thread.join()
    assert codes == [0]


def test_an_evaluation_that_fails_leaves_the_detections_of_before(fake, monkeypatch):
    run(fake, only=["student"], seeds=[0])
    before = (fake.folder("student/0") / "detector.bbox.json").read_text()
    (fake.root / "results.jsonl").unlink()
    broken = [sys.executable, "-S", "-c", "raise ValueError('no detections')"]
    monkeypatch.setattr(runs, "test_command", lambda run, network: broken)
    code, said = run(fake, only=["student"], seeds=[0])
    assert code == 1
    assert any(line.startswith("FAILED") and line.endswith("test.log)") for line in said)
    assert (
        records(fake)[Key("student", 0)].error
        == "evaluation ended with exit code 1: ValueError: no detections"
    )
    assert (fake.folder("student/0") / "detector.bbox.json").read_text() == before


def test_an_error_of_an_earlier_start_is_not_said_again(fake):
    (fake.folder("student/0") / "obstacle").touch()
    run(fake, only=["student"], seeds=[0])
    (fake.folder("student/0") / "silence").touch()
    run(fake, only=["student"], seeds=[0])
    assert records(fake)[Key("student", 0)].error == "training ended with exit code 3: no output"
