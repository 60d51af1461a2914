"""A suite's results as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lad.benchmark.plots import draw_differences, draw_map
from lad.benchmark.progress import clock
from lad.benchmark.records import Key
from lad.benchmark.results import INCOMPLETE, MISSING, Judgement, Row, Summary
from lad.evaluation.bootstrap import Interval

HEADER = ("detector", "mAP", "AP50", "AP75", "seeds", "difference to its baseline", "parameters", "training")
STALE = "†"
PICTURES = (
    ("map", "mAP of each detector with its seeds and its interval", draw_map),
    ("differences", "Difference of each detector to its baseline with its interval", draw_differences),
)


def write_report(summary: Summary, file: Path, command: str, stale: Collection[Key] = ()) -> list[Path]:
    """Write the report and its pictures, which lie beside it; returns all files.

    Args:
        summary: What to report.
        file: The Markdown file; the pictures are ``STEM_map.png`` and ``STEM_differences.png``.
        command: That made it, for the reader.
        stale: Results whose config is another one now.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, text, draw in PICTURES:
        picture = file.with_name(f"{file.stem}_{name}.png")
        if draw(summary, picture):
            pictures[text] = picture
        else:
            picture.unlink(missing_ok=True)  # of an earlier report
    names = {text: picture.name for text, picture in pictures.items()}
    file.write_text(markdown(summary, command, names, stale))
    return [file, *pictures.values()]


def markdown(
    summary: Summary, command: str, pictures: Mapping[str, str] | None = None, stale: Collection[Key] = ()
) -> str:
    """The report's text; ``pictures`` are file names by what they show."""
    old = {key.row for key in stale}
    parts = [f"# {summary.suite.title}", f"`{command}`", _table(summary, old)]
    if summary.claims:
        parts.append(_claims(summary, old))
    if stale:
        names = ", ".join(f"{key.row} seed {key.seed}" for key in stale)
        parts.append(f"{STALE} Measured with another config, or teacher, than the suite has now: {names}.")
    parts += [f"![{text}]({name})" for text, name in (pictures or {}).items()]
    if summary.failed:
        lines = [f"- {record.row}, seed {record.seed}: {record.error}" for record in summary.failed]
        parts.append("\n".join(["Failed:", "", *lines]))
    if summary.gone:
        lines = [f"- {key.row}, seed {key.seed}: {reason}" for key, reason in summary.gone.items()]
        parts.append("\n".join(["Recorded, but missing here (`run` evaluates again):", "", *lines]))
    parts.append(_notes(summary))
    return "\n\n".join(parts) + "\n"


def _table(summary: Summary, old: Collection[str]) -> str:
    titles = _titles(summary)
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    for row in summary.rows:
        seeds = len(row.records) + len(row.missing)
        count = str(seeds) if not row.missing else f"{len(row.records)} of {seeds}"
        lines.append(
            _line(
                [
                    _marked(row.network.title, {row.network.row} & set(old)),
                    _mean(row),
                    _number(row.mean("AP50")),
                    _number(row.mean("AP75")),
                    count,
                    _marked(_difference(row, titles), {row.network.row, row.network.baseline} & set(old)),
                    _parameters(row),
                    _time(row),
                ]
            )
        )
    return "\n".join(lines)


def _claims(summary: Summary, old: Collection[str]) -> str:
    titles = _titles(summary)
    lines = [_line(["claim", "verdict", "difference of mAP"]), _line(["---"] * 3)]
    for judged in summary.claims:
        deciding = [judgement for judgement in judged.judgements if judgement.statement.decides]
        verdict = _marked(judged.verdict, _rows(deciding) & set(old))
        if len(judged.judgements) == 1:
            lines.append(_line([judged.claim.text, verdict, interval_text(judged.judgements[0].interval)]))
            continue
        lines.append(_line([judged.claim.text, verdict, ""]))
        for judgement in judged.judgements:
            statement = judgement.statement
            between = "better than" if statement.decides else "minus"
            text = f"&nbsp; {titles[statement.better]} {between} {titles[statement.than]}"
            verdict = _marked(judgement.verdict or "for information", _rows([judgement]) & set(old))
            lines.append(_line([text, verdict, interval_text(judgement.interval)]))
    return "\n".join(lines)


def _titles(summary: Summary) -> dict[str, str]:
    return {row: network.title for row, network in summary.suite.networks.items()}


def _rows(judgements: Sequence[Judgement]) -> set[str]:
    return {row for one in judgements for row in (one.statement.better, one.statement.than)}


def _marked(text: str, old: Collection[str]) -> str:
    return f"{text} {STALE}" if old and text else text


def _notes(summary: Summary) -> str:
    notes = [
        f"mAP: mean ± sample standard deviation over seeds. Differences: 95 % paired bootstrap interval over the "
        f"{summary.images} images and the seeds, {summary.replicates:,} replicates. A claim holds where the "
        "interval is above zero, is refuted where it is below, and is not decided otherwise or with one seed alone.",
    ]
    made_with = sorted(
        {
            ", ".join(f"{name} {version}" for name, version in record.versions.items())
            for row in summary.rows
            for record in row.records.values()
        }
    )
    if made_with:
        notes.append(f"Made with {'; '.join(made_with)}.")
    return "\n\n".join(notes)


def interval_text(interval: Interval | None) -> str:
    """``+0.012 [+0.003, +0.021]``."""
    if interval is None:
        return MISSING
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _mean(row: Row) -> str:
    if row.interval is None:
        return MISSING
    deviation = "" if row.deviation is None else f" ± {row.deviation:.3f}"
    return f"{row.interval.value:.3f}{deviation}"


def _difference(row: Row, titles: dict[str, str]) -> str:
    if row.network.baseline is None:
        return ""
    if row.difference is None:
        return MISSING
    pairs = f", {row.difference.seeds} of {row.planned} seeds" if row.verdict.startswith(INCOMPLETE) else ""
    return f"{interval_text(row.difference)} to {titles[row.network.baseline]}{pairs}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _parameters(row: Row) -> str:
    known = [record.parameters for record in row.records.values() if record.parameters is not None]
    return f"{known[0] / 1e6:.2f} M" if known else MISSING


def _time(row: Row) -> str:
    known = [record.seconds for record in row.records.values() if record.seconds is not None]
    return f"{clock(sum(known) / len(known))} min" if known else MISSING


def _line(cells: Sequence[str]) -> str:
    # A bar would end the cell.
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
