"""Plot of a co-learning run: the share of objects that each network taught over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def averaged(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of consecutive windows and the number of the last iteration of each; the last window may be shorter."""
    ends = np.append(np.arange(window, len(values), window), len(values))
    means = np.array([part.mean() for part in np.split(values, ends[:-1])])
    return ends, means


def draw_shares(shares: Mapping[str, np.ndarray], window: int, path: Path) -> None:
    """Draw the share of objects that each network taught over a run, as stacked areas.

    Args:
        shares: (T,) for each network, the share at each of T iterations with objects; they sum to 1.
        window: Iterations that a point averages over.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # only when a picture is wanted: importing it takes a second

    window = min(window, max(1, min(map(len, shares.values())) // 4))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    curves = {name: averaged(values, window) for name, values in shares.items()}
    iterations = next(iter(curves.values()))[0]
    means = [mean for _, mean in curves.values()]
    first = iterations[0]
    # A window's mean stands for all of its iterations.
    edges = np.concatenate([[0], iterations])
    axes.stackplot(
        edges,
        [np.concatenate([mean[:1], mean]) for mean in means],
        labels=[f"{name} (all of training: {np.mean(shares[name]):.0%})" for name in shares],
        colors=[COLOURS[number % len(COLOURS)] for number in range(len(shares))],
        step="pre",
    )
    axes.axhline(0.5, color="white", linewidth=0.8, linestyle="--")
    axes.set(
        xlim=(0, max(int(iterations[-1]), int(first))),
        ylim=(0, 1),
        xlabel=f"iterations with taught objects (means of {window})",
        ylabel="share of objects taught",
        title="Who taught when",
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=len(shares), frameon=False)
    figure.savefig(path, dpi=120)
