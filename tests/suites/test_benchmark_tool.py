"""The command line, with fake trainings; and one suite that really trains."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lad.datasets import DigitsParameters, make_digits

import pytest
import yaml
from benchmark_runs import FakeSuite
from helpers import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import benchmark


@pytest.fixture(autouse=True)
def _handler():
    """The tool's own answer to SIGTERM is not for the tests after it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    benchmark.main()


def test_run_and_report(tmp_path, monkeypatch, capsys):
    fake = FakeSuite(tmp_path, monkeypatch)
    with pytest.raises(SystemExit) as code:
        call(monkeypatch, "run", fake.file, "--work-dir", tmp_path)
    assert code.value.code == 0
    out = tmp_path / "out.md"
    call(monkeypatch, "report", fake.file, "--work-dir", tmp_path, "--out", out, "--replicates", 50)
    said = capsys.readouterr().out
    assert "| LAD helps | holds |" in said
    # What has to be typed to get there.
    assert f"`python tools/benchmark.py run {fake.file} --work-dir {tmp_path}`" in said
    assert "(out_map.png)" in out.read_text()
    assert "(report_map.png)" in (tmp_path / "fake/report.md").read_text()
    assert (tmp_path / "out_differences.png").is_file()


def test_a_mistake_is_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as code:
        call(monkeypatch, "run", "bcd")
    assert code.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "there is no suite" in error
    assert "bccd.yaml" in error


def test_ctrl_c_before_anything_runs_ends_without_a_traceback(tmp_path, monkeypatch):
    def ctrl_c(self):
        raise KeyboardInterrupt

    fake = FakeSuite(tmp_path, monkeypatch)
    monkeypatch.setattr(benchmark.SuiteRunner, "_read_state", ctrl_c)
    with pytest.raises(SystemExit) as code:
        call(monkeypatch, "run", fake.file, "--work-dir", tmp_path)
    assert code.value.code == 130


def test_claims_are_those_of_the_suites_with_an_archive_whatever_their_files_are_called(
    tmp_path, monkeypatch, capsys
):
    fake = FakeSuite(tmp_path, monkeypatch)
    with pytest.raises(SystemExit):
        call(monkeypatch, "run", fake.file, "--work-dir", tmp_path)
    call(monkeypatch, "archive", fake.file, "--work-dir", tmp_path)
    fake.file.rename(tmp_path / "my-fake.yaml")
    monkeypatch.setattr(benchmark, "SUITES", tmp_path)
    capsys.readouterr()
    call(monkeypatch, "claims", "--work-dir", tmp_path / "elsewhere")
    assert "| LAD helps | `fake` | holds |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [("run", "--jobs", "0"), ("report", "--replicates", "0"), ("run", "--jobs", "x")]
)
def test_less_than_one_job_or_replicate_is_refused(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as code:
        call(monkeypatch, *arguments, "bccd")
    assert code.value.code == 2
    assert "must be a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_suite_of_digits_trains_dies_goes_on_and_reports(tmp_path):
    digits = f"{tmp_path / 'made'}/"
    make_digits(Path(digits), DigitsParameters(images=8, val_images=4))
    suite = yaml.safe_load((ROOT / "configs/benchmarks/digits_foreign.yaml").read_text())
    few = dict(dataset=dict(data_root=digits), batch_size=2)
    suite["options"] |= dict(
        train_dataloader=few,
        val_dataloader=few,
        test_dataloader=few,
        val_evaluator=dict(ann_file=f"{digits}annotations/val.json"),
        test_evaluator=dict(ann_file=f"{digits}annotations/val.json"),
    )
    suite["seeds"] = [0]
    # One of each kind: every process costs seconds of imports.
    suite["entries"] = {name: suite["entries"][name] for name in ("mini", "nano", "file", "lad")}
    for entry in suite["entries"].values():
        entry.pop("seeds", None)
        entry["options"]["train_cfg"] = dict(max_epochs=1, val_interval=1)
    file = suite["entries"]["file"]
    # After a few steps nothing is sure.
    file["needs"]["found"]["detect"] |= {
        "test_evaluator.ann_file": f"{digits}annotations/train.json",
        "model.test_cfg.score_thr": 0.0,
    }
    file["options"] |= {
        "model.teacher.ann_file": f"{digits}annotations/train.json",
        "model.teacher.min_score": 0.0,
    }
    suite["entries"]["nano"]["options"]["model.test_cfg.score_thr"] = 0.0
    suite["claims"] = [dict(text="A file helps", better="file", than="nano")]
    path = tmp_path / "digits_foreign.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    command = [sys.executable, str(ROOT / "tools/benchmark.py")]
    arguments = [str(path), "--work-dir", str(tmp_path)]
    work = tmp_path / "digits_foreign"
    subprocess.run([*command, "run", *arguments, "--only", "nano"], cwd=ROOT, check=True)
    # As if it had been killed after its last checkpoint.
    (work / "results.jsonl").unlink()
    subprocess.run([*command, "run", *arguments], cwd=ROOT, check=True)
    records = [json.loads(line) for line in (work / "results.jsonl").read_text().splitlines()]
    assert {record["row"] for record in records} == {"mini", "nano", "file", "lad"}
    assert all(record["status"] == "ok" and record["seconds"] > 0 for record in records)
    by_row = {record["row"]: record for record in records}
    assert by_row["lad"]["parameters"] == by_row["nano"]["parameters"] < by_row["mini"]["parameters"]
    # pycocotools' figures are those that MMDetection printed, to its three digits.
    test_log = (work / "nano/seed_0/test.log").read_text()
    printed = float(test_log.rsplit("coco/bbox_mAP:", 1)[1].split()[0])
    assert by_row["nano"]["metrics"]["mAP"] == pytest.approx(printed, abs=6e-4)
    # The teacher's detections are of the training images.
    (found,) = (work / "mini/seed_0/detections").glob("*.bbox.json")
    known = json.loads(Path(digits, "annotations/train.json").read_text())["images"]
    detections = json.loads(found.read_text())
    assert {one["image_id"] for one in detections} <= {image["id"] for image in known}
    assert len({one["image_id"] for one in detections}) > 4
    done = subprocess.run(
        [*command, "report", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "| A file helps |" in done.stdout
    # Nothing is left to do.
    shutil.rmtree(work / "lad/seed_0/test")
    again = subprocess.run(
        [*command, "run", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "4 of 4 runs are recorded" in again.stdout
