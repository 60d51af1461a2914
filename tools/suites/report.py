"""Write the results of a suite as a Markdown report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from lad.base.status import clock
from lad.evaluation.bootstrap import Interval
from suites.plots import STALE, draw_differences, draw_map, marked
from suites.records import Key
from suites.results import INCOMPLETE, MISSING, Comparison, Judgement, Row, Summary

#: Sizes of a difference for which the number of seeds is reported.
SIZES = (0.01, 0.02)
SEEDS_NEEDED = f"seeds for {' / '.join(f'{size:g}' for size in SIZES)}"
HEADER = (
    "detector",
    "mAP",
    "AP50",
    "AP75",
    "seeds",
    "difference to its baseline",
    SEEDS_NEEDED,
    "parameters",
    "training (wall clock)",
)
#: Metrics of suites whose evaluator has `frequencies`, and behind how many columns they stand.
FREQUENCIES = ("AP_rare", "AP_common", "AP_frequent")
BEHIND = 4
PICTURES = (
    ("map", "mAP of each detector with its seeds and its interval", draw_map),
    ("differences", "Difference of each detector to its baseline with its interval", draw_differences),
)


def write_report(
    summary: Summary, file: Path, command: str, stale: Mapping[Key, str] | None = None
) -> list[Path]:
    """Write the report and its pictures, which lie beside it; returns all files.

    Args:
        summary: What to report.
        file: The Markdown file; the pictures are ``STEM_map.png`` and ``STEM_differences.png``.
        command: That made it, for the reader.
        stale: Results that the suite would not measure any more, and why.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures, old = {}, rows_of(stale)
    for name, text, draw in PICTURES:
        picture = file.with_name(f"{file.stem}_{name}.png")
        if draw(summary, picture, old):
            pictures[text] = picture
        else:
            picture.unlink(missing_ok=True)  # of an earlier report
    names = {text: picture.name for text, picture in pictures.items()}
    file.write_text(markdown(summary, command, names, stale))
    return [file, *pictures.values()]


def markdown(
    summary: Summary,
    command: str,
    pictures: Mapping[str, str] | None = None,
    stale: Mapping[Key, str] | None = None,
) -> str:
    """The report's text; ``pictures`` are file names by what they show."""
    old = rows_of(stale)
    parts = [f"# {summary.suite.title}", f"`{command}`", _table(summary, old)]
    if summary.claims:
        parts.append(_claims(summary, old))
    parts += [f"{STALE} {reason}: {names}." for reason, names in by_reason(stale or {}).items()]
    parts += [f"![{text}]({name})" for text, name in (pictures or {}).items()]
    if summary.failed:
        lines = [f"- {record.row}, seed {record.seed}: {record.error}" for record in summary.failed]
        parts.append("\n".join(["Failed:", "", *lines]))
    if summary.gone:
        lines = [f"- {key.row}, seed {key.seed}: {reason}" for key, reason in summary.gone.items()]
        parts.append("\n".join(["Recorded, but gone or changed here (`run` evaluates again):", "", *lines]))
    parts.append(_notes(summary))
    return "\n\n".join(parts) + "\n"


def _table(summary: Summary, old: Set[str]) -> str:
    titles = _titles(summary)
    more = [metric for metric in FREQUENCIES if any(row.mean(metric) is not None for row in summary.rows)]
    header = [*HEADER[:BEHIND], *more, *HEADER[BEHIND:]]
    lines = [table_line(header), table_line(["---"] * len(header))]
    for row in summary.rows:
        seeds = len(row.records) + len(row.missing)
        count = str(seeds) if not row.missing else f"{len(row.records)} of {seeds}"
        lines.append(
            table_line(
                [
                    marked(row.network.title, {row.network.row} & old),
                    _mean(row),
                    _number(row.mean("AP50")),
                    _number(row.mean("AP75")),
                    *(_number(row.mean(metric)) for metric in more),
                    count,
                    marked(_difference(row, titles), {row.network.row, row.network.baseline} & old),
                    _seeds_needed(row.comparison),
                    _parameters(row),
                    _time(row),
                ]
            )
        )
    return "\n".join(lines)


def _claims(summary: Summary, old: Set[str]) -> str:
    titles = _titles(summary)
    lines = [table_line(["claim", "verdict", "difference of mAP", SEEDS_NEEDED]), table_line(["---"] * 4)]
    for judged in summary.claims:
        deciding = [judgement for judgement in judged.judgements if judgement.statement.decides]
        verdict = marked(judged.verdict, compared_rows(deciding) & old)
        if len(judged.judgements) == 1:
            only = judged.judgements[0]
            cells = [judged.claim.text, verdict, interval_text(only.interval), _seeds_needed(only.comparison)]
            lines.append(table_line(cells))
            continue
        lines.append(table_line([judged.claim.text, verdict, "", ""]))
        for judgement in judged.judgements:
            statement = judgement.statement
            between = "better than" if statement.decides else "minus"
            text = f"&nbsp; {titles[statement.better]} {between} {titles[statement.than]}"
            verdict = marked(judgement.verdict or "for information", compared_rows([judgement]) & old)
            needed = _seeds_needed(judgement.comparison)
            lines.append(table_line([text, verdict, interval_text(judgement.interval), needed]))
    return "\n".join(lines)


def _titles(summary: Summary) -> dict[str, str]:
    return {row: network.title for row, network in summary.suite.networks.items()}


def compared_rows(judgements: Sequence[Judgement]) -> set[str]:
    return {row for one in judgements for row in (one.statement.better, one.statement.than)}


def rows_of(stale: Mapping[Key, str] | None) -> set[str]:
    return {key.row for key in stale or {}}


def by_reason(texts: Mapping[Key, str]) -> dict[str, str]:
    """Name some results: ``a seed 0, 1; b seed 0``."""
    seeds = defaultdict(lambda: defaultdict(list))
    for key, text in texts.items():
        seeds[text][key.row].append(key.seed)
    return {
        text: "; ".join(f"{row} seed {', '.join(map(str, sorted(own)))}" for row, own in by_row.items())
        for text, by_row in seeds.items()
    }


def _notes(summary: Summary) -> str:
    notes = [
        f"mAP: mean ± sample standard deviation over seeds. Differences: 95 % interval, of a paired bootstrap over the "
        f"{summary.images} images ({summary.replicates:,} replicates) with a Student-t term for the seeds. A claim "
        "holds where the interval is above zero, is refuted where it is below, and is not decided otherwise. With one "
        "seed the interval tells of other images alone, and decides nothing. Training times are wall clock, whatever "
        "else the machine did.",
        f"{SEEDS_NEEDED.capitalize()}: the number of paired seeds with which a true difference of that "
        "size is found with a probability of 80 %, from the scatter recorded so far; '-' where no number of seeds is "
        "enough for so few images.",
    ]
    made_with = by_reason(
        {
            record.key: "; then ".join(record.trained_with or ["unknown"])
            for row in summary.rows
            for record in row.records.values()
        }
    )
    if len(made_with) == 1:
        notes.append(f"Trained with: {next(iter(made_with))}.")
    elif made_with:
        lines = [f"- {text}: {names}." for text, names in made_with.items()]
        notes.append("\n".join(["Trained with different versions:", "", *lines]))
    return "\n\n".join(notes)


def interval_text(interval: Interval | None) -> str:
    """``+0.012 [+0.003, +0.021]``; what it does not tell of is beside it."""
    if interval is None:
        return MISSING
    alone = " (one seed: images alone)" if interval.seeds == 1 else ""
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]{alone}"


def _mean(row: Row) -> str:
    if row.interval is None:
        return MISSING
    deviation = "" if row.deviation is None else f" ± {row.deviation:.3f}"
    return f"{row.interval.value:.3f}{deviation}"


def _difference(row: Row, titles: dict[str, str]) -> str:
    compared = row.comparison
    if compared is None:
        return ""
    if compared.interval is None:
        return MISSING
    text = f"{interval_text(compared.interval)} to {titles[row.network.baseline]}"
    if compared.verdict.startswith(INCOMPLETE):
        text += f", {compared.measured} of {compared.planned} seeds"
    return text


def _seeds_needed(compared: Comparison | None) -> str:
    """``about 12 / 5``: seeds that differences of these sizes need; empty where the scatter is not known."""
    if compared is None or not compared.scatter_is_known:
        return ""
    needed = [compared.seeds_needed(size) for size in SIZES]
    return f"about {' / '.join('-' if seeds is None else str(seeds) for seeds in needed)}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _parameters(row: Row) -> str:
    known = [record.parameters for record in row.records.values() if record.parameters is not None]
    return f"{known[0] / 1e6:.2f} M" if known else MISSING


def _time(row: Row) -> str:
    known = [record.seconds for record in row.records.values() if record.seconds is not None]
    return f"{clock(sum(known) / len(known))} min" if known else MISSING


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    # A bar would end the cell.
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
