"""The command line, with fake trainings; and one suite that really trains."""

import json
import shutil
import signal
import subprocess
import sys

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


@pytest.mark.parametrize(
    "arguments", [("run", "--jobs", "0"), ("report", "--replicates", "0"), ("run", "--jobs", "x")]
)
def test_less_than_one_job_or_replicate_is_refused(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as code:
        call(monkeypatch, *arguments, "bccd")
    assert code.value.code == 2
    assert "must be a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data/digits/annotations/val.json").is_file(), reason="needs data/digits")
def test_the_digits_suite_trains_dies_goes_on_and_reports(tmp_path):
    suite = yaml.safe_load((ROOT / "configs/benchmarks/digits.yaml").read_text())
    few = dict(dataset=dict(indices=4), batch_size=2)
    suite.update(
        seeds=[0],
        schedule=dict(
            train_cfg=dict(max_epochs=1, val_interval=1),
            train_dataloader=few,
            val_dataloader=few,
            test_dataloader=few,
        ),
    )
    # One of each kind: every process costs seconds of imports.
    suite["entries"] = {name: suite["entries"][name] for name in ("teacher", "student", "lad")}
    suite["claims"] = suite["claims"][:1]
    file = tmp_path / "digits.yaml"
    file.write_text(yaml.safe_dump(suite, sort_keys=False))
    command = [sys.executable, str(ROOT / "tools/benchmark.py")]
    arguments = [str(file), "--work-dir", str(tmp_path)]
    subprocess.run([*command, "run", *arguments, "--only", "student"], cwd=ROOT, check=True)
    # As if it had been killed after its last checkpoint.
    (tmp_path / "digits/results.jsonl").unlink()
    subprocess.run([*command, "run", *arguments], cwd=ROOT, check=True)
    records = [json.loads(line) for line in (tmp_path / "digits/results.jsonl").read_text().splitlines()]
    assert {record["row"] for record in records} == {"teacher", "student", "lad"}
    assert all(record["status"] == "ok" and record["seconds"] > 0 for record in records)
    by_row = {record["row"]: record for record in records}
    assert by_row["lad"]["parameters"] == by_row["student"]["parameters"] < by_row["teacher"]["parameters"]
    # pycocotools' figures are those that MMDetection printed, to its three digits.
    test_log = (tmp_path / "digits/lad/seed_0/test.log").read_text()
    printed = float(test_log.rsplit("coco/bbox_mAP:", 1)[1].split()[0])
    assert by_row["lad"]["metrics"]["mAP"] == pytest.approx(printed, abs=6e-4)
    done = subprocess.run(
        [*command, "report", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "| LAD helps |" in done.stdout
    # Nothing is left to do.
    shutil.rmtree(tmp_path / "digits/lad/seed_0/test")
    again = subprocess.run(
        [*command, "run", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "3 of 3 runs are recorded" in again.stdout
