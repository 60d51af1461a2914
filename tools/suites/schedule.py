"""Train and evaluate every run of a suite, going on where an earlier process stopped."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lad.analysis.training_logs import last_error, read_progress, training_seconds
from lad.errors import ConfigError, LadError, nearest
from suites import runs
from suites.evaluate import make_records
from suites.process import Processes, is_locked, locked
from suites.progress import clock, time_left
from suites.records import FORMAT, Key, Record, append_record, read_records
from suites.runs import Run
from suites.suite import Network, Suite

RECORDS = "results.jsonl"
TRAIN_LOG = "train.log"
TEST_LOG = "test.log"
#: Why a recorded result is not what the suite would measure now.
OTHER = "measured with another config, teacher, or annotations than the suite has now"
OLDER = "recorded by an older version; `run` evaluates it again"


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


def changed_since(suite: Suite, root: Path, records: Mapping[Key, Record]) -> dict[Key, str]:
    """The recorded results that are not what the suite would measure now, and why."""
    changed = {}
    for run in plan(suite, root, Options()):
        recorded = {
            network: records[Key(network.row, run.seed)]
            for network in run.entry.networks
            if Key(network.row, run.seed) in records
        }
        if any(record.status == "ok" for record in recorded.values()):
            own = runs.identity(run)
            other = run.is_begun() and runs.differences(run, own)
            for network, record in recorded.items():
                if not other and record.format != FORMAT:
                    changed[record.key] = OLDER
                elif other or record.digest != runs.result_digest(run, network, own):
                    changed[record.key] = OTHER
    return changed


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        error: Why it has no result; None where it has one.
        records: What was written; none where another process had done it, or where nothing was tried.
    """

    error: str | None = None
    records: list[Record] = field(default_factory=list)


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
        self._say = say
        #: pycocotools is kept quiet by exchanging standard output, which all threads share.
        self._output = threading.Lock()
        self.records = root / RECORDS
        self.runs = plan(suite, root, options)
        self.identities = {run.name: runs.identity(run) for run in self.runs}
        self.done: set[str] = set()
        #: Why a run has no result.
        self.failed: dict[str, str] = {}
        #: Trained with another config, and to be trained again.
        self.outdated: set[str] = set()
        #: Where in its log a run's present training begins.
        self.log_starts: dict[str, int] = {}
        #: Seconds that the finished runs of each entry took.
        self.spent: dict[str, list[float]] = {}
        #: Seconds that evaluations took.
        self.evaluations: list[float] = []
        #: One training after the other may use all cores; several share them.
        self.processes = Processes(threads=1 if options.jobs > 1 else None)

    def say(self, line: str) -> None:
        """Say a line, from any thread."""
        with self._output:
            self._say(line)

    def run(self) -> int:
        """Run what is not recorded; returns the exit code: 0, or 1 where a run has no result."""
        self._look_around()
        waiting = [run for run in self.runs if run.name not in self.done | self.failed.keys()]
        self.say(
            f"{self.suite.name}: {len(self.done)} of {len(self.runs)} runs are recorded in {self.records}"
        )
        running: dict[Future, Run] = {}
        status = _StatusLine(self._say)
        with ThreadPoolExecutor(max_workers=self.options.jobs) as pool:
            try:
                while waiting or running:
                    self._start(waiting, running, pool)
                    finished, _ = wait(running, timeout=status.interval, return_when=FIRST_COMPLETED)
                    for future in finished:
                        run = running.pop(future)
                        with self._output:
                            status.end()
                        self._finish(run, future.result())
                    text = self._status(waiting, list(running.values()))
                    with self._output:
                        status.show(text)
            except KeyboardInterrupt:
                self.processes.stop()
                with self._output:
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
            blocked = [need.name for need in run.needs.values() if need.name in self.failed]
            changed = self._changed(run)
            if changed and self.options.rerun_changed:
                self.outdated.add(run.name)
            elif changed:
                self.failed[run.name] = changed
            elif blocked:
                self.failed[run.name] = f"it needs {', '.join(blocked)}"
            # Whoever learned from a teacher that is trained again is looked at after that.
            elif self._needs_are_done(run) and self._is_recorded(run, recorded):
                self.done.add(run.name)
                self._remember_time(run)

    def _needs_are_done(self, run: Run) -> bool:
        return all(need.name in self.done for need in run.needs.values())

    def _changed(self, run: Run) -> str | None:
        """Why what is in a run's folder is not this run; None where it is, or where nothing is."""
        changed = runs.differences(run, self.identities[run.name]) if run.is_begun() else []
        if not changed:
            return None
        return f"{', '.join(changed)} changed since it was trained; --rerun-changed trains it again"

    def _is_recorded(self, run: Run, recorded: Mapping[Key, Record]) -> bool:
        """Whether nothing is left to do for a run."""
        return (
            run.is_trained()
            and runs.is_claimed(run)
            and all(self._result(run, network, recorded) for network in run.entry.networks)
            and self._outdated(run, recorded) is None
        )

    def _result(self, run: Run, network: Network, recorded: Mapping[Key, Record]) -> Record | None:
        """A network's record, if it has one with detections."""
        record = recorded.get(Key(network.row, run.seed))
        is_good = (
            record is not None
            and record.status == "ok"
            and (self.root / (record.detections or "?")).is_file()
        )
        return record if is_good else None

    def _outdated(self, run: Run, recorded: Mapping[Key, Record]) -> str | None:
        """Why a record of a run is not what would be recorded now; None where it is, or where there is none."""
        if not run.is_trained():
            return None
        for network in run.entry.networks:
            record = self._result(run, network, recorded)
            if record is None:
                continue
            if record.format != FORMAT:
                return "recorded by an older version"
            changed = record.changed_files(self.root)
            if record.digest != runs.result_digest(run, network, self.identities[run.name]):
                changed = ["evaluation", *changed]
            if changed:
                return f"its {' and '.join(changed)} changed since it was recorded"
        return None

    def _start(self, waiting: list[Run], running: dict[Future, Run], pool: ThreadPoolExecutor) -> None:
        for run in list(waiting):
            lost = [need.name for need in run.needs.values() if need.name in self.failed]
            if lost:
                waiting.remove(run)
                self.failed[run.name] = f"it needs {', '.join(lost)}"
        free = self.options.jobs - len(running)
        ready = [run for run in waiting if self._needs_are_done(run)] if free > 0 else []
        # What another process works at is waited for last.
        for run in sorted(ready, key=lambda run: is_locked(run.folder))[: max(free, 0)]:
            waiting.remove(run)
            running[pool.submit(self._work, run)] = run

    def _work(self, run: Run) -> Outcome:
        """All of a run, alone in its folder; what another process did since this one looked around is seen."""
        try:
            with locked(run.folder, stopped=lambda: self.processes.stopped) as lock:
                return self._work_alone(run, lock)
        except KeyboardInterrupt:
            return Outcome("stopped")
        except Exception as error:  # whatever it is, the other runs go on
            return Outcome(_said(error))

    def _work_alone(self, run: Run, lock: int) -> Outcome:
        changed = self._changed(run)
        if changed and not self.options.rerun_changed:
            return Outcome(changed)
        if changed:
            self.say(f"{run.name}: {changed}; the old run is {runs.set_aside(run)}")
        else:
            recorded = read_records(self.records)
            if self._is_recorded(run, recorded):
                return Outcome()
            if outdated := self._outdated(run, recorded):
                self.say(f"{run.name}: {outdated}; evaluated again")
        self.outdated.discard(run.name)
        try:
            error = self._train(run, lock) or self._evaluate(run, lock)
        except Exception as unexpected:  # recorded as any other
            error = _said(unexpected)
        if error is not None and self.processes.stopped:
            return Outcome("stopped")
        return self._record(run, error)

    def _train(self, run: Run, lock: int) -> str | None:
        """Train unless trained; returns what went wrong."""
        own = self.identities[run.name]
        if run.is_trained():
            if not runs.is_claimed(run):
                # Trained elsewhere and moved here, or by an older version.
                runs.claim_folder(run, own, training=False)
            return None
        runs.claim_folder(run, own)
        log = run.folder / TRAIN_LOG
        self.log_starts[run.name] = start = _size(log)
        code = self.processes.run(runs.train_command(run), log, lock)
        if code != 0:
            return f"training ended with exit code {code}: {last_error(log, start)}"
        if not run.is_trained():
            return f"training ended without {run.checkpoint(run.entry.networks[-1].name)}"
        return None

    def _evaluate(self, run: Run, lock: int) -> str | None:
        """Evaluate every network; returns what went wrong. Earlier detections stay until there are new ones."""
        begin = time.monotonic()
        log = run.folder / TEST_LOG
        for network in run.entry.networks:
            fresh = runs.prepare_evaluation(run, network)
            fresh.unlink(missing_ok=True)
            start = _size(log)
            code = self.processes.run(runs.test_command(run, network), log, lock)
            if code != 0 or not fresh.is_file():
                return f"evaluation ended with exit code {code}: {last_error(log, start)}"
            fresh.replace(runs.detections(run, network))
        self.evaluations.append(time.monotonic() - begin)
        return None

    def _record(self, run: Run, error: str | None) -> Outcome:
        own = self.identities[run.name]
        digests = {network.name: runs.result_digest(run, network, own) for network in run.entry.networks}
        with self._output:
            try:
                records = make_records(run, digests, error)
            except Exception as unreadable:  # whatever it is, the other runs go on
                error = _said(unreadable)
                records = make_records(run, digests, error)
        for record in records:
            append_record(self.records, record)
        return Outcome(error, records)

    def _finish(self, run: Run, outcome: Outcome) -> None:
        if outcome.error is not None:
            if self.processes.stopped:
                return
            self.failed[run.name] = outcome.error
            if outcome.records:
                log = TEST_LOG if run.is_trained() else TRAIN_LOG
                self.say(f"FAILED {run.name}: {outcome.error} ({run.folder / log})")
            return
        self.done.add(run.name)
        self._remember_time(run)
        for record in outcome.records:
            self.say(
                f"{record.row} seed {record.seed}: mAP {record.metrics['mAP']:.4f}, AP50 {record.metrics['AP50']:.4f}, "
                f"trained in {clock(record.seconds)}"
            )

    def _remember_time(self, run: Run) -> None:
        seconds = training_seconds(run.folder)
        if seconds is not None:
            self.spent.setdefault(run.entry.name, []).append(seconds)

    def _status(self, waiting: list[Run], running: list[Run]) -> str:
        parts: list[str] = []
        left: list[tuple[str, float | None]] = []
        for run in running:
            # Before its own training begins, what is in its log is an earlier one's or another process's.
            start = self.log_starts.get(run.name)
            progress = None if start is None else read_progress(run.folder / TRAIN_LOG, start)
            if run.is_trained() and run.name not in self.outdated:
                parts.append(f"{run.name} evaluation")
                left.append((run.entry.name, 0.0))
            else:
                parts.append(f"{run.name} {progress.text if progress else 'starts'}")
                left.append((run.entry.name, progress.left if progress else None))
        untrained = [run.entry.name for run in waiting if run.name in self.outdated or not run.is_trained()]
        total = time_left(untrained, left, self.spent, self.options.jobs)
        if total is not None and self.evaluations:
            # Every run that is not finished is still to be evaluated.
            total += statistics.mean(self.evaluations) * (len(waiting) + len(running)) / self.options.jobs
        count = f"[{len(self.done)}/{len(self.runs)}]"
        return f"{count} {' | '.join(parts)} | suite: {clock(total)} left"


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, LadError) else f"{type(error).__name__}: {error}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


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
