"""What the models' folders keep of an evaluation, sorted into groups that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields

from dinoscope.config import identity
from dinoscope.errors import UserError
from dinoscope.evaluation.results import conditions, kept, kept_names
from dinoscope.model_names import Model
from dinoscope.report.page import Notice
from dinoscope.types import Items, Result


@dataclass(frozen=True)
class Kept:
    """One result of a model. name: of its file. title: of the model."""

    subject: Model
    title: str
    name: str
    measurement: Result


@dataclass(frozen=True)
class Best:
    """Names of single examples with the mean of what the models scored, best first; and what each scored, in %."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]


def kept_groups(
    titled: Sequence[tuple[Model, str]], evaluation: str, protocol: type
) -> tuple[list[list[Kept]], list[Notice]]:
    """Results that were measured under one protocol, together; the largest groups first. And what is wrong.

    A result of other weights than the model's is left out and said, and so is one whose protocol lacks fields.
    """
    groups: dict[str, list[Kept]] = {}
    notices: list[Notice] = []
    for subject, title in titled:
        if subject.home is None:
            continue
        for name in kept_names(subject.home, evaluation):
            try:
                found = kept(subject.home, name)
            except UserError as error:
                notices.append(Notice(f"{title}: {error}", "warning"))
                continue
            if found is None:
                continue
            needed = {field.name for field in fields(protocol) if field.default in (MISSING, None)}
            lacking = sorted(needed - found.protocol.keys())
            if lacking:
                text = f"{title}: its {name} does not say its {', '.join(lacking)}, and is left out. Measure it again."
                notices.append(Notice(text, "warning"))
                continue
            if found.protocol.get("weights_hash", subject.weights_hash) != subject.weights_hash:
                text = f"{title}: its {name} was measured of other weights than it has now, and is left out."
                notices.append(Notice(f"{text} Measure it again.", "warning"))
                continue
            groups.setdefault(identity(conditions(found)), []).append(Kept(subject, title, name, found))
    return sorted(groups.values(), key=lambda group: -len(group)), notices


def best_first(group: Sequence[Kept], figure: str) -> Best | None:
    """Items that all results of a group have, by the mean of a figure; None where there are none.

    Results without items, as of before they were kept, do not count.
    """
    having = [each.measurement.items for each in group]
    found = [_values(each, figure) for each in having if each is not None and figure in each.figures]
    if not found:
        return None
    common = [name for name in found[0] if all(name in each for each in found)]
    if not common:
        return None
    scores = {name: tuple(each[name] for each in found) for name in common}
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    order = sorted(common, key=lambda name: (-means[name], name))
    return Best(tuple(order), tuple(means[name] for name in order), tuple(scores[name] for name in order))


def _values(items: Items, figure: str) -> dict[str, float]:
    return dict(zip(items.names, items.figures[figure], strict=True))
