"""One training of a suite: its folder, identity, and the commands that train and evaluate it."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lad.base.config import load_config, merge_options
from lad.base.processes import LOCK
from lad.datasets.configured import datasets_of
from lad.detectors.configs import trained_specs
from lad.engine.checkpoints import write_whole
from lad.engine.plain_config import kept_exit_configs, plain_configs, student_only
from lad.errors import ConfigError, listed, nearest
from suites import detecting, files
from suites.detecting import Detecting
from suites.digest import EVALUATION, ROOT, TRAINING, digest, digests, teacher_checkpoints, with_detectors
from suites.suite import Entry, Network, Suite, placeholders
from suites.versions import UNKNOWN, versions

from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

STATE = "benchmark.json"
# Of that file. One of another format, or one that cannot be read, is passed over: the training is recognised by the
# config that is written in it.
FORMAT = 2
# Folder of the configs that are handed to tools/train.py and tools/test.py.
GIVEN = "given"


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
        """The trainings that it needs, by name."""
        return {
            key: Run(
                self.suite,
                self.suite.entries[need.entry],
                self.seed if need.seed is None else need.seed,
                self.root,
            )
            for key, need in self.entry.needs.items()
        }

    @cached_property
    def detections_needed(self) -> dict[str, Detecting]:
        """What it needs the detections of in the place of the checkpoint, by name."""
        return {
            key: Detecting(self.needs[key], need.detect)
            for key, need in self.entry.needs.items()
            if need.detect is not None
        }

    @cached_property
    def config(self) -> Config:
        """The training config with its options, its detectors' configs read; placeholders as they are.

        Raises:
            ConfigError: there is no such config, or the options do not fit.
        """
        cfg = copy.deepcopy(_read_config(str(ROOT / self.entry.config)))
        _merge(cfg, {**self.suite.options_of(self.entry), "randomness.seed": self.seed}, self)
        if isinstance(cfg.get("model"), dict):
            cfg.model = with_detectors(cfg.model)
        return cfg

    def filled(self, cfg: Config) -> Config:
        """A copy of a config with the places of the needs' checkpoints or detections for their placeholders."""
        places = {key: str(need.checkpoint()) for key, need in self.needs.items()}
        places |= {key: str(one.file) for key, one in self.detections_needed.items()}
        return Config(_filled(cfg._cfg_dict.to_dict(), places), filename=cfg.filename)

    def checkpoint(self, network: str = "") -> Path:
        """Path of the final checkpoint of a finished training."""
        cfg = self.config.train_cfg
        steps = cfg.get("max_epochs") or cfg.get("max_iters")
        name = f"{'epoch' if cfg.get('max_epochs') else 'iter'}_{steps}.pth"
        # A single trained network's own file is the checkpoint itself.
        own = network and [network] != list(trained_specs(self.config.model))
        return self.folder / (f"{network}_{name}" if own else name)

    def is_trained(self) -> bool:
        """Whether every network's final checkpoint is there; it is written whole or not at all."""
        names = [network.name for network in self.entry.networks] or [""]
        return all(self.checkpoint(name).is_file() for name in names)

    def is_begun(self) -> bool:
        """Whether there is a training in the folder, finished or not."""
        return any(self.folder.glob("*.pth")) or self.dumped_config().is_file()

    def dumped_config(self) -> Path:
        """Path of the trained config, which ``tools/train.py`` writes."""
        return self.folder / Path(self.entry.config).name

    def given_config(self) -> Path:
        """The whole config that ``tools/train.py`` is handed; written by :func:`claim_folder`."""
        return self.folder / GIVEN / "train" / Path(self.entry.config).name

    def evaluated_config(self, network: Network) -> Path:
        """The whole plain config that ``tools/test.py`` is handed; written by :func:`prepare_evaluation`."""
        return self.folder / GIVEN / "test" / f"{network.name or 'detector'}.py"


@cache
def _read_config(path: str) -> Config:
    """Read a config once for all seeds of its entry."""
    return load_config(path)


def identity(run: Run) -> dict[str, Any]:
    """Hashes of all that decides a training's result: ``parts`` of its config, ``needs``, and ``digest`` of both."""
    parts = _parts(run.config)
    needs = {key: identity(need)["digest"] for key, need in run.needs.items()}
    for key, one in run.detections_needed.items():
        needs[key] = digest(dict(images=one.digest), dict(training=needs[key]))
    return dict(parts=parts, needs=needs, digest=digest(parts, needs))


def _parts(cfg: Config) -> dict[str, str]:
    """Hashes of the parts of a training's config, with the teachers' weights where it names them itself."""
    named = teacher_checkpoints(cfg.get("model") or {})
    # Nothing where needs identify the weights: digests of earlier trainings stay valid.
    return digests(cfg, TRAINING) | ({"teacher checkpoint": digest(named)} if named else {})


def result_digest(run: Run, network: Network, own: dict[str, Any]) -> str:
    """The digest of a result: of the training and of the plain detector's evaluation."""
    return digest(digests(plain_config(run, network), EVALUATION), dict(training=own["digest"]))


def differences(run: Run, own: dict[str, Any]) -> list[str]:
    """Differences between a begun training in the run's folder and this run; empty if it is this run's.

    A folder that was trained elsewhere and moved here is recognised by the config that is written in it.
    """
    before = _state(run)
    if before is None and run.dumped_config().is_file():
        before = dict(parts=_dumped_parts(run, own["parts"]), needs=own["needs"])
    if before is None:
        return ["its config is unknown: it"]
    changed = [part for part, value in own["parts"].items() if before["parts"].get(part) != value]
    other = [key for key, value in own["needs"].items() if before["needs"].get(key) != value]
    now = _read_files(run)
    changed += [f"its {key}" for key in other]
    for key in files.changed(before.get("checkpoints", {}), now["checkpoints"]):
        if key not in other:
            changed.append(f"the weights of its {key}")
    return changed + files.changed(before.get("annotations", {}), now["annotations"])


def _read_files(run: Run) -> dict[str, dict[str, str | None]]:
    """SHA-256 of the files that a training reads: ``checkpoints`` of its needs, and ``annotations`` by their places."""
    return dict(
        checkpoints={key: files.sha256(need.checkpoint()) for key, need in run.needs.items()},
        annotations={str(file): files.sha256(file) for file in _training_annotations(run.config)},
    )


def _training_annotations(cfg: Config) -> Iterator[Path]:
    for dataset in datasets_of((cfg.get("train_dataloader") or {}).get("dataset")):
        if isinstance(dataset.get("ann_file"), str):
            yield Path(dataset.get("data_root") or "", dataset["ann_file"])


def _state(run: Run) -> dict[str, Any] | None:
    """Content that :func:`claim_folder` wrote; None where it did not, or where an older one did."""
    file = run.folder / STATE
    if not file.is_file():
        return None
    try:
        state = json.loads(file.read_bytes())
    except ValueError:
        return None
    is_whole = (
        isinstance(state, dict) and state.get("format") == FORMAT and {"parts", "needs"} <= state.keys()
    )
    return state if is_whole else None


def trained_on(run: Run) -> dict[str, str | None]:
    """SHA-256 of the annotation files that a training read, by their places; none where it was not recorded."""
    return dict((_state(run) or {}).get("annotations", {}))


def _dumped_parts(run: Run, own: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the config that a training dumped itself, as far as it has them."""
    cfg = load_config(str(run.dumped_config()))
    # Where the teacher's weights lay is another place now.
    options = run.suite.options_of(run.entry)
    _merge(cfg, {key: value for key, value in options.items() if placeholders({key: value})}, run)
    parts = _parts(cfg)
    # A resumed training forgets what it started from.
    return {**parts, "load_from": own["load_from"]} if cfg.get("resume") else parts


def is_claimed(run: Run) -> bool:
    """Whether the run's folder records what is trained there, and from which files."""
    return "annotations" in (_state(run) or {})  # which an older claim does not have


def trained_with(run: Run) -> tuple[str, ...]:
    """The :func:`~suites.versions.versions` of each part of a training, in its order."""
    return tuple((_state(run) or {}).get("trained_with", [UNKNOWN]))


def claim_folder(run: Run, own: dict[str, Any], training: bool = True) -> None:
    """Record in the run's folder what is trained, from which files and by which versions, and write its config.

    Args:
        run: The run; its needs are trained.
        own: Its :func:`identity`.
        training: Whether it is trained from now on; False for one that was finished elsewhere.
    """
    made_with = trained_with(run) if any(run.folder.glob("*.pth")) else ()
    if training:
        made_with = tuple(dict.fromkeys([*made_with, versions()]))
        # Whole: what is trained is what the digest is of, also if a config is edited meanwhile; and values of any
        # kind arrive as they are, which a command line would take apart.
        files.write_config(run.filled(run.config), run.given_config())
    state = dict(own, format=FORMAT, **_read_files(run), trained_with=made_with)
    write_whole(run.folder / STATE, (json.dumps(state, indent=1) + "\n").encode())


def set_aside(run: Run) -> Path:
    """Move the content of a run's folder aside; the folder and its lock stay."""
    number = 1
    while (target := run.folder.with_name(f"{run.folder.name}_before_{number}")).exists():
        number += 1
    target.mkdir()
    for file in run.folder.iterdir():
        if file.name != LOCK:
            file.rename(target / file.name)
    return target


def prepare_evaluation(run: Run, network: Network) -> Path:
    """Write the plain config that is evaluated; returns the file that its detections will come in.

    Raises:
        ConfigError: it has no COCO metric with an annotation file.
    """
    cfg = run.filled(plain_config(run, network))
    evaluated_annotations(cfg)
    prefix = run.folder / f".{network.name or 'detector'}.new"
    return detecting.prepare(cfg, run.evaluated_config(network), prefix)


def train_command(run: Run) -> list[str]:
    """Command that trains a run, or resumes it."""
    command = [sys.executable, str(ROOT / "tools/train.py"), str(run.given_config())]
    return [*command, "--work-dir", str(run.folder), "--resume"]


def test_command(run: Run, network: Network) -> list[str]:
    """Command that evaluates a final checkpoint with its plain detector and writes its detections."""
    folder = run.folder / ("test" if not network.name else f"test_{network.name}")
    return detecting.command(run.evaluated_config(network), run.checkpoint(network.name), folder)


def detections(run: Run, network: Network) -> Path:
    """The file of a network's detections, as CocoMetric names it."""
    return run.folder / f"{network.name or 'detector'}.bbox.json"


def plain_config(run: Run, network: Network) -> Config:
    """The config of the plain detector that is evaluated; placeholders as they are."""
    if run.entry.evaluate_with is not None:
        cfg = copy.deepcopy(_read_config(str(ROOT / run.entry.evaluate_with)))
        # The rest of the entry's own options is about its training.
        own = {key: v for key, v in run.entry.options.items() if key.split(".")[0] in EVALUATION[1:]}
        _merge(cfg, {**run.suite.options, **run.suite.schedule, **own}, run)
        return cfg
    cfg = run.config
    if not network.name:
        return student_only(cfg)
    known = plain_configs(cfg)
    if network.name not in known:
        known |= kept_exit_configs(cfg)
    if network.name not in known:
        raise ConfigError(
            f"{run.entry.config} leaves behind no network {network.name!r}{nearest(network.name, known)}; there are "
            f"{listed(known, 5)}."
        )
    return known[network.name]


def count_parameters(cfg: Config) -> int:
    """Number of parameters of a detector, frozen ones included."""
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


def _merge(cfg: Config, options: Mapping[str, Any], run: Run) -> None:
    merge_options(cfg, options, f"options of {run.entry.name!r}")


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    """Replace placeholders by the paths of checkpoints, at any depth."""
    if isinstance(value, str):
        for key, path in places.items():
            value = value.replace(f"{{{key}}}", path)
    elif isinstance(value, dict):
        return {key: _filled(item, places) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        return type(value)(_filled(item, places) for item in value)
    return value
