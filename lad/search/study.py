"""The search itself: which values are tried, what is kept, and how it goes on."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lad.base import processes
from lad.base.json_lines import end_last_line
from lad.base.processes import Processes, is_locked, locked
from lad.base.status import clock
from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError, MissingPackageError
from lad.search import trials
from lad.search.data import split_training_data
from lad.search.folder import (
    BEST,
    DATA,
    JOURNAL,
    SETTINGS,
    TABLE,
    TRIALS,
    check_free,
    check_journal,
    keep_edited,
    read_settings,
    remove_stale_lock,
)
from lad.search.space import Parameter, current_value, with_examples, with_values

import numpy as np
from mmengine.config import Config

if TYPE_CHECKING:
    import optuna

#: What settings are called in messages, where not by their own name.
_SETTING_NAMES = dict(parameters="--space")
#: Trials that are never stopped early, and the share of a training before which none is.
STARTUP_TRIALS, WARMUP = 4, 0.3
#: Failures in a row after which a search ends.
MOST_FAILURES = 3


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        parameters: What is searched.
        trials: Number of trainings, those that are stopped early included.
        share: Of the training images on which a trial is evaluated.
        seed: Of the split, of every training and of the sampler.
        metric: That is to be large, as it is called in the logs.
        hours: Time after which the search stops, to be gone on with; None for no limit.
    """

    parameters: tuple[Parameter, ...]
    trials: int = 20
    share: float = 0.2
    seed: int = 0
    metric: str = "coco/bbox_mAP"
    hours: float | None = None


class Search:
    """Search numbers of a config by optuna's TPE sampler, stopping trainings that are below the median (median pruner).

    The first trial has the config's own values, if they are among those that are searched. Everything of a search is in
    its folder: a killed one goes on with the trial that it was at, from that training's last checkpoint; several
    processes may work on one search.

    Args:
        cfg: The training config; its validation data are not read.
        settings: What is searched, and how.
        work_dir: Folder of the search.
        print_line: Prints a message.

    Raises:
        MissingPackageError: optuna is not installed.
        ConfigError: the config's data cannot be split, or another search was begun in the folder.
    """

    def __init__(
        self,
        cfg: Config,
        settings: SearchSettings,
        work_dir: Path,
        print_line: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.cfg = cfg
        self.settings = settings
        self.work_dir = work_dir
        self.print_line = print_line
        self.processes = Processes()
        # Before anything is written.
        with_examples(cfg, settings.parameters)
        self._check_same()
        self.split = split_training_data(cfg, work_dir / DATA, settings.share, settings.seed)
        self.study = self._open()

    def run(self) -> bool:
        """Train until the number of trials is reached; returns whether it was.

        Raises:
            DataError: the first trial failed, or several in a row.
        """
        begin, failures = time.monotonic(), 0
        while (trial := self._next(begin)) is not None:
            error = self._train(trial, begin)
            if self.processes.stopped:
                return False
            failures = failures + 1 if error else 0
            if error and (failures >= MOST_FAILURES or not self._finished()):
                raise DataError(f"trial {trial.number}: {error} ({self._folder(trial.number) / trials.LOG})")
            if self._is_over(begin):
                break
        self._write_results()
        return len(self._finished()) >= self.settings.trials

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best of the trials that were trained to their end; None before the first."""
        return max(self._complete(), key=lambda trial: trial.values[0], default=None)

    def stop(self) -> None:
        """Stop the running training; the search can be gone on with."""
        self.processes.stop()

    # -- The study -----------------------------------------------------------------------------------------------------

    def _check_same(self) -> None:
        """Write down what is searched, or refuse a folder in which something else is.

        A search of which every trial has failed is replaced: they have shown a mistake.
        """
        own = asdict(self.settings)
        del own["trials"], own["hours"]  # may grow
        own["config"] = hashlib.sha256(self.cfg.pretty_text.encode()).hexdigest()
        own = json.loads(json.dumps(own))
        file = self.work_dir / SETTINGS
        if file.is_file():
            before = read_settings(file)
            changed = [_SETTING_NAMES.get(key, key) for key, value in own.items() if before.get(key) != value]
            if changed and not self._is_replaceable():
                raise ConfigError(
                    f"{self.work_dir} has a search with another {' and '.join(changed)}: go on with the same, or give "
                    "another --work-dir."
                )
            if changed:
                self.print_line(
                    f"{self.work_dir} begins anew: every trial with another {' and '.join(changed)} has failed"
                )
                (self.work_dir / JOURNAL).unlink(missing_ok=True)
                if (self.work_dir / TRIALS).exists():
                    shutil.rmtree(self.work_dir / TRIALS)
        else:
            check_free(self.work_dir)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(own, indent=1).encode())

    def _is_replaceable(self) -> bool:
        """Whether all trials of the search in the folder have failed, or there are none."""
        states = {trial.state.name for trial in self._open().get_trials(deepcopy=False)}
        return states <= {"FAIL", "WAITING"}

    def _open(self) -> optuna.Study:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
        except ImportError as error:
            raise MissingPackageError("a search needs optuna: pip install optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Absolute: the lock is a link to the file, and optuna looks at what it leads to for one that was left behind.
        journal = (self.work_dir / JOURNAL).resolve()
        if journal.is_file():
            check_journal(journal)
            remove_stale_lock(journal)
            lock = JournalFileSymlinkLock(str(journal))
            lock.acquire()
            try:
                # Optuna would append to what a killed process left of a line.
                with open(journal, "ab+") as file:
                    end_last_line(file)
            finally:
                lock.release()
        steps = self.cfg.train_cfg.get("max_epochs") or self.cfg.train_cfg.get("max_iters") or 1
        # Trials report after each evaluation, the first of which is number 1.
        evaluations = -(-steps // self.cfg.train_cfg.get("val_interval", 1))
        study = optuna.create_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            load_if_exists=True,
            direction="maximize",
            sampler=_sampler([self.settings.seed]),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=STARTUP_TRIALS, n_warmup_steps=math.ceil(WARMUP * evaluations)
            ),
        )
        if not study.get_trials(deepcopy=False):
            own = {one.key: current_value(self.cfg, one.key) for one in self.settings.parameters}
            if all(one.allows(own[one.key]) for one in self.settings.parameters):
                study.enqueue_trial(own)
        return study

    def _next(self, begin: float) -> optuna.Trial | None:
        """The trial that a killed search was at, or a new one; None where there are enough, or where time is up.

        The last ones may be another process's, or of a training that outlived its search: they are waited for.
        """
        import optuna

        while not (self.processes.stopped or self._is_over(begin)):
            running = self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
            for frozen in running:
                if not is_locked(self._folder(frozen.number)):
                    return self._suggested(optuna.Trial(self.study, frozen._trial_id))
            if self._left() > 0:
                return self._suggested(self.study.ask())
            if not running:
                return None
            time.sleep(processes.POLL)
        return None

    def _suggested(self, trial: optuna.Trial) -> optuna.Trial:
        """The trial, with values for what is searched: a function of the seed, its number and the trials before it."""
        # A sampler that goes on is in one process: one that begins anew would draw the values of the trials before.
        self.study.sampler = _sampler([self.settings.seed, trial.number])
        for one in self.settings.parameters:
            one.suggest(trial)
        return trial

    def _left(self) -> int:
        """Number of trials that are still to begin. A failed one does not count."""
        states = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        return self.settings.trials - sum(state not in ("FAIL", "WAITING") for state in states)

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return _finished(self.study)

    def _complete(self) -> list[optuna.trial.FrozenTrial]:
        """Those of them that were trained to their end."""
        return [trial for trial in self._finished() if trial.state.name == "COMPLETE"]

    def _folder(self, number: int) -> Path:
        return self.work_dir / TRIALS / f"{number:03d}"

    def _is_over(self, begin: float) -> bool:
        hours = self.settings.hours
        return hours is not None and time.monotonic() - begin >= hours * 3600

    # -- A trial -------------------------------------------------------------------------------------------------------

    def _train(self, trial: optuna.Trial, begin: float) -> str | None:
        """Train a trial, or go on with it; returns why it failed, or None."""
        import optuna

        folder = self._folder(trial.number)
        reported = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        values: list[float] = []

        def evaluated(iteration: int, value: float) -> bool:
            values.append(value)
            if len(values) not in reported and math.isfinite(value):
                trial.report(value, len(values))
            self.print_line(
                f"  trial {trial.number}, evaluation {len(values)}: {self.settings.metric} {value:.4f}"
            )
            return not trial.should_prune()

        begun = time.monotonic()
        with locked(folder) as lock:
            if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                return None  # by another process, before the folder was locked
            config = self._write_config(trial, folder)
            metric = self.settings.metric
            outcome = trials.train(
                config, folder, metric, self.processes, lock, evaluated, lambda: self._is_over(begin)
            )
            error, pruned = outcome.error, outcome.stopped and trial.should_prune()
            if outcome.stopped and not pruned:
                return None  # out of time: it goes on next time
            if error is None and not (values and math.isfinite(values[-1])):
                error = f"its {metric} is {values[-1]}" if values else "it was not evaluated"
            if error is not None:
                text = f"failed: {error}"
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif pruned:
                text = f"stopped at {values[-1]:.4f}, below the median"
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                text = f"{metric} {values[-1]:.4f}"
                self.study.tell(trial, values[-1])
        spent = clock(time.monotonic() - begun)
        self.print_line(
            f"trial {trial.number} ({_text(trial.params)}): {text}, in {spent}{self._remaining()}"
        )
        return error

    def _write_config(self, trial: optuna.Trial, folder: Path) -> Path:
        cfg = with_values(self.split, {**trial.params, "randomness.seed": self.settings.seed})
        checkpoints = (cfg.get("default_hooks") or {}).get("checkpoint")
        if isinstance(checkpoints, dict):
            checkpoints["max_keep_ckpts"] = 1  # to go on from
        file = folder / "given" / "trial.py"
        write_whole(file, cfg.pretty_text.encode())
        return file

    def _remaining(self) -> str:
        """Estimate of the time that is left, from the trials so far."""
        spent = [one.duration.total_seconds() for one in self._finished() if one.duration is not None]
        left = self._left()
        return f"; about {clock(statistics.mean(spent) * left)} left for {left}" if spent and left > 0 else ""

    # -- Results -------------------------------------------------------------------------------------------------------

    def _write_results(self) -> None:
        best = self.best
        if best is None:
            return
        file = self.work_dir / BEST
        if (kept := keep_edited(file, map(self._text, self._complete()))) is not None:
            self.print_line(f"{file} was changed by hand: it is kept as {kept.name}")
        write_whole(file, self._text(best).encode())
        write_whole(self.work_dir / TABLE, results_table(self._finished(), self.settings).encode())

    def _text(self, trial: optuna.trial.FrozenTrial) -> str:
        """The config with a trial's values, for all training images."""
        return with_values(self.cfg, trial.params).pretty_text


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were trained to their end, or stopped below the median."""
    import optuna

    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=done)


def _sampler(seed: list[int]) -> optuna.samplers.BaseSampler:
    import optuna

    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=number, n_startup_trials=STARTUP_TRIALS)


def results_table(finished: list[optuna.trial.FrozenTrial], settings: SearchSettings) -> str:
    """Markdown table of the finished trials, the best first and those that were stopped last."""
    keys = [one.key for one in settings.parameters]
    lines = [
        f"| {' | '.join(['trial', *keys, settings.metric, 'evaluations'])} |",
        f"| {' | '.join(['---'] * (len(keys) + 3))} |",
    ]

    def rank(trial: optuna.trial.FrozenTrial) -> tuple[bool, float]:
        return trial.state.name != "COMPLETE", -(trial.value if trial.value is not None else math.inf)

    for trial in sorted(finished, key=rank):
        steps = trial.intermediate_values
        value = trial.value if trial.value is not None else steps[max(steps)]
        stopped = "" if trial.state.name == "COMPLETE" else " (stopped)"
        cells = [
            str(trial.number),
            *(_number(trial.params[key]) for key in keys),
            f"{value:.4f}{stopped}",
            str(len(steps)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _text(params: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_number(value)}" for key, value in params.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
