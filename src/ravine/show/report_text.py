"""The report's words and tables; every value that comes from data or settings is escaped."""

from collections.abc import Mapping
from typing import Any

from .ensemble import how_made
from .metric import Metric, count, duration, interval_of, interval_text, metric_named, significant
from .page import caption_block, escape
from .run import Run

_PARTS = ("train", "validation", "test")


def header(run: Run) -> str:
    """What was trained on what, the score beside the baseline, and the story in one sentence."""
    return (
        f"<header><p class='facts'>{_facts(run)}</p><h1>{escape(run.name)}</h1>"
        f"{_headline(run)}<p class='story'>{_story(run)}</p></header>{_banner(run)}"
    )


def noticed(run: Run) -> str:
    """What was noticed in training, warnings first."""
    notices = [note for note in run.result.get("noticed") or [] if isinstance(note, dict)]
    if not notices:
        return ""
    notices.sort(key=lambda note: note.get("level") != "warning")
    lines = "".join(
        f"<li class='warning'><b>Warning</b><span>{escape(note.get('text', ''))}</span></li>"
        if note.get("level") == "warning"
        else f"<li><b>Noticed</b><span>{escape(note.get('text', ''))}</span></li>"
        for note in notices
    )
    return f"<section><h2>What was noticed</h2><ul class='noticed'>{lines}</ul></section>"


def scores(run: Run) -> str:
    """A table of every metric on every part, with 95 % intervals, beside the baseline."""
    tables = {part: run.result.get(part) or {} for part in (*_PARTS, "baseline")}
    names = list(
        dict.fromkeys(name for table in tables.values() for name in table if not name.endswith("_interval"))
    )
    shown = [part for part, table in tables.items() if table]
    if not names or not shown:
        return ""
    head = "".join(f"<th>{escape('training' if part == 'train' else part)}</th>" for part in shown)
    rows = "".join(
        f"<tr><th>{escape(metric_named(name).title)}</th>"
        + "".join(f"<td>{_cell(metric_named(name), tables[part])}</td>" for part in shown)
        + "</tr>"
        for name in names
    )
    guess = escape(run.headline.guess)
    return (
        f"<figure class='card text wide'>{caption_block('Scores', f'With 95% intervals. Baseline: {guess}.')}"
        f"<div class='scroll'><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></figure>"
    )


def sample(run: Run) -> str:
    """What a language model wrote."""
    text = run.result.get("sample")
    if not text:
        return ""
    return (
        "<section><h2>What it writes</h2><div class='grid'><figure class='card text wide'>"
        f"<pre>{escape(text)}</pre></figure></div></section>"
    )


def recipe(run: Run) -> str:
    """The recipe, folded, with a button that copies it."""
    if not run.recipe_text:
        return ""
    return (
        "<section><h2>To do it again</h2><p class='lead'>The recipe holds every setting: save it as a file "
        "and give it to <code>ravine train --recipe</code>.</p><details><summary>Recipe</summary>"
        "<button class='copy' type='button' data-of='recipe'>Copy</button>"
        f"<pre id='recipe'>{escape(run.recipe_text)}</pre></details></section>"
    )


def environment(run: Run) -> str:
    """Versions, machine and command, folded; and where the run is."""
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in _flat(run.environment)
    )
    table = (
        f"<details><summary>Environment</summary><table class='environment'>{rows}</table></details>"
        if rows
        else ""
    )
    return f"{table}<footer>Drawn by Ravine from the run folder {escape(run.folder.resolve())}</footer>"


def _facts(run: Run) -> str:
    result = run.result
    facts = [f"{result.get('kind') or run.preprocessing.get('kind') or ''} {run.task}".strip()]
    if result.get("classes") and run.task == "classification":
        facts.append(f"{len(run.classes)} classes")
    model = result.get("model") or run.recipe.get("model", {}).get("name")
    if model:
        size = f", {count(result['parameters'])} parameters" if "parameters" in result else ""
        facts.append(f"{model}{size}")
    items = result.get("items") or {}
    sizes = [
        f"{items[part]:,} {'training' if part == 'train' else part}" for part in _PARTS if items.get(part)
    ]
    if sizes:
        facts.append(f"{' + '.join(sizes)} {'characters' if run.task == 'language' else 'items'}")
    return escape(" · ".join(facts))


def _story(run: Run) -> str:
    result = run.result
    if not run.finished:
        return ""
    if "ensemble" in result:
        return escape(how_made(run))
    epochs, best = result.get("epochs"), result.get("best_epoch")
    story = f"Trained {epochs} epoch{'' if epochs == 1 else 's'}"
    if result.get("steps"):
        story += f" ({result['steps']:,} steps)"
    if result.get("seconds") is not None:
        story += f" in {duration(result['seconds'])}"
    device = run.environment.get("device")
    if isinstance(device, str):
        story += f" on {device}"
    story += "."
    if best is not None:
        story += f" Best at epoch {best}, whose weights were kept."
    if result.get("stopped"):
        story += f" Stopped: {result['stopped']}."
    return escape(story)


def _banner(run: Run) -> str:
    if run.finished:
        return ""
    seen = len(run.rows)
    drawn = (
        f"Drawn from its {seen} evaluation{'' if seen == 1 else 's'} so far"
        if seen
        else "Nothing was measured yet"
    )
    return (
        f"<p class='banner'><b>This run has not finished.</b> {drawn}; "
        f"final scores and predictions are missing. "
        f"Go on with <code>ravine train --resume {escape(run.folder)}</code>.</p>"
    )


def _headline(run: Run) -> str:
    """The score in large figures, its interval and the baseline on a ruler."""
    metric = run.headline
    part = next(
        (
            part
            for part in ("test", "validation")
            if (run.result.get(part) or {}).get(metric.name) is not None
        ),
        "",
    )
    if part:
        table = run.result[part]
        value, ends = float(table[metric.name]), interval_of(table, metric.name)
        title = f"{part} {metric.title}"
    else:
        best = run.best_row
        so_far = None if best is None else run.rows[best].get(f"validation.{metric.name}")
        if so_far is None:
            return ""
        value, ends, title = float(so_far), None, f"validation {metric.title} so far"
    interval = f"95% interval {interval_text(metric, ends)}" if ends else ""
    baseline = (run.result.get("baseline") or {}).get(metric.name)
    return (
        f"<div class='headline'><div><p class='score'>{escape(metric.text(value))}</p>"
        f"<p class='score-name'>{escape(title)}<br><span class='quiet'>{escape(interval)}</span></p></div>"
        f"{_ruler(metric, value, ends, baseline)}</div>"
    )


def _ruler(metric: Metric, value: float, ends: tuple[float, float] | None, baseline: float | None) -> str:
    """A line from 0 to 100 % (or to past the worse number) with the score, its interval and the baseline."""
    if baseline is None:
        return ""
    top = 1.0 if metric.percent else 1.12 * max(value, baseline, *(ends or ()))
    if not top > 0 or min(value, baseline) < 0:
        return ""

    def place(number: float) -> float:
        return round(100 * min(max(number / top, 0.0), 1.0), 2)

    band = ""
    if ends:
        left, right = map(place, ends)
        band = f"<span class='band' style='left:{left}%;width:{right - left:.2f}%'></span>"
    return (
        "<div class='ruler tabular'><span class='track'></span>"
        f"{band}<span class='mark base' style='left:{place(baseline)}%'></span>"
        f"<span class='mark' style='left:{place(value)}%'></span>"
        f"{_tag(place(value), 'above', '', 'this model')}"
        f"{_tag(place(baseline), 'below', 'base', f'{metric.guess}: {metric.text(baseline)}')}</div>"
    )


def _tag(at: float, where: str, swatch: str, text: str) -> str:
    """A caption of the ruler that never leaves the page: it hangs to the side that has room."""
    side = "start" if at < 35 else "end" if at > 65 else ""
    mark = f"<i class='swatch {swatch}'></i>"
    return f"<span class='tag {where} {side}' style='left:{at}%'>{mark}{escape(text)}</span>"


def _cell(metric: Metric, table: Mapping[str, Any]) -> str:
    value, ends = table.get(metric.name), interval_of(table, metric.name)
    if value is None:
        return "–"
    text = metric.text(float(value)) if metric.percent else significant(float(value))
    return escape(text) + (f"<small>{escape(interval_text(metric, ends))}</small>" if ends else "")


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """A nested table as lines of dotted keys and values."""
    lines: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{before}{key}.")
        else:
            lines.append((before + key, " ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return lines
