"""What runs logged at their end is averaged."""

import runpy
import sys

from lad.analysis.last_values import LastValue, last_values
from lad.analysis.training_logs import read_runs
from lad.errors import DataError

import pytest
from helpers import ROOT
from scalar_logs import resumed_run, step, write


@pytest.fixture
def runs(tmp_path):
    """Losses of 70 and 60 in the last of two epochs; 80, 40 and 30 in three epochs of 20 iterations, and their mAP."""
    lines = [step(20, 80.0, 20), step(40, 40.0, 20), step(60, 30.0, 20), {"coco/bbox_mAP": 0.6, "step": 3}]
    return [resumed_run(tmp_path / "one"), write(tmp_path / "two", "20260101_000000", *lines)]


def test_each_runs_last_epochs_are_averaged_then_the_runs(runs):
    (loss, ap) = last_values(read_runs(runs), ["loss", "coco/bbox_mAP"])
    assert loss == LastValue("loss", 2, (65.0 + 30.0) / 2, pytest.approx(35.0 / 2**0.5))
    assert ap == LastValue("coco/bbox_mAP", 2, pytest.approx(0.5), pytest.approx(0.2 / 2**0.5))
    (loss,) = last_values(read_runs(runs), ["loss"], epochs=2)
    assert loss.mean == pytest.approx(((10 + 9 + 70 + 60) / 4 + (40 + 30) / 2) / 2)


def test_an_epoch_whose_last_iterations_were_not_logged_is_whole(tmp_path):
    """26 iterations an epoch, of which every 20th is logged."""
    lines = [
        dict(loss=float(epoch), epoch=epoch, iter=26 * (epoch - 1) + 20, step=26 * (epoch - 1) + 20)
        for epoch in range(1, 6)
    ]
    run = read_runs([write(tmp_path / "run", "20260101_000000", *lines)])
    assert [last_values(run, ["loss"], epochs)[0].mean for epochs in (1, 2, 9)] == [5.0, 4.5, 3.0]


def test_runs_that_did_not_log_a_scalar_at_their_end_do_not_count(tmp_path, runs):
    early = step(20, 5.0, 20, loss_distill=3.0)
    runs.append(write(tmp_path / "faded", "20260101_000000", early, step(40, 4.0, 20)))
    runs.append(write(tmp_path / "taught", "20260101_000000", step(20, 4.0, 20, loss_distill=7.0)))
    found = last_values(read_runs(runs), ["loss_distill", "loss"])
    assert found[0] == LastValue("loss_distill", 1, 7.0, None)
    assert found[1].runs == 4
    assert last_values(read_runs(runs[2:3]), ["loss_distill"]) == [LastValue("loss_distill", 0, None, None)]


def test_a_run_without_epochs_has_no_last_one(tmp_path):
    run = write(tmp_path / "run", "20260101_000000", dict(loss=1.0, iter=20, step=20))
    with pytest.raises(DataError, match="run does not count epochs"):
        last_values(read_runs([run]), ["loss"])


def use_tool(monkeypatch, *arguments):
    path = ROOT / "tools/analysis_tools/last_values.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def test_tool_prints_a_line_for_each_scalar(runs, monkeypatch, capsys):
    use_tool(monkeypatch, *runs)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [
        ["loss", "2", "47.5", "24.75"],
        ["loss_cls", "2", "23.75", "12.37"],
        ["coco/bbox_mAP", "2", "0.5", "0.1414"],
    ]
    use_tool(monkeypatch, runs[1], "--keys", "*cls", "--epochs", "3")
    assert capsys.readouterr().out.splitlines()[2].split() == ["loss_cls", "1", "25"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keys", "lost"], "--keys: nothing is logged as 'lost'"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, runs, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        use_tool(monkeypatch, *runs, *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_work_dir_is_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        use_tool(monkeypatch, tmp_path / "nowhere")
    assert "there is no work_dir" in capsys.readouterr().err


def test_a_run_that_is_named_twice_is_refused(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "link").symlink_to(runs[0])
    monkeypatch.chdir(tmp_path)
    for again in (runs[0], tmp_path / "two/../one", "one", "link"):
        with pytest.raises(SystemExit) as stop:
            use_tool(monkeypatch, *runs, again)
        assert stop.value.code == 2
        assert (
            capsys.readouterr().err
            == f"error: {str(runs[0])!r} and {str(again)!r} are the same run: name it once.\n"
        )


def test_means_need_no_config(tmp_path, monkeypatch, capsys):
    run = write(tmp_path / "run", "20260101_000000", step(20, 3.0))
    (run / "20260101_000000/vis_data/config.py").write_text("model = dict(\n")
    use_tool(monkeypatch, run, "--keys", "loss")
    assert capsys.readouterr().out.splitlines()[2].split() == ["loss", "1", "3"]
