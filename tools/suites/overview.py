"""One table of the claims of several suites, and its place in a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from itertools import zip_longest
from pathlib import Path

from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError
from suites.records import Key
from suites.report import STALE, by_reason, compared_rows, interval_text, marked, rows_of, table_line
from suites.results import MISSING, Comparison, JudgedClaim, Summary

HEADER = ("claim", "suite", "verdict", "difference of mAP", "seeds")
#: Lines between which the table stands in a page.
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"


def claims_table(summaries: Sequence[Summary], stale: Sequence[Mapping[Key, str]] = ()) -> str:
    """The claims of suites of which something is measured, as a Markdown table.

    Statements that do not decide are left out.

    Args:
        summaries: Of the suites.
        stale: For each of them, results that it would not measure any more, with the reason. Verdicts that rest on such
            are marked, and the reasons stand below the table.
    """
    lines = [table_line(HEADER), table_line(["---"] * len(HEADER))]
    notes = []
    for summary, own in zip_longest(summaries, stale, fillvalue={}):
        if any(row.records for row in summary.rows):
            lines += [line for claim in summary.claims for line in _lines(claim, summary, rows_of(own))]
            notes += [
                f"{STALE} `{summary.suite.name}`, {reason}: {names}."
                for reason, names in by_reason(own).items()
            ]
    return "\n\n".join(["\n".join(lines), *notes])


def write_into(page: Path, table: str) -> None:
    """Replace what stands between the page's two marking lines.

    Raises:
        ConfigError: the page is missing, or has not exactly one pair of the lines.
    """
    text = page.read_text() if page.is_file() else ""
    new, found = re.subn(
        f"{re.escape(BEGIN)}\n.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{table}\n{END}",
        text,
        flags=re.DOTALL,
    )
    if found != 1:
        raise ConfigError(
            f"{page}: the table is written between the lines '{BEGIN}' and '{END}'; add them once."
        )
    write_whole(page, new.encode())


def _lines(claim: JudgedClaim, summary: Summary, old: Set[str]) -> list[str]:
    deciding = [one for one in claim.judgements if one.statement.decides]
    suite = f"`{summary.suite.name}`"
    verdict = marked(claim.verdict, compared_rows(deciding) & old)
    if len(deciding) == 1:
        compared = deciding[0].comparison
        return [
            table_line([claim.claim.text, suite, verdict, interval_text(compared.interval), _seeds(compared)])
        ]
    titles = {row: network.title for row, network in summary.suite.networks.items()}
    lines = [table_line([claim.claim.text, suite, verdict, "", ""])]
    for one in deciding:
        text = f"&nbsp; {titles[one.statement.better]} better than {titles[one.statement.than]}"
        compared = one.comparison
        verdict = marked(compared.verdict, compared_rows([one]) & old)
        lines.append(table_line([text, "", verdict, interval_text(compared.interval), _seeds(compared)]))
    return lines


def _seeds(compared: Comparison) -> str:
    if compared.interval is None:
        return MISSING
    return (
        str(compared.measured)
        if compared.measured == compared.planned
        else f"{compared.measured} of {compared.planned}"
    )
