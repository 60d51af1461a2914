"""The picture of a stream."""

import json

from lad.analysis.pictures.stream import draw_stream, read_log
from lad.errors import DataError

import numpy as np
import pytest
from matplotlib.figure import Figure


def line(frame, ending="trained", stride=8, before=0.5, updated=0.9):
    return dict(
        frame=frame, f1_before=before, f1_updated=updated, f1=updated, updates=3, ending=ending, stride=stride
    )


LOG = [
    line(0),
    line(8, "held back", 8, 0.6, 0.4),
    line(16, "unchanged", 16, 0.95, 0.95),
    line(32, "no objects", 8, 1.0, 1.0),
]


def test_messages_of_a_log_are_no_labelled_frames(tmp_path):
    rows = [LOG[0], dict(frame=3, message="the teacher has found nothing"), LOG[1]]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_log(tmp_path / "log.jsonl") == LOG[:2]
    (tmp_path / "log.jsonl").write_text("no JSON")
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "log.jsonl")


def test_picture_holds_what_the_log_says(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    draw_stream(LOG, tmp_path / "stream.png", 40, {"known boxes": np.linspace(0, 1, 40)})
    upper, middle, lower = drawn[0].axes
    points = {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in upper.lines
        if line.get_marker() == "o"
    }
    assert points["before updates: held back"] == [(8, 0.6)]
    assert points["before updates: no objects"] == [(32, 1.0)]
    assert list(middle.lines[0].get_xdata()) == [0, 8, 16, 32, 40]
    assert list(middle.lines[0].get_ydata()) == [8, 8, 16, 8, 8]
    assert list(lower.lines[0].get_ydata()) == [1, 2, 3, 4, 4]
    assert "labelled 10%" in lower.get_xlabel()


def test_same_log_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        draw_stream(LOG, tmp_path / name, 40)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
