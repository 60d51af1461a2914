"""Train, evaluate and record the runs of a suite."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from lad.analysis.training_logs import last_error, read_progress, training_seconds
from lad.base.processes import Processes, is_locked, locked
from lad.base.status import StatusDisplay, clock
from lad.errors import LadError
from suites import runs
from suites.archive import read_archive
from suites.comparable import check_comparable
from suites.evaluate import make_records
from suites.plan import Options, plan
from suites.priority import informative_order
from suites.progress import time_left
from suites.records import Key, Record, append_record, read_records
from suites.resampling import REPLICATES
from suites.results import summarise
from suites.runs import Run
from suites.stale import changed_training, is_archived, is_recorded, known_results, outdated_record
from suites.suite import Suite

RECORDS = "results.jsonl"
#: Exit code of a start whose time was used up.
OUT_OF_TIME = 3
TRAIN_LOG = "train.log"
TEST_LOG = "test.log"


@dataclass(frozen=True)
class Outcome:
    """Result of executing a run.

    Attributes:
        error: Why it has no result; None where it has one.
        records: Records that were written; none where another process had done the run, or where nothing was tried.
    """

    error: str | None = None
    records: list[Record] = field(default_factory=list)


class SuiteRunner:
    """Train, evaluate and record every planned run of a suite, continuing where an earlier process stopped.

    Args:
        suite: The suite.
        root: Folder of its runs; the records are ``root/results.jsonl``.
        options: Which runs to execute, and how; by default all, one at a time.
        print_line: Prints a message.

    Raises:
        ConfigError: a config does not fit, or what is planned is not evaluated on the same (:mod:`suites.comparable`).
    """

    def __init__(
        self,
        suite: Suite,
        root: Path,
        options: Options | None = None,
        print_line: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.suite = suite
        self.root = root
        self.options = options = options or Options()
        self._display = StatusDisplay(print_line)
        self.records = root / RECORDS
        self.archive = read_archive(suite.archive) if options.use_archive else {}
        self.runs = plan(suite, root, options)
        check_comparable(self.runs)
        self.identities = {run.name: runs.identity(run) for run in self.runs}
        self.done: set[str] = set()
        #: Of these, the runs whose results are archived and of which there are no files here.
        self.archived: set[str] = set()
        #: Why a run has no result.
        self.failed: dict[str, str] = {}
        #: Runs that were trained with another config and are to be trained again.
        self.outdated: set[str] = set()
        #: Byte offset in a run's log at which its current training begins.
        self.log_starts: dict[str, int] = {}
        #: Seconds that the finished runs of each entry took.
        self.spent: dict[str, list[float]] = {}
        #: Seconds that evaluations took.
        self.evaluations: list[float] = []
        #: A single training may use all cores; parallel ones get one thread each.
        self.processes = Processes(threads=1 if options.jobs > 1 else None)

    def run(self) -> int:
        """Run what is not recorded; returns the exit code.

        0, 1 where a run has no result, 3 where the time given was used up, 130 where it was interrupted.
        """
        begin = time.monotonic()
        self._read_state()
        archived = f", {len(self.archived)} of them in {self.suite.archive}" if self.archived else ""
        self._display.message(
            f"{self.suite.name}: {len(self.done)} of {len(self.runs)} runs are recorded in {self.records}{archived}"
        )
        waiting = [run for run in self._in_order() if run.name not in self.done | self.failed.keys()]
        running: dict[Future, Run] = {}
        with ThreadPoolExecutor(max_workers=self.options.jobs) as pool:
            try:
                while waiting or running:
                    if self._is_over(begin):
                        self.processes.stop()
                        self._display.message(
                            f"{len(self.done)} of {len(self.runs)} runs are recorded and the time given is used up; "
                            "the same command continues from here"
                        )
                        return OUT_OF_TIME
                    self._start(waiting, running, pool)
                    finished, _ = wait(running, timeout=self._display.interval, return_when=FIRST_COMPLETED)
                    for future in finished:
                        run = running.pop(future)
                        self._finish(run, future.result())
                    self._display.show(self._status(waiting, list(running.values())))
            except KeyboardInterrupt:
                self.processes.stop()
                self._display.message("stopping; the same command continues from here")
                return 130
        self._display.clear()
        for name, reason in self.failed.items():
            self._display.message(f"no result: {name}: {reason}")
        return 1 if self.failed else 0

    def _is_over(self, begin: float) -> bool:
        hours = self.options.hours
        return hours is not None and time.monotonic() - begin >= hours * 3600

    def _in_order(self) -> list[Run]:
        """The runs, the most informative first where there may not be time for all."""
        if self.options.hours is None:
            return self.runs
        known, stale = known_results(self.suite, self.root, read_records(self.records), self.archive)
        current = {key: record for key, record in known.items() if key not in stale}
        with self._display.output:
            summary = summarise(self.suite, current, self.root, REPLICATES)
        seconds = {entry: statistics.mean(spent) for entry, spent in self.spent.items()}
        return informative_order(self.runs, summary, seconds, lambda run: run.name in self.done)

    def _read_state(self) -> None:
        """Find the runs that are recorded, and those that were trained with another config."""
        recorded = read_records(self.records)
        archived = self._archived_runs(recorded)
        for run in self.runs:
            if run.name in archived:
                self.done.add(run.name)
                self.archived.add(run.name)
                self._remember_time(run)
                continue
            blocked = [need.name for need in run.needs.values() if need.name in self.failed]
            changed = changed_training(run, self.identities[run.name])
            if changed and self.options.rerun_changed:
                self.outdated.add(run.name)
            elif changed:
                self.failed[run.name] = changed
            elif blocked:
                self.failed[run.name] = f"it needs {', '.join(blocked)}"
            # Students of a teacher that is trained again are checked after that.
            elif self._needs_are_done(run) and is_recorded(run, self.identities[run.name], recorded):
                self.done.add(run.name)
                self._remember_time(run)

    def _archived_runs(self, recorded: Mapping[Key, Record]) -> set[str]:
        """Runs that need not be trained: their results are archived, and no run that is to be trained needs them."""
        found: set[str] = set()
        needed: set[str] = set()
        for run in reversed(self.runs):
            own = self.identities[run.name]
            if is_recorded(run, own, recorded):
                continue
            if run.name not in needed and self._is_archived(run):
                found.add(run.name)
            else:
                needed.update(need.name for need in run.needs.values())
        return found

    def _is_archived(self, run: Run) -> bool:
        if run.entry.networks:
            return is_archived(run, self.identities[run.name], self.archive)
        # It has no result: those that need it have theirs.
        return any(run.name == need.name for other in self.runs for need in other.needs.values())

    def _needs_are_done(self, run: Run) -> bool:
        return all(need.name in self.done for need in run.needs.values())

    def _start(self, waiting: list[Run], running: dict[Future, Run], pool: ThreadPoolExecutor) -> None:
        """Start as many waiting runs as there are free jobs; runs whose needs failed fail too."""
        for run in list(waiting):
            lost = [need.name for need in run.needs.values() if need.name in self.failed]
            if lost:
                waiting.remove(run)
                self.failed[run.name] = f"it needs {', '.join(lost)}"
        free = self.options.jobs - len(running)
        ready = [run for run in waiting if self._needs_are_done(run)] if free > 0 else []
        # Runs that another process works on come last.
        for run in sorted(ready, key=lambda run: is_locked(run.folder))[: max(free, 0)]:
            waiting.remove(run)
            running[pool.submit(self._work, run)] = run

    def _work(self, run: Run) -> Outcome:
        """Execute a run under its folder's lock."""
        try:
            with locked(run.folder, stopped=lambda: self.processes.stopped) as lock:
                return self._work_locked(run, lock)
        except KeyboardInterrupt:
            return Outcome("stopped")
        except Exception as error:  # the other runs continue
            return Outcome(_text_of(error))

    def _work_locked(self, run: Run, lock: int) -> Outcome:
        # The state is read again: another process may have worked in the folder meanwhile.
        own = self.identities[run.name]
        changed = changed_training(run, own)
        if changed and not self.options.rerun_changed:
            return Outcome(changed)
        if changed:
            self._display.message(f"{run.name}: {changed}; the old run is moved to {runs.set_aside(run)}")
        else:
            recorded = read_records(self.records)
            if is_recorded(run, own, recorded):
                return Outcome()
            if outdated := outdated_record(run, own, recorded):
                self._display.message(f"{run.name}: {outdated}; evaluated again")
        self.outdated.discard(run.name)
        try:
            error = self._detect(run) or self._train(run, lock) or self._evaluate(run, lock)
        except Exception as unexpected:  # recorded like any other failure
            error = _text_of(unexpected)
        if error is not None and self.processes.stopped:
            return Outcome("stopped")
        return self._record(run, error)

    def _detect(self, run: Run) -> str | None:
        """Write the detections that a run which is not trained yet needs; returns an error message, or None."""
        if run.is_trained():
            return None
        for detecting in run.detections_needed.values():
            # Another run that needs the same waits, and finds them.
            with locked(detecting.run.folder, stopped=lambda: self.processes.stopped) as lock:
                if detecting.file.is_file():
                    continue
                fresh = detecting.prepare()
                failed = self._replace(detecting.file, fresh, detecting.command(), detecting.log, lock)
                if failed:
                    return f"detecting {failed}"
        return None

    def _replace(self, file: Path, fresh: Path, command: list[str], log: Path, lock: int) -> str | None:
        """Run a command that writes ``fresh``, which takes the place of a file; returns what went wrong, or None."""
        fresh.unlink(missing_ok=True)
        start = _size(log)
        code = self.processes.run(command, log, lock)
        if code != 0 or not fresh.is_file():
            return f"ended with exit code {code}: {last_error(log, start)}"
        fresh.replace(file)
        return None

    def _train(self, run: Run, lock: int) -> str | None:
        """Train a run that is not trained yet; returns an error message, or None."""
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
            names = [network.name for network in run.entry.networks] or [""]
            return f"training ended without {run.checkpoint(names[-1])}"
        return None

    def _evaluate(self, run: Run, lock: int) -> str | None:
        """Evaluate every network; returns an error message, or None. Old detections stay until there are new ones."""
        begin = time.monotonic()
        log = run.folder / TEST_LOG
        for network in run.entry.networks:
            fresh = runs.prepare_evaluation(run, network)
            command = runs.test_command(run, network)
            failed = self._replace(runs.detections(run, network), fresh, command, log, lock)
            if failed:
                return f"evaluation {failed}"
        self.evaluations.append(time.monotonic() - begin)
        return None

    def _record(self, run: Run, error: str | None) -> Outcome:
        """Append the records of a run's networks, or of its failure."""
        own = self.identities[run.name]
        digests = {network.name: runs.result_digest(run, network, own) for network in run.entry.networks}
        with self._display.output:
            try:
                records = make_records(run, digests, error)
            except Exception as unreadable:  # the other runs continue
                error = _text_of(unreadable)
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
                self._display.message(f"FAILED {run.name}: {outcome.error} ({run.folder / log})")
            return
        self.done.add(run.name)
        self._remember_time(run)
        for record in outcome.records:
            self._display.message(
                f"{record.row} seed {record.seed}: mAP {record.metrics['mAP']:.4f}, AP50 {record.metrics['AP50']:.4f}, "
                f"trained in {clock(record.seconds)}"
            )

    def _remember_time(self, run: Run) -> None:
        seconds = training_seconds(run.folder)
        if run.name in self.archived and run.entry.networks:
            seconds = self.archive[Key(run.entry.networks[0].row, run.seed)].seconds
        if seconds is not None:
            self.spent.setdefault(run.entry.name, []).append(seconds)

    def _status(self, waiting: list[Run], running: list[Run]) -> str:
        """One line: finished runs, progress of the running ones, estimated time left."""
        parts: list[str] = []
        left: list[tuple[str, float | None]] = []
        for run in running:
            # Before its own training begins, its log is an earlier training's or another process's.
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
            # Every unfinished run is still to be evaluated.
            total += statistics.mean(self.evaluations) * (len(waiting) + len(running)) / self.options.jobs
        count = f"[{len(self.done)}/{len(self.runs)}]"
        return f"{count} {' | '.join(parts)} | suite: {clock(total)} left"


def _text_of(error: Exception) -> str:
    """Message of an error, with its type unless it is one of this package's."""
    return str(error) if isinstance(error, LadError) else f"{type(error).__name__}: {error}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
