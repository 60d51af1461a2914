"""Archived results stand in for trainings whose files are elsewhere."""

import json
import shutil
import time

from suites import resampling
from suites.archive import read_archive
from suites.archiving import archive_results
from suites.records import Key
from suites.report import markdown
from suites.results import summarise
from suites.runner import OUT_OF_TIME
from suites.stale import known_results

import pytest
import yaml
from benchmark_runs import FakeSuite, change, records, run

EVERYTHING = [Key("lad", 0), Key("lad", 1), Key("student", 0), Key("student", 1), Key("teacher", 0)]


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSuite(tmp_path, monkeypatch)


def archive(fake):
    return archive_results(fake.suite, fake.root, records(fake))


@pytest.fixture
def elsewhere(fake):
    """The whole suite was run and archived on a machine that is gone."""
    assert run(fake)[0] == 0
    archive(fake)
    shutil.rmtree(fake.root)
    return fake


def results(fake, replicates=200):
    archived = read_archive(fake.suite.archive)
    known, stale = known_results(
        fake.suite, fake.root, records(fake), archive=archived, replicates=replicates
    )
    return summarise(fake.suite, known, fake.root, replicates), stale


def test_a_report_of_archived_results_is_that_of_the_recorded_ones(fake):
    run(fake)
    summary = summarise(fake.suite, records(fake), fake.root)
    assert archive(fake).added == tuple(EVERYTHING)
    shutil.rmtree(fake.root)
    fake.annotations.unlink()  # a clone has no data
    again, stale = results(fake, replicates=1000)
    assert not stale
    for before, after in zip(summary.rows, again.rows, strict=True):
        assert after.interval.value == pytest.approx(before.interval.value, abs=1e-9)
        assert after.interval.low == pytest.approx(before.interval.low, abs=1e-5)
        assert after.interval.high == pytest.approx(before.interval.high, abs=1e-5)
    assert markdown(again, "x") == markdown(summary, "x")


def test_fewer_replicates_are_the_first_of_the_archived_ones(fake):
    run(fake)
    summary = summarise(fake.suite, records(fake), fake.root, replicates=100)
    archive(fake)
    shutil.rmtree(fake.root)
    again, _ = results(fake, replicates=100)
    assert markdown(again, "x") == markdown(summary, "x")
    with pytest.raises(Exception, match="has 1000 replicates and 1001 were asked for; ask for fewer"):
        results(fake, replicates=1001)


@pytest.fixture
def matched(monkeypatch):
    """Files of detections that were matched with objects."""
    files = []
    match = resampling.coco_evaluation
    monkeypatch.setattr(
        resampling,
        "coco_evaluation",
        lambda *args, **kwargs: (files.append(args[1]), match(*args, **kwargs))[1],
    )
    return files


def test_detections_of_what_is_archived_are_not_matched_again(fake, matched, tmp_path):
    run(fake)
    archive(fake)
    assert len(matched) == 5
    results(fake)
    assert not archive(fake).added
    assert len(matched) == 5
    # But for more replicates than are archived, and for another result of the same row and seed.
    summary, _ = results(fake, replicates=1001)
    assert summary.replicates == 1001
    assert len(matched) == 10
    change(tmp_path / "student.py", "lr=0.1", "lr=0.2")
    run(fake, rerun_changed=True, use_archive=False)
    del matched[:]
    results(fake)
    expected = {fake.root / records(fake)[key].detections for key in EVERYTHING if key.row == "student"}
    assert set(matched) >= expected
    assert set(archive(fake).added) >= {Key("student", 0), Key("student", 1)}
    results(fake)
    del matched[:]
    results(fake)
    assert not matched


def test_what_is_archived_is_not_trained_again(elsewhere):
    code, said = run(elsewhere)
    assert (code, len(said)) == (0, 1)
    assert said[0].startswith("fake: 5 of 5 runs are recorded in")
    assert said[0].endswith(f", 5 of them in {elsewhere.suite.archive}")
    assert elsewhere.starts("lad/0") == []
    assert run(elsewhere, use_archive=False)[0] == 0
    assert len(elsewhere.starts("lad/0")) == 1


def test_an_archived_teacher_is_trained_for_a_student_that_is_not_archived(elsewhere, tmp_path):
    change(tmp_path / "lad.py", "lr=0.1", "lr=0.2")
    summary, stale = results(elsewhere)
    assert set(stale) == {Key("lad", 0), Key("lad", 1)}
    assert [len(row.records) for row in summary.rows] == [2, 2, 1]
    code, said = run(elsewhere)
    assert code == 0
    assert said[0].startswith("fake: 2 of 5 runs are recorded")
    assert len(elsewhere.starts("teacher/0")) == len(elsewhere.starts("lad/1")) == 1
    assert elsewhere.starts("student/0") == []
    # What is new is added, and what was archived alone stays.
    assert set(archive(elsewhere).added) >= {Key("lad", 0), Key("lad", 1)}
    assert list(read_archive(elsewhere.suite.archive)) == EVERYTHING
    assert not results(elsewhere)[1]


def test_archived_results_on_other_annotations_do_not_count(elsewhere):
    change(elsewhere.annotations, '"bbox": [10, 10, 40, 40]', '"bbox": [10, 10, 50, 50]')
    summary, stale = results(elsewhere)
    assert set(stale) == set(EVERYTHING)
    assert set(summary.gone) == set(EVERYTHING)
    assert summary.gone[Key("lad", 0)] == "its annotations changed since it was recorded"


def test_results_that_the_suite_would_not_measure_are_not_archived(fake, tmp_path):
    (fake.folder("student/0") / "obstacle").touch()
    run(fake)
    change(tmp_path / "teacher.py", "lr=0.1", "lr=0.2")
    outcome = archive(fake)
    assert outcome.added == (Key("student", 1),)
    assert "an obstacle" in outcome.left_out[Key("student", 0)]
    assert {Key("teacher", 0), Key("lad", 0), Key("lad", 1)} <= set(outcome.left_out)
    assert not archive(fake).added


def test_archived_results_of_rows_that_were_taken_out_are_kept(elsewhere):
    content = yaml.safe_load(elsewhere.file.read_text())
    del content["entries"]["lad"], content["claims"]
    elsewhere.file.write_text(yaml.safe_dump(content, sort_keys=False))
    run(elsewhere, use_archive=False)
    archive(elsewhere)
    assert set(read_archive(elsewhere.suite.archive)) == set(EVERYTHING)
    assert len(results(elsewhere)[0].rows) == 2


def test_an_archive_that_is_no_archive_is_refused_by_its_line(elsewhere):
    file = elsewhere.suite.archive
    file.write_text(file.read_text().replace('"row"', '"roe"', 1))
    with pytest.raises(Exception, match=r"fake\.jsonl: line 1 is no record"):
        read_archive(file)


def test_students_learn_from_the_teacher_of_their_seed(fake):
    with fake.edited() as content:
        del content["entries"]["teacher"]["seeds"]
        content["entries"]["lad"]["needs"]["teacher"]["seed"] = "same"
    assert run(fake)[0] == 0
    for seed in (0, 1):
        teacher = fake.folder(f"teacher/{seed}") / "epoch_2.pth"
        assert fake.starts(f"lad/{seed}") == [f"teacher={teacher} seed={seed} threads=-"]


def test_a_start_ends_when_its_time_is_used_up_and_the_next_one_goes_on(fake):
    (fake.folder("teacher/0") / "wait").touch()
    begin = time.monotonic()
    code, said = run(fake, hours=4 / 3600)
    assert code == OUT_OF_TIME
    assert time.monotonic() - begin < 30
    assert "runs are recorded and the time given is used up; the same command continues from here" in said[-1]
    (fake.folder("teacher/0") / "wait").unlink()
    assert run(fake, hours=1)[0] == 0
    assert json.loads((fake.folder("teacher/0") / "steps.txt").read_text()) == 2
