"""One training of a suite: its folder, the commands that train and evaluate it, and how far it is."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lad.benchmark.digest import EVALUATION, TRAINING, digest, digests
from lad.benchmark.suite import Entry, Network, Suite
from lad.cli import plain_configs, student_only
from lad.config import load_config
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError

from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).resolve().parents[2]
STATE = "benchmark.json"
TIME = re.compile(r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ")


@dataclass(frozen=True)
class Run:
    """One entry with one seed.

    Attributes:
        suite: The suite.
        entry: The entry.
        seed: Of initial weights and order of images.
        root: Folder of the suite's work; the run's own is ``root/ENTRY/seed_SEED``.
    """

    suite: Suite
    entry: Entry
    seed: int
    root: Path

    @property
    def name(self) -> str:
        """``ENTRY/seed_SEED``."""
        return f"{self.entry.name}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The work_dir of its training."""
        return self.root / self.entry.name / f"seed_{self.seed}"

    @cached_property
    def needs(self) -> dict[str, Run]:
        """The trainings whose checkpoints it wants, by name."""
        return {
            key: Run(self.suite, self.suite.entries[need.entry], need.seed, self.root)
            for key, need in self.entry.needs.items()
        }

    def options(self) -> dict[str, Any]:
        """``--cfg-options`` of its training; placeholders filled in."""
        checkpoints = {key: str(need.checkpoint()) for key, need in self.needs.items()}
        options = {**self.suite.options_of(self.entry), "randomness.seed": self.seed}
        return {key: _filled(value, checkpoints) for key, value in options.items()}

    @cached_property
    def config(self) -> Config:
        """The training config with its options.

        Raises:
            ConfigError: there is no such config, or the options do not fit.
        """
        cfg = copy.deepcopy(_read_config(str(ROOT / self.entry.config)))
        try:
            cfg.merge_from_dict({**self.suite.options_of(self.entry), "randomness.seed": self.seed})
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            raise ConfigError(
                f"options of {self.entry.name!r} do not fit {self.entry.config}: {error}."
            ) from error
        return cfg

    def checkpoint(self, network: str = "") -> Path:
        """Where the final checkpoint is when the training is finished."""
        cfg = self.config.train_cfg
        steps = cfg.get("max_epochs") or cfg.get("max_iters")
        name = f"{'epoch' if cfg.get('max_epochs') else 'iter'}_{steps}.pth"
        return self.folder / (f"{network}_{name}" if network else name)

    def is_trained(self) -> bool:
        """Whether every network's final checkpoint is there; it is written whole or not at all."""
        return all(self.checkpoint(network.name).is_file() for network in self.entry.networks)

    def is_begun(self) -> bool:
        """Whether there is a training in the folder, finished or not."""
        return any(self.folder.glob("*.pth")) or self.dumped_config().is_file()

    def dumped_config(self) -> Path:
        """Where ``tools/train.py`` writes the config that is trained."""
        return self.folder / Path(self.entry.config).name


@cache
def _read_config(path: str) -> Config:
    """Seeds share their entry's file."""
    return load_config(path)


def identity(run: Run) -> dict[str, Any]:
    """Hashes of what decides a training's result: ``parts`` of its config, ``needs``, and one of both, ``digest``."""
    parts = digests(run.config, TRAINING)
    needs = {key: identity(need)["digest"] for key, need in run.needs.items()}
    return dict(parts=parts, needs=needs, digest=digest(parts, needs))


def result_digest(run: Run, own: dict[str, Any]) -> str:
    """The digest of a result: of the training and of how it is evaluated."""
    return digest(digests(run.config, EVALUATION), dict(training=own["digest"]))


def differences(run: Run, own: dict[str, Any]) -> list[str]:
    """What a begun training in the run's folder was trained with otherwise; empty if it is this run's.

    A folder that was trained elsewhere and moved here is recognised by the config that is written in it.
    """
    file = run.folder / STATE
    if file.is_file():
        before = json.loads(file.read_text())
    elif run.dumped_config().is_file():
        before = dict(parts=digests(load_config(str(run.dumped_config())), TRAINING), needs=own["needs"])
    else:
        return ["its config is unknown: it"]
    changed = [part for part, value in own["parts"].items() if before["parts"].get(part) != value]
    return changed + [
        f"its {key}" for key, value in own["needs"].items() if before["needs"].get(key) != value
    ]


def claim_folder(run: Run, own: dict[str, Any]) -> None:
    """Write down what is trained in the run's folder."""
    write_whole(run.folder / STATE, (json.dumps(own, indent=1) + "\n").encode())


def train_command(run: Run) -> list[str]:
    """Train it, or go on training it."""
    command = [sys.executable, str(ROOT / "tools/train.py"), str(ROOT / run.entry.config)]
    return [*command, "--work-dir", str(run.folder), "--resume", "--cfg-options", *written(run.options())]


def test_command(run: Run, network: Network) -> list[str]:
    """Evaluate a final checkpoint with its plain detector and write its detections."""
    options = {**run.suite.options, **run.suite.schedule}
    if run.entry.evaluate_with is not None:
        config = ROOT / run.entry.evaluate_with
    elif network.name:
        config = run.folder / f"{network.name}.py"
    else:
        config, options = ROOT / run.entry.config, run.options()
    options["test_evaluator.outfile_prefix"] = str(detections(run, network)).removesuffix(".bbox.json")
    folder = run.folder / ("test" if not network.name else f"test_{network.name}")
    command = [sys.executable, str(ROOT / "tools/test.py"), str(config), str(run.checkpoint(network.name))]
    return [*command, "--work-dir", str(folder), "--cfg-options", *written(options)]


def detections(run: Run, network: Network) -> Path:
    """The file of a network's detections, as CocoMetric names it."""
    return run.folder / f"{network.name or 'detector'}.bbox.json"


def plain_config(run: Run, network: Network) -> Config:
    """The config of the plain detector that is evaluated."""
    if run.entry.evaluate_with is not None:
        cfg = load_config(str(ROOT / run.entry.evaluate_with))
        cfg.merge_from_dict({**run.suite.options, **run.suite.schedule})
        return cfg
    cfg = run.config
    return plain_configs(cfg)[network.name] if network.name else student_only(cfg)


def count_parameters(cfg: Config) -> int:
    """Numbers that a detector learns, frozen ones included."""
    init_default_scope("mmdet")
    return sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def evaluated_annotations(cfg: Config) -> tuple[str, list[str]]:
    """The annotation file and the class names that a config is evaluated with.

    Raises:
        ConfigError: it has no COCO metric with an annotation file.
    """
    evaluator = cfg.get("test_evaluator")
    if not isinstance(evaluator, dict) or evaluator.get("ann_file") is None:
        raise ConfigError(
            f"{cfg.filename}: a suite needs test_evaluator=dict(type='CocoMetric', ann_file=...)."
        )
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    classes = (dataset.get("metainfo") or {}).get("classes")
    if classes is None:
        init_default_scope("mmdet")
        classes = DATASETS.get(dataset.type).METAINFO["classes"]
    return evaluator.ann_file, list(classes)


def training_seconds(folder: Path) -> float | None:
    """Seconds from the start of each part of a training to its last step or checkpoint; None without logs."""
    spans = []
    for log in folder.glob("*/*.log"):
        stamps = []
        for line in log.read_text(errors="replace").splitlines():
            found = TIME.match(line)
            if found and (not stamps or "(train)" in line or "Saving checkpoint" in line):
                stamps.append(datetime.strptime(found.group(1), "%Y/%m/%d %H:%M:%S"))
        if stamps:
            spans.append((max(stamps) - stamps[0]).total_seconds())
    return sum(spans) if spans else None


def written(options: Mapping[str, Any]) -> list[str]:
    """Options as mmengine's ``--cfg-options`` reads them."""
    return [f"{key}={_written(value)}" for key, value in options.items()]


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    return str(value)


def _filled(value: Any, checkpoints: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for key, path in checkpoints.items():
            value = value.replace(f"{{{key}}}", path)
    return value
