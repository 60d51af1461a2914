"""Plot of an online distillation: agreement with the teacher, stride and the teacher's calls over time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lad.analysis.pictures.curves import COLOURS, FORMATS, running_mean
from lad.errors import DataError

import numpy as np

#: Colours of how a labelled frame ended.
ENDINGS = {
    "trained": COLOURS[2],
    "unchanged": COLOURS[5],
    "held back": COLOURS[1],
    "no objects": COLOURS[6],
}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The labelled frames in the log of an online distillation.

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"log {str(path)!r} cannot be read: {error}.") from error
    return [line for line in lines if "stride" in line]


def draw_stream(
    log: Sequence[Mapping[str, Any]],
    out_file: str | Path,
    frames: int,
    scores: Mapping[str, np.ndarray] | None = None,
    window: int = 25,
) -> None:
    """Draw F1, stride and the number of the teacher's calls, one below the other.

    Args:
        log: Labelled frames, of :func:`read_log`.
        out_file: PNG, PDF or SVG file, by its suffix; its folder is there.
        frames: Frames of the stream.
        scores: F1 of each frame against known boxes, (T,), by name; drawn as running means.
        window: Frames of the running mean.
    """
    from matplotlib.figure import Figure  # importing it takes a second

    out_file = Path(out_file)
    figure = Figure(figsize=(8, 5.4), dpi=100, facecolor="white", layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=[2.4, 1, 1])
    for number, (name, values) in enumerate((scores or {}).items()):
        mean = running_mean(np.asarray(values, dtype=float), window)
        upper.plot(mean, color=("#333333", "#999999")[number % 2], linewidth=1.5, label=name)
    for ending, colour in ENDINGS.items():
        own = [line for line in log if line["ending"] == ending]
        if not own:
            continue
        at = [line["frame"] for line in own]
        before = [line["f1_before"] for line in own]
        # What the updates came to, also where they are not served.
        upper.vlines(at, before, [line["f1_updated"] for line in own], color=colour, linewidth=1.2, alpha=0.6)
        upper.plot(at, before, "o", color=colour, markersize=4.5, label=f"before updates: {ending}")
    upper.set(ylim=(-0.03, 1.03), ylabel="F1", title="What the student found, and when the teacher was asked")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    at = [line["frame"] for line in log]
    ends = [*at, frames]
    middle.step(
        ends,
        [*(line["stride"] for line in log), *(line["stride"] for line in log[-1:])],
        where="post",
        color=COLOURS[0],
    )
    middle.set_yscale("log", base=2)
    middle.set(ylabel="stride")
    middle.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    lower.step(ends, [*range(1, len(at) + 1), len(at)], where="post", color=COLOURS[0])
    share = len(at) / frames if frames else 0.0
    lower.set(
        ylim=(0, None),
        xlim=(0, max(frames, 1)),
        xlabel=f"frame (the teacher labelled {share:.0%})",
        ylabel="teacher's calls",
    )
    for axes in (upper, middle, lower):
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(out_file, metadata=FORMATS[out_file.suffix])
