"""A study in tables and plain words, from its figures alone.

Rules: what collapsed is reported first, and from which step on. A difference is called one only if its interval
excludes 0; if it does not, the sentence reports that so many seeds could show none, which is not that there is none.
One seed gives a figure and no judgement. What failed is named. Nothing is explained.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator

from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.statistics import OverSeeds, over_seeds
from dinoscope.study.effects import (
    CONFIDENCE,
    KNN,
    LOGGED,
    MIN_RANKED,
    RANK,
    AblationResult,
    Agreement,
    Axis,
    Collapse,
    Difference,
    Effect,
    Group,
    Importance,
    LabelFree,
    Study,
    collapse_of,
    collapses,
    effect,
    entropy_share,
    importances,
    label_free,
    measures,
)
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT, listed

CLOSE_RHO = 0.7
"""From here on, a measure is said to rank variants much as k-NN does."""
MAX_P = 0.05
"""An order that chance gives more often than that is no agreement."""
MIN_VARIANTS = 5
"""Of four variants, even the same order has p = 0.08."""

SHOWN = {
    "teacher_entropy": "entropy/ln K",
    "images_per_second": "images/s",
    "peak_memory": "memory (MB)",
}
"""What of the logged measures has a column in a table -> title."""

_WHOLE = frozenset({"images_per_second", "peak_memory"})
"""Measures whose decimals mean nothing."""

_PERCENT = f"{100 * CONFIDENCE:g}\N{NO-BREAK SPACE}%"
MINUS = "−"

REMARK = (
    f"Mean ± standard deviation over n seeds. Difference: k-NN against the baseline, paired by seed, with Student's "
    f"{100 * CONFIDENCE:g} % interval over seeds; other test images would add to it."
)


# Tables


def axis_table(axis: Axis, baseline: Group, *, brief: bool = False) -> Table:
    """Return baseline and variants, one row each, in the order of `Axis.rows`, without columns that no run has.

    brief: for a terminal: means of the measures next to k-NN, and the state behind the name if a run did not simply
    finish.
    """
    groups = axis.rows(baseline)
    titles = {
        column.name: column.title
        for one in EVALUATIONS.values()
        for column in one.columns
        if column.name != KNN and (not brief or one.default or column.name == RANK)
    }
    titles |= {"teacher_entropy": "H/ln K"} if brief else SHOWN
    shown = {name: title for name, title in titles.items() if any(_cell(group, name) != ABSENT for group in groups)}
    columns = [
        Column(axis.name),
        Column("n", "right"),
        Column("k-NN", "right"),
        Column("difference" if brief else f"difference [{100 * CONFIDENCE:g} %]", "right"),
        *(Column(title, "right") for title in shown.values()),
        *([] if brief else [Column("state", "right")]),
    ]
    rows = []
    for group in groups:
        difference = ABSENT if group is baseline else with_interval(effect(group, baseline), 1)
        state = group.states() if group.runs else "not run"
        label = axis.name_of(group, baseline)
        cells = [label if state == "finished" or not brief else f"{label} ({state})"]
        cells += [str(len(group.lasting)), _cell(group, KNN), difference]
        cells += [_cell(group, name, deviation=not brief) for name in shown]
        rows.append(TableRow(tuple(cells if brief else [*cells, state])))
    caption, remarks = (axis.title, ()) if brief else ("", (REMARK,))
    return Table(tuple(columns), (Section(tuple(rows)),), caption, remarks=remarks)


def _cell(group: Group, measure: str, *, deviation: bool = True) -> str:
    """Return mean and deviation of a measure; speeds and entropies without."""
    if measure == "teacher_entropy":
        share = entropy_share(group)
        return ABSENT if share is None else number(share, 2)
    summary = over_seeds(list(group.values(measure).values()))
    if summary is None:
        return ABSENT
    if measure in _WHOLE:
        return number(summary.mean, 0 if summary.mean >= 10 else 1)
    digits = measures()[measure].digits
    return with_deviation(summary, digits) if deviation else number(summary.mean, digits)


def csv_header(result: AblationResult) -> tuple[str, ...]:
    """Return the names of what `csv_rows` yields."""
    return ("axis", "value", "settings", "seed", "state", "diagnosis", *_measured(result), "folder")


def csv_rows(result: AblationResult) -> Iterator[tuple[str, ...]]:
    """Yield every run, unrounded, in the order of the result; what was not measured of one of them is empty."""
    names = _measured(result)
    for run in result.runs:
        yield (
            run.variant.axis,
            run.variant.label,
            json.dumps(dict(run.variant.settings), sort_keys=True, default=str),
            str(run.seed),
            run.state,
            run.diagnosis,
            *(repr(float(run.metrics[name])) if name in run.metrics else "" for name in names),
            run.folder,
        )


def _measured(result: AblationResult) -> list[str]:
    return [name for name in measures() if name in LOGGED or any(name in run.metrics for run in result.runs)]


# The whole study in words


def study_reading(study: Study) -> list[str]:
    """Return sentences on its runs, the baseline, what matters most, and what could be known without labels."""
    return [
        _runs(study),
        *_baseline(study.baseline),
        *_ranking(importances(study)),
        *_chance(study),
        *(sentence for one in label_free(study) for sentence in _without_labels(one)),
    ]


def _runs(study: Study) -> str:
    states = Counter(run.state for run in study.runs)
    seeds = {run.seed for run in study.runs}
    ended = listed([f"{count} {state}" for state, count in states.most_common()])
    variants = sum(len(axis.groups) for axis in study.axes)
    of = f"{counted(variants, 'variant')} on {len(study.axes)} {'axis' if len(study.axes) == 1 else 'axes'}"
    return f"{of} next to the baseline; {counted(len(seeds), 'seed')}; {counted(len(study.runs), 'run')}" + (
        f": {ended}." if ended else "."
    )


def _baseline(baseline: Group) -> list[str]:
    summary = over_seeds(list(baseline.values(KNN).values()))
    if not baseline.lasting:
        return ["The baseline has no run that did not fail: there is nothing to compare with."]
    collapsed = _collapse(baseline)
    known = "k-NN was not measured" if summary is None else f"k-NN {with_deviation(summary, 1)}"
    value = "" if baseline.label in ("", "baseline") else f" ({baseline.label})"
    sentences = [f"Baseline{value}: {known}."]
    if collapsed:
        sentences.append(f"The baseline itself has collapsed, and differences from it mean little: {collapsed}.")
    if baseline.failed:
        sentences.append(f"Of the baseline, a run {_failures(baseline)}; left out.")
    return sentences


def _ranking(every: tuple[Importance, ...]) -> list[str]:
    """Return one sentence on the axes with an effect, one on those without, one on what failed."""
    measured = [(one, one.largest) for one in every if one.largest is not None]
    shown = [_effect(one, largest) for one, largest in measured if largest.difference.shown]
    unsure = [_effect(one, e) for one, e in measured if e.difference.low is not None and not e.difference.shown]
    unknown = [_effect(one, largest) for one, largest in measured if largest.difference.low is None]
    failed = [f"{one.axis.name} {label}" for one in every for label in one.failed]
    sentences = (
        [f"Effects on k-NN that these seeds show, the largest of each axis: {'; '.join(shown)}."] if shown else []
    )
    if unsure:
        sentences.append(f"No effect that these seeds could show, the largest of each axis: {'; '.join(unsure)}.")
    if unknown:
        sentences.append(
            f"Without an interval, and so without a judgement, the largest of each axis: {'; '.join(unknown)}."
        )
    if failed:
        sentences.append(f"Failed, and in no ranking: {listed(failed)}.")
    return sentences


def _effect(one: Importance, largest: Effect) -> str:
    text = f"{one.axis.name} ({largest.group.label}: {with_interval(largest.difference, 1)}"
    if not largest.collapsed:
        return f"{text})"
    healthy = one.healthy
    rest = f"; of what did not, {healthy.group.label}: {with_interval(healthy.difference, 1)}" if healthy else ""
    return f"{text}, collapsed{rest})"


def _chance(study: Study) -> list[str]:
    """Return how many intervals miss 0 though nothing differs."""
    effects = [effect(group, study.baseline) for group in study.trainings if group is not study.baseline]
    intervals = sum(one is not None and one.low is not None for one in effects)
    if intervals < 2:
        return []
    missed = number((1 - CONFIDENCE) * intervals, 1)
    return [
        f"{intervals} intervals of {_PERCENT}: were nothing different, about {missed} of them would exclude 0 by "
        "chance; and the largest effect of several is flattered by being chosen."
    ]


def _without_labels(one: LabelFree) -> list[str]:
    if not one.variants:
        return []
    sentences = [f"Without labels: {_agreement(one.title, one.every, one.variants)}."]
    if one.every is not None and one.healthy is not None:
        sentences.append(f"Among those that did not collapse, {_agreement(one.title, one.healthy, 0)}.")
    return sentences


def _agreement(title: str, one: Agreement | None, variants: int) -> str:
    if one is None:
        if variants < MIN_RANKED:
            return f"{counted(variants, 'variant')} cannot show whether {title} ranks as k-NN does"
        return f"{title} cannot be set next to k-NN: one of the two is the same for all {variants} variants"
    chance = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.2g}"
    figures = f"Spearman's rho {number(one.rho, 2)}, n = {one.n}, {chance}"
    if one.n < MIN_VARIANTS:
        return f"{one.n} variants are too few to tell whether {title} ranks them as k-NN does ({figures})"
    if one.p >= MAX_P:
        return f"{title} and k-NN show no common order that {one.n} variants could prove ({figures})"
    if one.rho <= -CLOSE_RHO:
        return f"{title} ranks {one.n} variants much against k-NN: the lower, the better ({figures})"
    if one.rho >= CLOSE_RHO:
        return f"{title} ranks {one.n} variants much as k-NN does ({figures})"
    way = "with" if one.rho > 0 else "against"
    return f"{title} goes {way} k-NN over {one.n} variants, too loosely to choose by ({figures})"


# One axis in words


def axis_reading(axis: Axis, baseline: Group) -> list[str]:
    """Return a sentence for each variant; those that differ from the baseline in nothing come together."""
    sentences: list[str] = []
    none: list[tuple[str, Difference]] = []
    for group in axis.groups:
        difference = effect(group, baseline)
        if not group.lasting or collapses(group) or difference is None or difference.low is None or difference.shown:
            sentences.append(f"{group.label}: {_variant(group, baseline, difference)}.")
        else:
            none.append((group.label, difference))
        if group.lasting and group.failed:
            sentences.append(f"{group.label}: {_failures(group)}; left out.")
        early = sum(run.state == "stopped" for run in group.runs)
        if early:
            sentences.append(
                f"{group.label}: {counted(early, 'run')} ended early by rule: left out of k-NN, and "
                f"{'its' if early == 1 else 'their'} other figures are of less training."
            )
    if none:
        sentences.append(_no_difference(none))
    return sentences


def _variant(group: Group, baseline: Group, difference: Difference | None) -> str:
    if not group.lasting:
        return f"no run is left; {_failures(group)}"
    collapsed, text = _collapse(group), _difference(group, baseline, difference)
    return f"{collapsed}: {text}" if collapsed else text


def _collapse(group: Group) -> str:
    """Return which collapse, in how many runs, and since which step; "" for none."""
    every = collapses(group)
    kinds = dict.fromkeys(one.kind for one in every)
    return listed([_of_kind([one for one in every if one.kind == kind], group) for kind in kinds])


def _of_kind(every: list[Collapse], group: Group) -> str:
    of = len(group.lasting)
    runs = "" if of == 1 else f" with each of {of} seeds" if len(every) == of else f" with {len(every)} of {of} seeds"
    if every[0].kind == "marked":
        reasons = dict.fromkeys(
            run.diagnosis.rstrip(". ")
            for run in group.runs
            if (one := collapse_of(run, group.outputs)) is not None and one.kind == "marked" and run.diagnosis.strip()
        )
        return f"training is marked as collapsed{runs}" + (f" ({'; '.join(reasons)})" if reasons else "")
    what, name = {
        "one-hot": ("collapses to one class", "marginal entropy"),
        "uniform": ("becomes uniform over all classes", "entropy"),
    }[every[0].kind]
    since = max(one.step or 0 for one in every)
    when = "from the start" if all(one.first for one in every) else f"by step {since}"
    entropy = sum(one.value for one in every) / len(every)
    max_entropy = math.log(group.outputs or 1)
    return f"the output {what} {when}{runs} ({name} {number(entropy, 2)} of ln K = {max_entropy:.2f} nats)"


def _difference(group: Group, baseline: Group, difference: Difference | None) -> str:
    """Return k-NN next to the baseline's, and how sure that is."""
    own = over_seeds(list(group.values(KNN).values()))
    if own is None:
        return "k-NN was not measured"
    if difference is None:
        return f"k-NN {with_deviation(own, 1)}, and no seed in common with the baseline to compare it by"
    figures = f"k-NN {number(difference.value, 1)} against {number(difference.baseline, 1)}"
    mean, pairs = difference.mean, difference.pairs
    if pairs == 1:
        return f"{figures}, one seed: how much of {signed(mean, 1)} is chance cannot be told"
    if difference.low is None or difference.high is None:
        return f"{figures}, {signed(mean, 1)} with each of {pairs} seeds: no interval can be drawn from that"
    if not difference.shown:
        return f"{figures}, no difference that {pairs} seeds could show{interval(difference, 1)}"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    way = "lower" if mean < 0 else "higher"
    return (
        f"{figures}, {number(abs(mean), 1)} {way} "
        f"({_PERCENT} interval {number(low, 1)} to {number(high, 1)}, {pairs} seeds)"
    )


def _no_difference(every: list[tuple[str, Difference]]) -> str:
    pairs = {difference.pairs for _, difference in every}
    seeds = str(pairs.pop()) if len(pairs) == 1 else "these"
    texts = [f"{label} ({with_interval(difference, 1)})" for label, difference in every]
    return f"{listed(texts)}: no difference in k-NN that {seeds} seeds could show."


def _failures(group: Group) -> str:
    reasons = "; ".join(
        dict.fromkeys(run.diagnosis.strip().rstrip(".") for run in group.failed if run.diagnosis.strip())
    )
    seeds = ", ".join(str(run.seed) for run in group.failed)
    return f"failed with seed {seeds}" + (f" ({reasons})" if reasons else "")


# Figures as text


def number(value: float, digits: int) -> str:
    """Return the number with a real minus sign; what rounds to zero has none."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """Return the number with its sign in any case."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def with_deviation(summary: OverSeeds | None, digits: int) -> str:
    """Return "34.0 ± 0.8"; of one value the value alone."""
    if summary is None:
        return ABSENT
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.{digits}f}"
    return number(summary.mean, digits) + deviation


def with_interval(difference: Difference | None, digits: int) -> str:
    """Return "−3.9 [−6.6, −1.2]"; without an interval the difference alone."""
    if difference is None:
        return ABSENT
    return signed(difference.mean, digits) + interval(difference, digits)


def interval(difference: Difference, digits: int) -> str:
    """Return the interval in brackets behind a space; "" if there is none."""
    if difference.low is None or difference.high is None:
        return ""
    return f" [{number(difference.low, digits)}, {number(difference.high, digits)}]"


def counted(count: int, what: str) -> str:
    """Return "1 seed", "3 seeds"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
