"""Train and evaluate every run of a suite, going on where an earlier process stopped."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from lad.benchmark import runs
from lad.benchmark.evaluate import make_records
from lad.benchmark.process import Processes, locked
from lad.benchmark.progress import clock, last_error, read_progress, time_left
from lad.benchmark.records import Key, Record, append_record, read_records
from lad.benchmark.runs import Run
from lad.benchmark.suite import Suite
from lad.errors import ConfigError, LadError, nearest

RECORDS = "results.jsonl"
TRAIN_LOG = "train.log"
TEST_LOG = "test.log"


@dataclass(frozen=True)
class Options:
    """How a suite is run.

    Attributes:
        only: Entries to run (and what they need); all if empty.
        seeds: Seeds to run; all if empty.
        jobs: Trainings at a time.
        rerun_changed: Train again what was trained with another config; the old folder is kept beside it.
    """

    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    jobs: int = 1
    rerun_changed: bool = False


def plan(suite: Suite, root: Path, options: Options) -> list[Run]:
    """The runs of a suite: seed by seed, each after those that it needs.

    Raises:
        ConfigError: an entry or a seed is asked for that the suite does not have.
    """
    for name in options.only:
        if name not in suite.entries:
            raise ConfigError(f"--only: there is no entry {name!r}{nearest(name, suite.entries)}.")
    known = sorted({seed for entry in suite.entries.values() for seed in entry.seeds})
    for seed in options.seeds:
        if seed not in known:
            raise ConfigError(f"--seeds: the suite has no seed {seed}; it has {', '.join(map(str, known))}.")
    chosen: dict[str, Run] = {}

    def choose(run: Run) -> None:
        for need in run.needs.values():
            choose(need)
        chosen.setdefault(run.name, run)

    for seed in options.seeds or known:
        for entry in suite.entries.values():
            if seed in entry.seeds and (not options.only or entry.name in options.only):
                choose(Run(suite, entry, seed, root))
    return list(chosen.values())


def changed_since(suite: Suite, root: Path, records: Mapping[Key, Record]) -> list[str]:
    """The recorded runs, as ``ROW seed SEED``, whose config is another one now."""
    changed = []
    for run in plan(suite, root, Options()):
        own = [records.get(Key(network.row, run.seed)) for network in run.entry.networks]
        if any(record is not None and record.status == "ok" for record in own):
            digest = runs.result_digest(run, runs.identity(run))
            changed += [f"{r.row} seed {r.seed}" for r in own if r is not None and r.digest != digest]
    return changed


class SuiteRunner:
    """Brings every planned run to a record.

    Args:
        suite: What to run.
        root: Folder of its runs; the records are ``root/results.jsonl``.
        options: How.
        say: Takes a line for people.
    """

    def __init__(
        self,
        suite: Suite,
        root: Path,
        options: Options = Options(),
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.suite = suite
        self.root = root
        self.options = options
        self.say = say
        self.records = root / RECORDS
        self.runs = plan(suite, root, options)
        self.identities = {run.name: runs.identity(run) for run in self.runs}
        self.done: set[str] = set()
        #: Why a run has no result.
        self.failed: dict[str, str] = {}
        #: Seconds that the finished runs of each entry took.
        self.spent: dict[str, list[float]] = {}
        #: Seconds that evaluations took.
        self.evaluations: list[float] = []
        #: One training after the other may use all cores; several share them.
        self.processes = Processes(threads=1 if options.jobs > 1 else None)

    def run(self) -> int:
        """Run what is not recorded; returns the exit code: 0, or 1 where a run has no result."""
        self._look_around()
        waiting = [run for run in self.runs if run.name not in self.done | self.failed.keys()]
        self.say(
            f"{self.suite.name}: {len(self.done)} of {len(self.runs)} runs are recorded in {self.records}"
        )
        running: dict[Future, Run] = {}
        status = _StatusLine(self.say)
        with ThreadPoolExecutor(max_workers=self.options.jobs) as pool:
            try:
                while waiting or running:
                    self._start(waiting, running, pool)
                    finished, _ = wait(running, timeout=status.interval, return_when=FIRST_COMPLETED)
                    for future in finished:
                        run = running.pop(future)
                        status.end()
                        self._finish(run, future.result())
                    status.show(self._status(waiting, list(running.values())))
            except KeyboardInterrupt:
                self.processes.stop()
                status.end()
                self.say("stopping; the same command goes on from here")
                return 130
        for name, reason in self.failed.items():
            self.say(f"no result: {name}: {reason}")
        return 1 if self.failed else 0

    def _look_around(self) -> None:
        """Find out what is recorded, and what was trained with another config."""
        recorded = read_records(self.records)
        for run in self.runs:
            own = self.identities[run.name]
            blocked = [need.name for need in run.needs.values() if need.name in self.failed]
            changed = runs.differences(run, own) if run.is_begun() else []
            if changed and self.options.rerun_changed:
                self.say(
                    f"{run.name}: {', '.join(changed)} changed; trained again, the old run is {_set_aside(run)}"
                )
            elif changed:
                self.failed[run.name] = (
                    f"{', '.join(changed)} changed since it was trained; --rerun-changed trains it again"
                )
            elif blocked:
                self.failed[run.name] = f"it needs {', '.join(blocked)}"
            elif self._is_recorded(run, recorded):
                self.done.add(run.name)
                self._remember_time(run)

    def _is_recorded(self, run: Run, recorded: dict[Key, Record]) -> bool:
        if not run.is_trained():
            return False
        digest = runs.result_digest(run, self.identities[run.name])
        for network in run.entry.networks:
            record = recorded.get(Key(network.row, run.seed))
            if (
                record is None
                or record.status != "ok"
                or not (self.root / (record.detections or "?")).is_file()
            ):
                return False
            if record.digest != digest:
                self.say(f"{run.name}: its evaluation changed since it was recorded; evaluated again")
                return False
        return True

    def _start(self, waiting: list[Run], running: dict[Future, Run], pool: ThreadPoolExecutor) -> None:
        for run in list(waiting):
            lost = [need.name for need in run.needs.values() if need.name in self.failed]
            if lost:
                waiting.remove(run)
                self.failed[run.name] = f"it needs {', '.join(lost)}"
            elif len(running) < self.options.jobs and all(
                need.name in self.done for need in run.needs.values()
            ):
                waiting.remove(run)
                running[pool.submit(self._work, run)] = run

    def _work(self, run: Run) -> str | None:
        """Train unless trained, and evaluate; returns what went wrong."""
        try:
            with locked(run.folder, stopped=lambda: self.processes.stopped) as lock:
                if not run.is_trained():
                    runs.claim_folder(run, self.identities[run.name])
                    log = run.folder / TRAIN_LOG
                    code = self.processes.run(runs.train_command(run), log, lock)
                    if code != 0:
                        return f"training ended with exit code {code}: {last_error(log)}"
                    if not run.is_trained():
                        return f"training ended without {run.checkpoint(run.entry.networks[-1].name)}"
                elif not (run.folder / runs.STATE).is_file():
                    # Trained elsewhere and moved here.
                    runs.claim_folder(run, self.identities[run.name])
                start = time.monotonic()
                for network in run.entry.networks:
                    log = run.folder / TEST_LOG
                    runs.detections(run, network).unlink(missing_ok=True)
                    code = self.processes.run(runs.test_command(run, network), log, lock)
                    if code != 0 or not runs.detections(run, network).is_file():
                        return f"evaluation ended with exit code {code}: {last_error(log)}"
                self.evaluations.append(time.monotonic() - start)
        except KeyboardInterrupt:
            return "stopped"
        except Exception as error:  # whatever it is, the other runs go on
            return _said(error)
        return None

    def _finish(self, run: Run, error: str | None) -> None:
        if self.processes.stopped:
            return
        digest = runs.result_digest(run, self.identities[run.name])
        try:
            records = make_records(run, digest, error)
        except Exception as unreadable:  # whatever it is, the other runs go on
            error = _said(unreadable)
            records = make_records(run, digest, error)
        for record in records:
            append_record(self.records, record)
        if error is not None:
            self.failed[run.name] = error
            self.say(f"FAILED {run.name}: {error} ({run.folder / TRAIN_LOG})")
            return
        self.done.add(run.name)
        self._remember_time(run)
        for record in records:
            self.say(
                f"{record.row} seed {record.seed}: mAP {record.metrics['mAP']:.4f}, AP50 {record.metrics['AP50']:.4f}, "
                f"trained in {clock(record.seconds)}"
            )

    def _remember_time(self, run: Run) -> None:
        seconds = runs.training_seconds(run.folder)
        if seconds is not None:
            self.spent.setdefault(run.entry.name, []).append(seconds)

    def _status(self, waiting: list[Run], running: list[Run]) -> str:
        parts: list[str] = []
        left: list[tuple[str, float | None]] = []
        for run in running:
            progress = None if run.is_trained() else read_progress(run.folder / TRAIN_LOG)
            if run.is_trained():
                parts.append(f"{run.name} evaluation")
                left.append((run.entry.name, 0.0))
            else:
                parts.append(f"{run.name} {progress.text if progress else 'starts'}")
                left.append((run.entry.name, progress.left if progress else None))
        untrained = [run.entry.name for run in waiting if not run.is_trained()]
        total = time_left(untrained, left, self.spent, self.options.jobs)
        if total is not None and self.evaluations:
            # Every run that is not finished is still to be evaluated.
            total += statistics.mean(self.evaluations) * (len(waiting) + len(running)) / self.options.jobs
        count = f"[{len(self.done)}/{len(self.runs)}]"
        return f"{count} {' | '.join(parts)} | suite: {clock(total)} left"


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, LadError) else f"{type(error).__name__}: {error}"


def _set_aside(run: Run) -> Path:
    """Move a run's folder out of the way."""
    number = 1
    while (target := run.folder.with_name(f"{run.folder.name}_before_{number}")).exists():
        number += 1
    run.folder.rename(target)
    return target


class _StatusLine:
    """A line that is overwritten on a terminal, and one a minute in a file."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.terminal = sys.stdout.isatty()
        self.interval = 1.0 if self.terminal else 5.0
        self._say = say
        self._last = 0.0

    def show(self, text: str) -> None:
        if self.terminal:
            print(f"\r\033[K{text}", end="", flush=True)
        elif time.monotonic() - self._last >= 60:
            self._last = time.monotonic()
            self._say(text)

    def end(self) -> None:
        if self.terminal:
            print("\r\033[K", end="")
