"""The report says what the records say, and what is missing."""

import fcntl
import json
import subprocess
import threading
from dataclasses import replace

from lad.base.status import clock
from lad.errors import DataError
from lad.evaluation.bootstrap import Interval
from lad.evaluation.detections import coco_evaluation, coco_metrics, load_ground_truth
from suites import plots, versions
from suites.progress import time_left
from suites.records import Key, Record, append_record, evaluated_files, read_records
from suites.report import markdown, write_report
from suites.results import Comparison, summarise

import pytest
from benchmark_runs import FakeSuite, found


def record(fake, row, seed, shift, **changes):
    """A record of detections that are so many pixels off, at most."""
    file = fake.root / row / f"{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found(shift)))
    truth = fake.annotations
    settings = dict(
        suite="fake",
        entry=row,
        network="",
        seed=seed,
        row=row,
        status="ok",
        config=f"{row}.py",
        digest="0",
        metrics=coco_metrics(coco_evaluation(load_ground_truth(truth), file)),
        seconds=90.0,
        parameters=1_230_000,
        detections=f"{row}/{seed}.json",
        annotations=str(truth),
        categories=(1,),
        checkpoint="x.pth",
        trained_with=("torch 2.14, commit a",),
        sha256=evaluated_files(file, truth),
    )
    return Record(**{**settings, **changes})


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSuite(tmp_path, monkeypatch)


def with_claims(fake, statements):
    """Give the suite one claim, and the teacher both seeds."""
    with fake.edited() as content:
        content["claims"] = [dict(text="both", statements=statements)]
        content["entries"]["teacher"]["seeds"] = [0, 1]


def summary_of(fake, *records):
    return summarise(fake.suite, {one.key: one for one in records}, fake.root, replicates=200)


@pytest.fixture
def full(fake):
    """LAD is far better with both seeds."""
    shifts = dict(lad={0: 6, 1: 7}, student={0: 20, 1: 22}, teacher={0: 0})
    return summary_of(
        fake, *(record(fake, row, seed, shift) for row, by in shifts.items() for seed, shift in by.items())
    )


def test_means_and_deviations_are_those_of_the_seeds(full):
    rows = {row.network.row: row for row in full.rows}
    one, other = (rows["lad"].records[seed].metrics["mAP"] for seed in (0, 1))
    assert rows["lad"].interval.value == pytest.approx((one + other) / 2, abs=1e-9)
    # Two values are as far from their mean as half their difference: s = |a - b| / sqrt(2).
    assert rows["lad"].deviation == pytest.approx(abs(one - other) / 2**0.5)
    assert rows["teacher"].deviation is None
    assert rows["teacher"].difference is None
    base = rows["student"]
    assert rows["lad"].seed_differences[1] == pytest.approx(other - base.records[1].metrics["mAP"])
    assert rows["lad"].difference.value == pytest.approx(
        rows["lad"].interval.value - base.interval.value, abs=1e-9
    )


def test_a_clear_difference_holds_and_the_table_has_its_numbers(full):
    assert [claim.verdict for claim in full.claims] == ["holds"]
    text = markdown(full, "python tools/benchmark.py run fake")
    row = next(row for row in full.rows if row.network.row == "lad")
    interval = row.difference
    between = f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    assert interval.low > 0
    assert f"| Student with LAD | {row.interval.value:.3f} ± {row.deviation:.3f} | 1.000 |" in text
    needed = " / ".join(str(row.comparison.seeds_needed(size) or "-") for size in (0.01, 0.02))
    assert f"| 2 | {between} to Student | about {needed} | 1.23 M | 1:30 min |" in text
    assert "| training (wall clock) |" in text
    assert "one seed: images alone" not in text
    assert f"| LAD helps | holds | {between} |" in text
    assert "8 images (200 replicates)" in text
    assert "Trained with: torch 2.14, commit a." in text
    assert "missing" not in text


def test_the_same_records_give_the_same_report(full, fake):
    again = summarise(
        fake.suite, {one.key: one for row in full.rows for one in row.records.values()}, fake.root, 200
    )
    assert markdown(again, "x") == markdown(full, "x")


def test_the_ap_of_rare_classes_has_columns_where_it_was_measured(fake):
    def measured(row, seed, shift, **more):
        one = record(fake, row, seed, shift)
        return replace(one, metrics={**one.metrics, **more})

    of_classes = dict(AP_rare=0.1, AP_common=0.2, AP_frequent=0.25)
    text = markdown(
        summary_of(fake, measured("lad", 0, 6, **of_classes), record(fake, "student", 0, 20)), "x"
    )
    header, _, lad, student, _ = text.split("\n\n")[2].splitlines()
    assert "| AP75 | AP_rare | AP_common | AP_frequent | seeds |" in header
    assert "| 0.100 | 0.200 | 0.250 | 1 of 2 |" in lad
    assert "| missing | missing | missing | 1 of 2 |" in student
    assert "AP_rare" not in markdown(summary_of(fake, record(fake, "lad", 0, 6)), "x")


def test_a_result_that_is_missing_shows_as_missing(fake):
    failed = record(fake, "student", 0, 20, status="failed", error="ValueError: an obstacle")
    summary = summary_of(fake, record(fake, "lad", 0, 6), failed)
    text = markdown(summary, "x")
    assert "| 1 of 2 | missing |  | 1.23 M |" in text
    assert "| Student | missing | missing | missing | 0 of 2 |  |  | missing | missing |" in text
    assert "| LAD helps | missing | missing |" in text
    assert "- student, seed 0: ValueError: an obstacle" in text
    nothing = markdown(summary_of(fake), "x")
    assert (
        "| Student with LAD | missing | missing | missing | 0 of 2 | missing |  | missing | missing |"
        in nothing
    )


def test_seeds_that_only_one_has_count_for_its_mean_and_not_for_the_difference(fake):
    summary = summary_of(
        fake, record(fake, "lad", 0, 6), record(fake, "lad", 1, 0), record(fake, "student", 0, 20)
    )
    rows = {row.network.row: row for row in summary.rows}
    with_both = rows["lad"].interval
    assert with_both.seeds == 2
    assert rows["lad"].difference.seeds == 1
    one, base = (rows[row].records[0].metrics["mAP"] for row in ("lad", "student"))
    assert rows["lad"].difference.value == pytest.approx(one - base, abs=1e-9)
    # A clear difference of one pair is no verdict, and the table says how many there are.
    assert [claim.verdict for claim in summary.claims] == ["incomplete (1 of 2 seeds)"]
    assert "] (one seed: images alone) to Student, 1 of 2 seeds |" in markdown(summary, "x")


def test_runs_of_different_seeds_are_no_pair(fake):
    summary = summary_of(fake, record(fake, "lad", 1, 6), record(fake, "student", 0, 20))
    assert [claim.verdict for claim in summary.claims] == ["missing"]


def test_without_common_seeds_all_of_both_sides_are_wanted(fake):
    with fake.edited() as content:
        content["entries"]["student"]["seeds"] = [2, 3, 4]
    lad = [record(fake, "lad", seed, 6 + seed) for seed in (0, 1)]
    student = [record(fake, "student", seed, 18 + seed) for seed in (2, 3, 4)]
    few = summary_of(fake, *lad, *student[:2])
    assert [claim.verdict for claim in few.claims] == ["incomplete (4 of 5 seeds)"]
    assert " to Student, 4 of 5 seeds |" in markdown(few, "x")
    assert [claim.verdict for claim in summary_of(fake, *lad, *student).claims] == ["holds"]
    assert [claim.verdict for claim in summary_of(fake, *lad).claims] == ["missing"]


def test_a_refuted_statement_refutes_also_where_another_is_incomplete(fake):
    with_claims(fake, [dict(better="lad", than="student"), dict(better="lad", than="teacher")])
    shifts = dict(lad={0: 20, 1: 20}, student={0: 6, 1: 6}, teacher={0: 0})
    records = [record(fake, row, s, shift) for row, by in shifts.items() for s, shift in by.items()]
    claim = summary_of(fake, *records).claims[0]
    assert claim.verdict == "refuted"
    assert [one.verdict for one in claim.judgements] == ["refuted", "incomplete (1 of 2 seeds)"]


def test_a_statement_for_information_decides_nothing(fake):
    with_claims(fake, [dict(better="lad", than="student"), dict(better="student", than="lad", decides=False)])
    records = [record(fake, "lad", s, 6) for s in (0, 1)] + [record(fake, "student", s, 20) for s in (0, 1)]
    summary = summary_of(fake, *records)
    assert summary.claims[0].verdict == "holds"
    value = summary.claims[0].judgements[1].interval.value
    assert f"| &nbsp; Student minus Student with LAD | for information | {value:+.3f} [" in markdown(
        summary, "x"
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.001, 0.2, "holds"), (-0.2, -0.001, "refuted"), (-0.1, 0.2, "not decided"), (0.0, 0.0, "not decided")],
)
def test_a_verdict_is_where_the_interval_lies(low, high, verdict):
    assert Comparison(Interval((low + high) / 2, low, high, 3), 3, 3).verdict == verdict
    assert Comparison(None, 0, 3).verdict == "missing"


def test_a_difference_of_fewer_seeds_than_planned_has_no_verdict():
    clear = [Interval(0.2, 0.1, 0.3, seeds) for seeds in (1, 2, 3)]
    assert [Comparison(interval, interval.seeds, 3).verdict for interval in clear] == [
        "incomplete (1 of 3 seeds)",
        "incomplete (2 of 3 seeds)",
        "holds",
    ]
    # One seed tells nothing of how far another would be.
    assert Comparison(clear[0], 1, 1).verdict == "not decided (one seed)"


def test_a_claim_of_several_statements_holds_where_all_do(fake):
    with_claims(fake, [dict(better="lad", than="student"), dict(better="lad", than="teacher")])
    records = [record(fake, "lad", seed, 6) for seed in (0, 1)] + [
        record(fake, "student", s, 20) for s in (0, 1)
    ]

    def teacher(shift):
        return [record(fake, "teacher", s, shift) for s in (0, 1)]

    better = summary_of(fake, *records, *teacher(25)).claims[0]
    assert (better.verdict, [one.verdict for one in better.judgements]) == ("holds", ["holds", "holds"])
    worse = summary_of(fake, *records, *teacher(0)).claims[0]
    assert (worse.verdict, [one.verdict for one in worse.judgements]) == ("refuted", ["holds", "refuted"])
    unknown = summary_of(fake, *records).claims[0]
    assert (unknown.verdict, [one.verdict for one in unknown.judgements]) == ("missing", ["holds", "missing"])


def test_the_report_and_its_pictures_are_written_beside_each_other(full, tmp_path):
    files = write_report(full, tmp_path / "docs" / "results.md", "x", stale={Key("lad", 1): "of yesterday"})
    assert [file.name for file in files] == ["results.md", "results_map.png", "results_differences.png"]
    text = files[0].read_text()
    assert "(results_map.png)" in text
    assert "(results_differences.png)" in text
    assert "\n† of yesterday: lad seed 1.\n" in text
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files[1:])


def test_without_results_there_are_no_pictures_nor_those_of_an_earlier_report(full, fake, tmp_path):
    write_report(full, tmp_path / "r.md", "x")
    assert len(write_report(summary_of(fake), tmp_path / "r.md", "x")) == 1
    assert [file.name for file in tmp_path.glob("r*")] == ["r.md"]


def test_a_difference_that_is_missing_is_drawn_as_missing(full, fake, tmp_path, monkeypatch):
    with fake.edited() as with_baseline:
        with_baseline["entries"]["teacher"]["baseline"] = "student"
    drawn = []
    monkeypatch.setattr(plots, "_draw_missing", lambda axes, place: drawn.append(place))
    records = [one for row in full.rows for one in row.records.values() if row.network.row != "teacher"]
    assert plots.draw_differences(summary_of(fake, *records), tmp_path / "x.png")
    assert drawn == [1]  # the teacher, below LAD


def test_results_of_another_config_are_marked_where_they_are_used(full):
    text = markdown(full, "x", stale={Key("student", 0): "old"})
    assert "| Student † |" in text
    assert "| Student with LAD |" in text
    assert " to Student † |" in text
    assert "| LAD helps | holds † |" in text
    assert "| Teacher |" in text
    assert "†" not in markdown(full, "x")


def test_pictures_mark_old_results_and_what_is_compared_with_them(full, tmp_path, monkeypatch):
    labels, axes = [], plots._axes
    monkeypatch.setattr(plots, "_axes", lambda own: labels.append(own) or axes(own))
    write_report(full, tmp_path / "x.md", "x", stale={Key("student", 0): "old"})
    assert labels == [["Student with LAD", "Student †", "Teacher"], ["Student with LAD\nover Student †"]]


def test_stale_results_are_named_by_what_is_wrong_with_them(full):
    stale = {Key("student", 1): "a", Key("student", 0): "a", Key("lad", 0): "a", Key("teacher", 0): "b"}
    text = markdown(full, "x", stale=stale)
    assert "\n† a: student seed 0, 1; lad seed 0.\n" in text
    assert "\n† b: teacher seed 0.\n" in text


def test_trainings_of_different_versions_are_told_apart(full, fake):
    records = [one for row in full.rows for one in row.records.values()]
    others = {
        Key("lad", 1): ("torch 2.14, commit a", "torch 2.14, commit b"),
        Key("teacher", 0): (),
    }
    records = [replace(one, trained_with=others.get(one.key, one.trained_with)) for one in records]
    text = markdown(summary_of(fake, *records), "x")
    assert "- torch 2.14, commit a: lad seed 0; student seed 0, 1.\n" in text
    assert "- torch 2.14, commit a; then torch 2.14, commit b: lad seed 1.\n" in text
    assert "- unknown: teacher seed 0." in text


def test_a_difference_of_one_planned_seed_says_that_it_tells_of_images_alone(fake):
    with fake.edited() as content:
        content["seeds"] = [0]
    summary = summary_of(fake, record(fake, "lad", 0, 6), record(fake, "student", 0, 20))
    text = markdown(summary, "x")
    assert "] (one seed: images alone) to Student |  | 1.23 M |" in text
    assert "| LAD helps | not decided (one seed) | +" in text


def test_a_bar_in_a_title_does_not_end_the_cell(full, fake):
    fake.file.write_text(fake.file.read_text().replace("title: Teacher", "title: a|b"))
    records = [one for row in full.rows for one in row.records.values()]
    assert "| a&#124;b |" in markdown(summary_of(fake, *records), "x")


def test_detections_that_are_gone_are_missing_and_named(fake):
    lost = record(fake, "lad", 0, 6)
    kept = [record(fake, "lad", 1, 6), record(fake, "student", 0, 20), record(fake, "student", 1, 20)]
    (fake.root / lost.detections).unlink()
    summary = summary_of(fake, lost, *kept)
    assert summary.rows[0].missing == (0,)
    text = markdown(summary, "x")
    assert "- lad, seed 0: detections '" in text
    assert "0.json' cannot be read" in text
    assert "| LAD helps | incomplete (1 of 2 seeds) |" in text


@pytest.mark.parametrize("what", ["detections", "annotations"])
def test_a_record_of_other_files_than_those_that_lie_here_counts_as_missing(fake, what):
    one = record(fake, "student", 0, 20)
    edited = fake.annotations if what == "annotations" else fake.root / one.detections
    edited.write_text(edited.read_text() + " ")
    # Of what a record does not know it cannot be said.
    summary = summary_of(fake, one, replace(record(fake, "lad", 0, 6), sha256={}))
    assert summary.gone == {one.key: f"its {what} changed since it was recorded"}
    assert [row.missing for row in summary.rows] == [(1,), (0, 1), (0,)]


def test_annotations_that_are_gone_are_named(fake):
    one = record(fake, "lad", 0, 6)
    (fake.file.parent / "annotations.json").unlink()
    with pytest.raises(DataError, match=r"annotations '.*annotations.json' of lad cannot be read"):
        summary_of(fake, one)


def test_results_on_other_images_are_not_compared(fake):
    other = fake.file.parent / "other.json"
    other.write_text((fake.file.parent / "annotations.json").read_text())
    with pytest.raises(DataError, match="not comparable"):
        summary_of(fake, record(fake, "lad", 0, 6), record(fake, "student", 0, 6, annotations=str(other)))


def test_results_on_other_categories_are_not_compared(fake):
    with pytest.raises(DataError, match=r"student was evaluated on categories \(1, 2\) and lad on \(1,\)"):
        summary_of(fake, record(fake, "lad", 0, 6), record(fake, "student", 0, 6, categories=(1, 2)))


def test_the_last_record_of_a_run_counts_and_a_half_written_line_does_not(fake):
    file = fake.root / "results.jsonl"
    append_record(file, record(fake, "lad", 0, 6, status="failed", error="x"))
    append_record(file, record(fake, "lad", 0, 6))
    with open(file, "a") as half:
        half.write('{"suite": "fake", "entry"')
    assert read_records(file)[Key("lad", 0)].status == "ok"
    append_record(file, record(fake, "lad", 1, 6))
    assert list(read_records(file)) == [Key("lad", 0), Key("lad", 1)]
    assert read_records(file)[Key("lad", 1)] == record(fake, "lad", 1, 6)
    file.write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1 is no record"):
        read_records(file)


def test_time_left_is_estimated_from_finished_runs_of_the_same_entry():
    spent = dict(lad=[100.0, 140.0], student=[60.0])
    assert time_left(["lad", "student"], [], spent, jobs=1) == 180
    # One that is under way says itself how long; an entry that nobody has seen takes the mean of the others.
    assert time_left(["new"], [("lad", 30.0)], spent, jobs=1) == 30 + 90
    assert time_left(["lad", "lad"], [("lad", None)] * 2, spent, jobs=2) == 240
    assert time_left([], [("lad", 30.0)], {}, jobs=2) == 30
    # No number of jobs makes the longest shorter: whether it runs or waits.
    assert time_left(["quick"], [("slow", 3600.0), ("quick", 5.0)], dict(quick=[10.0]), jobs=2) == 3600
    assert time_left(["slow", "quick"], [], dict(slow=[600.0], quick=[10.0]), jobs=2) == 600
    assert time_left(["lad"], [("student", 30.0)], {}, jobs=1) is None
    assert [clock(3723), clock(62.4), clock(None)] == ["1:02:03", "1:02", "?"]


def test_two_processes_append_whole_lines(tmp_path, fake):
    """A line that is added while another is written waits for it."""
    file = tmp_path / "results.jsonl"
    append_record(file, record(fake, "lad", 0, 6))
    with open(file, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"half": ')
        other.flush()
        thread = threading.Thread(target=append_record, args=(file, record(fake, "lad", 1, 6)))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        other.write(b"1}\n")
        other.flush()
    thread.join()
    assert [json.loads(line).get("seed") for line in file.read_text().splitlines()] == [0, None, 1]


def test_the_commit_is_unknown_where_there_is_no_git(monkeypatch):
    def no_git(*args, **settings):
        raise FileNotFoundError("git")

    monkeypatch.setattr(versions.subprocess, "run", no_git)
    assert versions.versions().endswith(", commit unknown")


def test_the_commit_is_that_of_now(monkeypatch):
    commits = iter(["aaa", "bbb"])
    done = subprocess.CompletedProcess
    monkeypatch.setattr(versions.subprocess, "run", lambda *a, **k: done(a, 0, f"{next(commits)}\n"))
    assert [versions.versions().rsplit(" ", 1)[1] for _ in range(2)] == ["aaa", "bbb"]


def test_a_whole_last_record_without_a_line_end_is_kept(fake, tmp_path):
    """As some editors leave it."""
    file = tmp_path / "results.jsonl"
    append_record(file, record(fake, "lad", 0, 6))
    file.write_text(file.read_text().rstrip("\n"))
    append_record(file, record(fake, "lad", 1, 6))
    assert set(read_records(file)) == {Key("lad", 0), Key("lad", 1)}
    assert file.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"row": "caf\xe9"}\n', "is no text in UTF-8"),
        (
            b'{"suite": "s", "entry": "e", "network": "", "seed": 0, "row": "e", "status": "ok", "config": "c", '
            b'"digest": "d", "metrics": null}\n',
            "line 1 is no record: metrics is None",
        ),
    ],
)
def test_records_that_are_none_are_one_line(content, message, tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_records(file)
