"""MulDE on its paper's own task: a small model of a knowledge graph, UMLS, learns from four larger ones.

python examples/knowledge_graph/run.py
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import get_args

import torch
from distillation import Arm
from scipy import stats
from training import Queries, Settings, all_scores, queries_of, train

try:
    from pykeen.datasets import UMLS
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import RotatE
except ImportError as error:
    sys.exit(f"run: error: the example needs PyKEEN: pip install -e '.[lite,examples]' ({error})")

#: Seeds of the teachers: other ones than the juniors'.
TEACHER_SEED = 1000


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each arm, paired (default: 5)")
    parser.add_argument("--dimensions", type=int, default=32, help="real numbers of an entity of the junior")
    parser.add_argument("--teacher-dimensions", type=int, default=64, help="likewise of a teacher")
    parser.add_argument("--teachers", type=int, default=4, help="how many teachers, the same for all seeds")
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/knowledge_graph/results.json"))
    return parser.parse_args()


class Task:
    """UMLS: its queries, models of it, and how good they are."""

    def __init__(self, settings: Settings) -> None:
        self.data = UMLS()
        self.settings = settings
        training = self.data.training
        self.queries: Queries = queries_of(
            training.mapped_triples, training.num_entities, training.num_relations
        )

    def model(self, dimensions: int, seed: int) -> RotatE:
        """A RotatE, whose entities are complex numbers, two real ones each."""
        return RotatE(triples_factory=self.data.training, embedding_dim=dimensions // 2, random_seed=seed)

    def mean_reciprocal_rank(self, model: RotatE, triples: torch.Tensor) -> float:
        """Filtered MRR of heads and tails, ties at their mean rank."""
        known = [self.data.training.mapped_triples, self.data.validation.mapped_triples]
        result = RankBasedEvaluator().evaluate(
            model, triples, batch_size=256, additional_filter_triples=known, use_tqdm=False
        )
        return float(result.get_metric("both.realistic.inverse_harmonic_mean_rank"))


def difference(better: list[float], than: list[float]) -> str:
    """Mean of the paired differences with its 95 % interval (Student's t)."""
    pairs = [a - b for a, b in zip(better, than, strict=True)]
    mean = sum(pairs) / len(pairs)
    if len(pairs) < 2:
        return f"{mean:+.4f}"
    interval = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    return f"{mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def main() -> None:
    """Train the teachers and every arm, and print how they compare."""
    args = parse_args()
    # PyKEEN tells of each evaluation.
    logging.getLogger("pykeen").setLevel(logging.ERROR)
    task = Task(Settings(epochs=args.epochs))
    test, start = task.data.testing.mapped_triples, time.monotonic()
    arms = get_args(Arm)
    found: dict[str, list[float]] = {name: [] for name in ("teachers", *arms)}
    weights: list[list[float]] = []
    total, done = args.teachers + args.seeds * len(arms), 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - start) * (total - done) / done
        print(f"{done}/{total} {what}, about {left / 60:.0f} min left", file=sys.stderr)

    teachers = []
    for number in range(args.teachers):
        teacher = task.model(args.teacher_dimensions, TEACHER_SEED + number)
        train(teacher, task.queries, task.settings, TEACHER_SEED + number)
        teachers.append(teacher)
        found["teachers"].append(task.mean_reciprocal_rank(teacher, test))
        tell(f"teacher {number}: MRR {found['teachers'][-1]:.4f}")
    scores = all_scores(teachers, task.queries, task.settings.margin)
    for seed in range(args.seeds):
        for arm in arms:
            junior = task.model(args.dimensions, seed)
            of_teachers = train(junior, task.queries, task.settings, seed, arm, scores)
            found[arm].append(task.mean_reciprocal_rank(junior, test))
            if arm == "mulde":
                weights.append(of_teachers)
            tell(f"seed {seed}, {arm}: MRR {found[arm][-1]:.4f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(dict(mrr=found, weights=weights), indent=1))
    print("| | MRR, mean of the seeds | minus alone | minus the mean |\n|---|---|---|---|")
    for name, values in found.items():
        row = [name, f"{sum(values) / len(values):.4f}", "", ""]
        if name in arms:
            row[2] = "" if name == "alone" else difference(values, found["alone"])
            row[3] = difference(values, found["mean"]) if name == "mulde" else ""
        print(f"| {' | '.join(row)} |")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes; {args.out}")


if __name__ == "__main__":
    main()
