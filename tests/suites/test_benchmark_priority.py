"""Where the time is short, the runs that decide most come first."""

from suites.plan import Options, plan
from suites.priority import informative_order
from suites.results import summarise

import pytest
from benchmark_runs import FakeSuite
from test_benchmark_report import record


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Four seeds; the student is compared with its teacher too."""
    fake = FakeSuite(tmp_path, monkeypatch)
    with fake.edited() as content:
        content["seeds"] = [0, 1, 2, 3]
        content["entries"]["teacher"]["seeds"] = [0, 1, 2, 3]
        content["entries"]["student"]["baseline"] = "teacher"
    return fake


def order(fake, *measured, seconds=None):
    """Names of the runs that are left, in order; ``measured``: row, seed, pixels off."""
    records = [record(fake, *one) for one in measured]
    summary = summarise(fake.suite, {one.key: one for one in records}, fake.root, replicates=50)
    done = {f"{row}/seed_{seed}" for row, seed, _ in measured}
    runs = plan(fake.suite, fake.root, Options())
    return [run.name for run in informative_order(runs, summary, seconds or {}, lambda run: run.name in done)]


def test_without_results_pairs_are_completed_seed_by_seed_after_what_they_need(fake):
    names = order(fake)
    assert sorted(names) == sorted(run.name for run in plan(fake.suite, fake.root, Options()))
    assert names.index("teacher/seed_0") < names.index("lad/seed_0")
    # The cheapest pair first: student and teacher; then LAD needs one run alone.
    assert set(names[:3]) == {"teacher/seed_0", "student/seed_0", "lad/seed_0"}


def test_undecided_comparisons_come_before_decided_ones(fake):
    # LAD is far better than the student with both seeds; the student and the teacher are equal within their scatter.
    measured = [
        *(("lad", seed, 2 + seed / 10) for seed in (0, 1)),
        *(("student", seed, shift) for seed, shift in ((0, 20), (1, 25))),
        *(("teacher", seed, shift) for seed, shift in ((0, 25), (1, 20))),
    ]
    names = order(fake, *measured)
    assert set(names[:4]) == {"student/seed_2", "teacher/seed_2", "student/seed_3", "teacher/seed_3"}
    assert names[4:] == ["lad/seed_2", "lad/seed_3"]


def test_a_pair_of_which_one_is_there_is_cheaper(fake):
    names = order(fake, ("teacher", 3, 0), ("student", 3, 20))
    assert names[0] == "teacher/seed_0" or names[0] == "lad/seed_3"
    assert order(fake, ("teacher", 2, 0))[0] == "student/seed_2"


def test_an_entry_that_takes_long_comes_later(fake):
    measured = [(row, 0, 20) for row in ("teacher", "student", "lad")]
    slow = order(fake, *measured, seconds=dict(teacher=1, student=1, lad=1000))
    assert set(slow[:2]) == {"teacher/seed_1", "student/seed_1"}
    quick = order(fake, *measured, seconds=dict(teacher=1000, student=1, lad=1))
    assert set(quick[:2]) == {"student/seed_1", "lad/seed_1"}
