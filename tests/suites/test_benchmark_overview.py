"""One table has the claims of all suites, and the page's table is that of the archived results."""

from lad.errors import ConfigError
from suites import overview
from suites.archive import read_archive
from suites.records import Key
from suites.results import summarise
from suites.suite_file import ARCHIVES, load_suite

import pytest
from benchmark_runs import FakeSuite
from helpers import ROOT
from test_benchmark_report import record, with_claims

SUITES = ROOT / "configs" / "benchmarks"
ARCHIVED = sorted((SUITES / ARCHIVES).glob("*.jsonl"))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSuite(tmp_path, monkeypatch)


def table(fake, *measured):
    records = [record(fake, *one) for one in measured]
    return overview.claims_table([summarise(fake.suite, {one.key: one for one in records}, fake.root, 100)])


def test_a_claim_has_its_verdict_difference_and_seeds(fake):
    text = table(
        fake, *((row, seed, shift) for row, shift in dict(lad=6, student=20).items() for seed in (0, 1))
    )
    assert "| LAD helps | `fake` | holds | +0.4" in text
    assert text.endswith("| 2 |")


def test_what_is_measured_in_part_says_so_and_an_empty_suite_is_left_out(fake):
    assert "| LAD helps | `fake` | incomplete (1 of 2 seeds) |" in table(
        fake, ("lad", 0, 6), ("student", 0, 20)
    )
    assert table(fake, ("lad", 0, 6)).endswith("| LAD helps | `fake` | missing | missing | missing |")
    assert len(table(fake).splitlines()) == 2


def test_each_statement_that_decides_has_a_line(fake):
    with_claims(
        fake,
        [
            dict(better="lad", than="student"),
            dict(better="teacher", than="lad"),
            dict(better="teacher", than="student", decides=False),
        ],
    )
    text = table(fake, ("lad", 0, 6), ("student", 0, 20), ("teacher", 0, 0))
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
        "| both",
        "| &nbsp; Student with LAD better than Student",
        "| &nbsp; Teacher better than Student with LAD",
    ]


def test_verdicts_that_rest_on_what_would_not_be_measured_any_more_are_marked(fake):
    records = [
        record(fake, row, seed, shift) for row, shift in dict(lad=6, student=20).items() for seed in (0, 1)
    ]
    summary = summarise(fake.suite, {one.key: one for one in records}, fake.root, 100)
    stale = {
        Key("student", 0): "measured with another config",
        Key("student", 1): "measured with another config",
    }
    text = overview.claims_table([summary], [stale])
    assert "| LAD helps | `fake` | holds † |" in text
    assert text.endswith("\n\n† `fake`, measured with another config: student seed 0, 1.")
    assert "†" not in overview.claims_table([summary], [{}])


def test_a_table_is_written_between_the_pages_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Before\n{overview.BEGIN}\nold\n{overview.END}\nafter\n")
    overview.write_into(page, r"| new \1 |")
    assert page.read_text() == f"Before\n{overview.BEGIN}\n| new \\1 |\n{overview.END}\nafter\n"


@pytest.mark.parametrize("text", [None, "no marks", f"{overview.END}\n{overview.BEGIN}"])
def test_a_page_without_the_marks_is_left_as_it_is(tmp_path, text):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(ConfigError, match="the table is written between the lines"):
        overview.write_into(page, "| new |")
    assert (page.read_text() if page.is_file() else None) == text


def test_the_page_of_results_has_the_table_of_the_archived_results(tmp_path):
    # `python tools/benchmark.py claims --out docs/results.md` writes it. All archives: what is stale is the report's.
    suites = [load_suite(SUITES / f"{file.stem}.yaml") for file in ARCHIVED]
    summaries = [summarise(suite, read_archive(suite.archive), tmp_path) for suite in suites]
    text = (ROOT / "docs" / "results.md").read_text()
    assert f"{overview.BEGIN}\n{overview.claims_table(summaries)}\n{overview.END}" in text
