"""A study in plain words, from its figures alone.

Rules: what collapsed is said first, and from which step on (`collapse`). A difference is called one only where its
interval excludes 0; where it does not, the sentence says that so many seeds could show none, which is not that there
is none. One seed gives a figure and no judgement. What failed is named. Nothing is explained.
"""

from __future__ import annotations

import math
from collections import Counter

from dinoscope.ablation.collapse import Collapse, collapse_of, collapses, kinds
from dinoscope.ablation.effects import KNN, Effect, Importance, LabelFree, effect, importances, label_free
from dinoscope.ablation.grouping import Axis, Group, Study
from dinoscope.ablation.statistics import CONFIDENCE, FEWEST_RANKED, Agreement, Difference
from dinoscope.ablation.wording import counted, interval, listed, number, signed, with_deviation, with_interval
from dinoscope.evaluation.statistics import over_seeds

CLOSE_RHO = 0.7
"""From here on, a measure is said to rank variants much as k-NN does."""
LEAST_P = 0.05
"""An order that chance gives more often than that is no agreement."""
FEWEST_VARIANTS = 5
"""Of four variants, even the same order has p = 0.08."""


def study_reading(study: Study) -> list[str]:
    """Sentences on the whole: its runs, the base, what matters most, what could be known without labels."""
    every = importances(study)
    return [
        _runs(study),
        *_base(study.base),
        *_ranking(every),
        *_chance(study),
        *(sentence for found in label_free(study) for sentence in _without_labels(found)),
    ]


def axis_reading(axis: Axis, base: Group) -> list[str]:
    """Sentences on one axis: a variant each, those that differ from the base in nothing together."""
    sentences: list[str] = []
    none: list[tuple[str, Difference]] = []
    for group in axis.groups:
        found = effect(group, base)
        if not group.lasting or collapses(group) or found is None or found.low is None or found.shown:
            sentences.append(f"{group.label}: {_variant(group, base, found)}.")
        else:
            none.append((group.label, found))
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


def _variant(group: Group, base: Group, found: Difference | None) -> str:
    if not group.lasting:
        return f"no run is left; {_failures(group)}"
    collapsed, text = _collapse(group), _difference(group, base, found)
    return f"{collapsed}: {text}" if collapsed else text


def _collapse(group: Group) -> str:
    """Which collapse, in how many runs, and since which step; "" for none."""
    found = collapses(group)
    parts = [_of_kind([one for one in found if one.kind == kind], group) for kind in kinds(found)]
    return listed(parts)


def _of_kind(found: list[Collapse], group: Group) -> str:
    of = len(group.lasting)
    runs = "" if of == 1 else f" with each of {of} seeds" if len(found) == of else f" with {len(found)} of {of} seeds"
    if found[0].kind == "told":
        reasons = dict.fromkeys(
            run.diagnosis.rstrip(". ")
            for run in group.runs
            if (one := collapse_of(run, group.outputs)) is not None and one.kind == "told" and run.diagnosis.strip()
        )
        return f"training is marked as collapsed{runs}" + (f" ({'; '.join(reasons)})" if reasons else "")
    what, name = {
        "one class": ("collapses to one class", "marginal entropy"),
        "even": ("becomes even over all classes", "entropy"),
    }[found[0].kind]
    since = max(one.step or 0 for one in found)
    when = "from the start" if all(one.first for one in found) else f"by step {since}"
    entropy = sum(one.value for one in found) / len(found)
    most = math.log(group.outputs or 1)
    return f"the output {what} {when}{runs} ({name} {number(entropy, 2)} of ln K = {most:.2f} nats)"


def _difference(group: Group, base: Group, found: Difference | None) -> str:
    """k-NN beside the base's, and how sure that is."""
    own = over_seeds(list(group.values(KNN).values()))
    if own is None:
        return "k-NN was not measured"
    if found is None:
        return f"k-NN {with_deviation(own, 1)}, and no seed in common with the base to compare it by"
    beside = f"k-NN {number(found.value, 1)} against {number(found.base, 1)}"
    if found.pairs == 1:
        return f"{beside}, one seed: how much of {signed(found.mean, 1)} is chance cannot be told"
    if found.low is None or found.high is None:
        return f"{beside}, {signed(found.mean, 1)} with each of {found.pairs} seeds: no interval can be drawn from that"
    if not found.shown:
        return f"{beside}, no difference that {found.pairs} seeds could show{interval(found, 1)}"
    low, high = sorted((abs(found.low), abs(found.high)))
    way = "lower" if found.mean < 0 else "higher"
    return (
        f"{beside}, {number(abs(found.mean), 1)} {way} "
        f"({_percent()} interval {number(low, 1)} to {number(high, 1)}, {found.pairs} seeds)"
    )


def _no_difference(found: list[tuple[str, Difference]]) -> str:
    pairs = {difference.pairs for _, difference in found}
    seeds = str(pairs.pop()) if len(pairs) == 1 else "these"
    texts = [f"{label} ({with_interval(difference, 1)})" for label, difference in found]
    return f"{listed(texts)}: no difference in k-NN that {seeds} seeds could show."


def _failures(group: Group) -> str:
    reasons = "; ".join(
        dict.fromkeys(run.diagnosis.strip().rstrip(".") for run in group.failed if run.diagnosis.strip())
    )
    seeds = ", ".join(str(run.seed) for run in group.failed)
    return f"failed with seed {seeds}" + (f" ({reasons})" if reasons else "")


def _runs(study: Study) -> str:
    states = Counter(run.state for run in study.runs)
    seeds = {run.seed for run in study.runs}
    ended = listed([f"{count} {state}" for state, count in states.most_common()])
    variants = sum(len(axis.groups) for axis in study.axes)
    of = f"{counted(variants, 'variant')} on {len(study.axes)} {'axis' if len(study.axes) == 1 else 'axes'}"
    return f"{of} beside the base; {counted(len(seeds), 'seed')}; {counted(len(study.runs), 'run')}" + (
        f": {ended}." if ended else "."
    )


def _base(base: Group) -> list[str]:
    found = over_seeds(list(base.values(KNN).values()))
    if not base.lasting:
        return ["The base has no run that did not fail: there is nothing to compare with."]
    collapsed = _collapse(base)
    known = "k-NN was not measured" if found is None else f"k-NN {with_deviation(found, 1)}"
    value = "" if base.label in ("", "base") else f" ({base.label})"
    sentences = [f"Base{value}: {known}."]
    if collapsed:
        sentences.append(f"The base itself has collapsed, and differences from it say little: {collapsed}.")
    if base.failed:
        sentences.append(f"Of the base, a run {_failures(base)}; left out.")
    return sentences


def _ranking(every: tuple[Importance, ...]) -> list[str]:
    """One sentence on the axes with an effect, one on those without, one on what failed."""
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
    """How many intervals miss 0 though nothing differs."""
    found = [effect(group, study.base) for group in study.trainings if group is not study.base]
    intervals = sum(one is not None and one.low is not None for one in found)
    if intervals < 2:
        return []
    missed = number((1 - CONFIDENCE) * intervals, 1)
    return [
        f"{intervals} intervals of {_percent()}: were nothing different, about {missed} of them would exclude 0 by "
        "chance; and the largest effect of several is flattered by being chosen."
    ]


def _without_labels(found: LabelFree) -> list[str]:
    if not found.variants:
        return []
    sentences = [f"Without labels: {_agreement(found.title, found.every, found.variants, 'variants')}."]
    if found.every is not None and found.healthy is not None:
        sentences.append(f"Among those that did not collapse, {_agreement(found.title, found.healthy, 0, 'variants')}.")
    return sentences


def _agreement(title: str, found: Agreement | None, variants: int, what: str) -> str:
    if found is None:
        if variants < FEWEST_RANKED:
            return f"{counted(variants, what[:-1])} cannot show whether {title} ranks as k-NN does"
        return f"{title} cannot be set beside k-NN: one of the two is the same for all {variants} {what}"
    chance = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    figures = f"Spearman's rho {number(found.rho, 2)}, n = {found.n}, {chance}"
    if found.n < FEWEST_VARIANTS:
        return f"{found.n} {what} are too few to tell whether {title} ranks them as k-NN does ({figures})"
    if found.p >= LEAST_P:
        return f"{title} and k-NN show no common order that {found.n} {what} could prove ({figures})"
    if found.rho <= -CLOSE_RHO:
        return f"{title} ranks {found.n} {what} much against k-NN: the lower, the better ({figures})"
    if found.rho >= CLOSE_RHO:
        return f"{title} ranks {found.n} {what} much as k-NN does ({figures})"
    way = "with" if found.rho > 0 else "against"
    return f"{title} goes {way} k-NN over {found.n} {what}, too loosely to choose by ({figures})"


def _percent() -> str:
    return f"{100 * CONFIDENCE:g}\N{NO-BREAK SPACE}%"
