"""Logs of a run are joined, chosen from and drawn."""

import runpy
import sys

from lad.analysis.pictures.curves import (
    _MARKERS,
    COLOURS,
    choose_keys,
    draw_curves,
    number_lone_points,
    running_mean,
    split_key,
)
from lad.analysis.training_logs import read_runs, read_scalars
from lad.errors import DataError

import numpy as np
import pytest
from helpers import ROOT
from matplotlib.figure import Figure
from PIL import Image
from scalar_logs import resumed_run, step, write


@pytest.fixture
def work_dir(tmp_path):
    return resumed_run(tmp_path / "run")


def test_parts_of_a_resumed_run_are_one_curve_and_the_later_wins(work_dir):
    run = read_scalars(work_dir)
    loss = run.curves["loss"]
    assert loss.iterations.tolist() == [40, 80, 120, 160]
    assert loss.values.tolist() == [10.0, 9.0, 70.0, 60.0]
    # 80 / 1 and 180 / 2 iterations an epoch are the least; the first part says 90 at least. Metrics count epochs.
    assert run.iterations_per_epoch == 90
    assert run.curves["coco/bbox_mAP"].iterations.tolist() == [90, 180]
    assert run.curves["coco/bbox_mAP"].values.tolist() == [0.2, 0.4]
    assert not {"iter", "epoch", "step"} & set(run.curves)
    assert run.name == "run"


def test_a_run_by_iterations_counts_metrics_by_iterations(tmp_path):
    lines = [
        dict(loss=1.0, iter=50, step=50),
        {"coco/bbox_mAP": 0.1, "step": 100},
        dict(loss=0.5, iter=100, step=100),
    ]
    run = read_scalars(write(tmp_path, "20260101_000000", *lines))
    assert run.iterations_per_epoch is None
    assert run.curves["coco/bbox_mAP"].iterations.tolist() == [100]


def test_the_share_that_a_hook_logs_counts_iterations(tmp_path):
    run = read_scalars(write(tmp_path, "20260101_000000", step(20, 1.0), {"role_switch/a": 0.3, "step": 20}))
    assert run.curves["role_switch/a"].iterations.tolist() == [20]


def test_losses_shares_and_map_are_drawn_unless_others_are_asked_for(tmp_path):
    line = step(20, 1.0, **{"a.share": 0.5, "a.mean": 1.0, "a.loss_iou": 0.1})
    metrics = {"coco/bbox_mAP": 0.1, "coco/bbox_mAP_50": 0.2, "step": 1}
    run = read_scalars(write(tmp_path, "20260101_000000", line, metrics))
    assert choose_keys([run], None) == ["loss", "loss_cls", "a.loss_iou", "a.share", "coco/bbox_mAP"]
    assert choose_keys([run], ["lr", "*mAP*"]) == ["lr", "coco/bbox_mAP", "coco/bbox_mAP_50"]
    with pytest.raises(DataError, match="nothing is logged as 'loss_clss'; nearest: loss_cls"):
        choose_keys([run], ["loss_clss"])


def test_running_mean_is_centred_and_narrower_at_the_ends():
    values = np.array([1.0, 2.0, 6.0, 4.0, 5.0])
    np.testing.assert_allclose(running_mean(values, 3), [1, 3, 4, 5, 5])
    np.testing.assert_allclose(running_mean(values, 5), [1, 3, 3.6, 5, 5])
    np.testing.assert_allclose(running_mean(values, 1), values)


@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf])
def test_running_mean_leaves_out_what_is_no_number(other):
    values = np.array([1.0, 2.0, other, 4.0, 5.0, 6.0])
    np.testing.assert_allclose(running_mean(values, 3), [1, 1.5, other, 4.5, 5, 6])
    np.testing.assert_array_equal(running_mean(np.array([other]), 5), [other])


def test_running_mean_after_a_huge_value_is_that_of_the_small_ones():
    assert running_mean(np.array([1.0, 1e30, 1.0, 2.0, 3.0, 4.0]), 3)[3:].tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("key", "parts"),
    [("loss", ("", "loss")), ("a.loss_cls", ("a", "loss_cls")), ("coco/x.5", ("", "coco/x.5"))],
)
def test_networks_that_learn_together_share_a_panel(key, parts):
    assert split_key(key) == parts


def plot(monkeypatch, *arguments):
    path = ROOT / "tools/analysis_tools/plot_losses.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def test_tool_draws_several_runs(work_dir, tmp_path, monkeypatch, capsys):
    other = write(tmp_path / "other", "20260101_000000", step(20, 3.0), step(40, float("nan")))
    out = tmp_path / "plots" / "losses.png"
    plot(monkeypatch, work_dir, other, "--out", out, "--smooth", "3", "--by-epoch")
    assert "loss, loss_cls, coco/bbox_mAP" in capsys.readouterr().out
    image = np.asarray(Image.open(out).convert("RGB"))
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(image.astype(int) - colour).max(-1) < 6).sum() > 50


def test_runs_in_folders_of_one_name_are_told_apart_by_as_many_folders_as_it_takes(tmp_path):
    names = ["x/alone/seed_0", "y/alone/seed_0", "x/lad/seed_0", "teacher"]
    folders = [write(tmp_path / name, "20260101_000000", step(20, 1.0)) for name in names]
    assert [run.name for run in read_runs(folders)] == [*names[:2], "lad/seed_0", "teacher"]
    assert [run.name for run in read_runs([folders[0], folders[0]])] == ["seed_0", "seed_0"]


def test_no_two_of_42_runs_have_both_colour_and_marker_in_common():
    styles = {(COLOURS[n % len(COLOURS)], _MARKERS[n % len(_MARKERS)]) for n in range(42)}
    assert len(styles) == 42


@pytest.mark.parametrize(("suffix", "begins"), [("pdf", b"%PDF-"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_tool_writes_the_format_of_the_suffix(work_dir, tmp_path, monkeypatch, suffix, begins):
    out = tmp_path / f"losses.{suffix}"
    plot(monkeypatch, work_dir, "--keys", "loss", "--out", out)
    assert out.read_bytes().startswith(begins)


def test_another_suffix_is_refused_in_one_line(work_dir, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        plot(monkeypatch, work_dir, "--out", "losses.jpeg")
    assert capsys.readouterr().err == "error: --out must end in .png, .pdf, .svg, got 'losses.jpeg'.\n"


@pytest.mark.parametrize(
    ("role", "shown"), [("", "small"), (", deploy='big'", "big"), (", predict_with='ensemble'", "ensemble")]
)
def test_the_map_of_networks_that_learn_together_says_whose_it_is(tmp_path, role, shown):
    losses = {f"{name}.loss_cls": 1.0 for name in ("small", "big")}
    lines = [step(20, 1.0, 20, **losses), step(40, 0.5, 20, **losses), {"coco/bbox_mAP": 0.1, "step": 1}]
    folder = write(tmp_path / "colad", "20260101_000000", *lines)
    (folder / "20260101_000000/vis_data/config.py").write_text(
        "custom_imports = dict(imports=['no_such_module'])\n"
        f"model = dict(type='DistillationDetector', networks=dict(small=1, big=2){role})\n"
    )
    runs = read_runs([folder])
    draw_curves(runs, choose_keys(runs, None), tmp_path / "x.svg")
    assert runs[0].predicts == shown
    # SVG has the texts that it draws in comments.
    assert f"<!-- colad (mAP: {shown}) -->" in (tmp_path / "x.svg").read_text()


def test_a_curve_of_one_point_has_its_value_beside_it():
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    axes.plot([6], [0.5472], marker="o", color="C0")
    axes.plot([6], [0.5449], marker="s", color="C1")
    axes.plot([3, 6], [np.nan, 0.1], marker="o")
    axes.plot([3, 6], [0.3, 0.9], marker="o")
    axes.plot([6], [0.5472], alpha=0.3)
    number_lone_points(axes)
    texts = [(text.get_text(), text.xy[0]) for text in axes.texts]
    assert texts == [("0.1", 6), ("0.545", 6), ("0.547", 6)]
    heights = [text.xy[1] for text in axes.texts]
    assert heights == pytest.approx([0.1, 0.5449, 0.5449 + 0.09])
    assert [text.get_color() for text in axes.texts[1:]] == ["C1", "C0"]


def break_config(folder):
    write(folder, "20260101_000000", step(20, 1.0))
    (folder / "20260101_000000/vis_data/config.py").write_text("model = dict(\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no work_dir"),
        (lambda folder: folder.mkdir(), "scalars.json is missing"),
        (
            lambda folder: write(folder, "20260101_000000", {"coco/bbox_mAP": 0.1, "step": 0}),
            "hold no training",
        ),
        (break_config, "vis_data/config.py cannot be read (SyntaxError"),
    ],
)
def test_a_folder_without_readable_logs_is_refused_in_one_line(make, message, tmp_path, monkeypatch, capsys):
    make(tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        plot(monkeypatch, tmp_path / "run", "--out", tmp_path / "x.png")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
