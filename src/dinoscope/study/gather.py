"""What was measured of each model: taken from where it is kept if it still holds, else measured and kept there."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope import checkpoint
from dinoscope.config import identity, to_dict
from dinoscope.data.sources import ImageFolder, find_images
from dinoscope.errors import UserError
from dinoscope.evaluation import knn, linear
from dinoscope.evaluation.base import Context, Data, gallery_and_queries, is_expected
from dinoscope.evaluation.results import conditions, keep_in, kept, kept_name, kept_names, newest_first
from dinoscope.evaluation.throughput import ThroughputConfig, millions_of_parameters, throughput
from dinoscope.model_names import Model, Watch, unwatched
from dinoscope.study.compare import EVALUATIONS, Entry, deciding_settings, figure
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_config
from dinoscope.types import Result

logger = logging.getLogger("dinoscope")

Images = tuple[ImageFolder, ImageFolder | None]
"""Labelled images that classify, and those that are classified; None where each is asked of all others."""


@dataclass(frozen=True)
class Measuring:
    """What is measured, and how.

    data: labelled images, with splits or without; None keeps to those that the runs were measured or trained on.
    fraction: share of the labels that are used, in (0, 1].
    skip: names in `EVALUATIONS` that are not measured; what is kept is shown nevertheless.
    context: of the features; its device is where speed is measured too.
    watch: hears of the progress.
    """

    data: Path | None = None
    fraction: float = 1.0
    skip: frozenset[str] = frozenset()
    context: Context = field(default_factory=Context)
    throughput: ThroughputConfig = field(default_factory=ThroughputConfig)
    watch: Watch = unwatched

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.context.device or torch.device("cpu")


class Gatherer:
    """Measures models under the same conditions as far as can be, and remembers each network's speed."""

    def __init__(self, measuring: Measuring, subjects: Sequence[Model]) -> None:
        """Find the images to measure on.

        Raises UserError where --data was given and cannot be used, or was not and a model has no images of its own.
        """
        self.measuring = measuring
        self.images = gallery_and_queries(measuring.data) if measuring.data else None
        self.kept = self._chosen(subjects)
        if measuring.data is None:
            self.images = self._images_of_most()
        self._require_images(subjects)
        self.speeds = self._agreeing_speeds(subjects)
        self.speeds_agree = bool(self.speeds)

    def entry(self, subject: Model) -> Entry:
        """What is known of the model, after measuring what is missing or was measured otherwise."""
        measurements: dict[str, Result] = {}
        remarks = [*subject.remarks, *_unfinished(subject)]
        for name, title in EVALUATIONS.items():
            found, remark = self._speed(subject) if name == "throughput" else self._accuracy(subject, name)
            if found is not None:
                measurements[name] = found
            if remark:
                remarks.append(f"{subject.name}: {title} not measured: {remark}")
        return Entry(
            subject.method,
            subject.backbone.config.name,
            millions_of_parameters(subject.backbone),
            subject.name,
            None if subject.settings is None else subject.settings.get("seed", RunConfig.seed),
            {} if subject.run is None else deciding_settings(read_config(subject.run)),
            measurements,
            tuple(remarks),
        )

    def _accuracy(self, subject: Model, name: str) -> tuple[Result | None, str]:
        """A kept measurement that holds, else a new one; and why there is none or not the one that was wanted."""
        held = self.kept.get(subject.name, {}).get(name)
        if held is not None and (self.measuring.data is None or self._as_wanted(subject, name, held)):
            return held, ""
        if name in self.measuring.skip:
            return held, ""
        try:
            data = self._data or _own_data(subject)
            (new,) = MEASURES[name].run([subject], data, self._config(name), self._watched(subject))
        except UserError as error:
            return held, str(error)
        self._keep(subject, kept_name(name, self.measuring.fraction), new)
        return replace(new, protocol={**new.protocol, "weights": subject.name}, items=None), ""

    def _keep(self, subject: Model, name: str, measurement: Result) -> None:
        """Write to where it is kept; a folder that cannot be written to (somebody else's) is warned of."""
        if subject.home is None:
            return
        try:
            keep_in(subject.home, name, measurement)
        except UserError as error:
            logger.warning("%s", error)

    def _as_wanted(self, subject: Model, name: str, held: Result) -> bool:
        """Whether it was measured on these images, at this size and precision, with the usual settings."""
        if self._data is None:
            return True
        evaluation, context = MEASURES[name], self.measuring.context
        return is_expected(held, evaluation.expected(subject, self._data, self._config(name), context))

    def _is_usual(self, name: str, subject: Model, held: Result) -> bool:
        """Whether it was measured at this size and precision, with the usual settings."""
        if name not in MEASURES:
            return True
        context = self.measuring.context
        return is_expected(held, MEASURES[name].expected(subject, None, self._config(name), context))

    def _config(self, name: str) -> Any:
        return MEASURES[name].config(label_fraction=self.measuring.fraction)

    @property
    def _data(self) -> Data:
        """The folders of the images, or None if each model has its own."""
        if self.images is None:
            return None
        gallery, queries = self.images
        return gallery.root, None if queries is None else queries.root

    def _speed(self, subject: Model) -> tuple[Result | None, str]:
        """Speed of the network: the kept one where all have one alike, else measured once for all that share it."""
        held, name = self.kept.get(subject.name, {}).get("throughput"), subject.backbone.config.name
        if "throughput" in self.measuring.skip or (held is not None and self.speeds_agree):
            return held, ""
        if name not in self.speeds:
            config = self.measuring.throughput
            size = config.image_size if config.image_size >= subject.backbone.patch_size else None
            config = replace(config, image_size=size or subject.backbone.config.image_size)
            with self.measuring.watch(f"throughput of {name}") as progress:
                metrics, protocol = throughput(subject.backbone, self.measuring.device, config, progress)
            self.speeds[name] = Result("throughput", to_dict(protocol), metrics)
        self._keep(subject, "throughput", self.speeds[name])
        return self.speeds[name], ""

    def _agreeing_speeds(self, subjects: Sequence[Model]) -> dict[str, Result]:
        """Speeds in the run folders, if all runs have one and all were measured under the same conditions."""
        found = [(subject.backbone.config.name, self.kept[subject.name].get("throughput")) for subject in subjects]
        speeds = {name: speed for name, speed in found if speed is not None}
        alike = {identity(conditions(speed)) for _, speed in found if speed is not None}
        return speeds if len(alike) == 1 and all(speed is not None for _, speed in found) else {}

    def _all_kept(self, subject: Model) -> dict[str, list[Result]]:
        """What its folder holds of each evaluation, the newest first, without what was measured of other weights.

        Earlier accuracies among a single class are 100 % by definition, and no figures.
        """
        held: dict[str, list[Result]] = {}
        if subject.home is None:
            return held
        for name in EVALUATIONS:
            for file in newest_first(subject.home, kept_names(subject.home, name)):
                found = kept(subject.home, file)
                if found is None or figure(name, found) is None or found.protocol.get("classes") == 1:
                    continue
                if found.protocol.get("label_fraction", 1.0) != (
                    1.0 if name == "throughput" else self.measuring.fraction
                ):
                    continue
                if found.protocol.get("weights_hash", subject.weights_hash) != subject.weights_hash:
                    logger.warning("%s: its %s was measured of other weights and is left aside", subject.name, file)
                    continue
                held.setdefault(name, []).append(found)
        return held

    def _chosen(self, subjects: Sequence[Model]) -> dict[str, dict[str, Result]]:
        """Choose, for each model, one kept result of each evaluation: the one that was asked for, if there is one.

        Otherwise all models follow one order of conditions, so that they are shown alike: first the conditions that
        most models share, then the images that most results are of, then the model's own image size, then the newest.
        """
        every = {subject.name: self._all_kept(subject) for subject in subjects}
        results = Counter(_place(found) for held in every.values() for each in held.values() for found in each)
        chosen: dict[str, dict[str, Result]] = {subject.name: {} for subject in subjects}
        for name in EVALUATIONS:
            alike: dict[str, list[tuple[Model, Result]]] = {}
            for subject in subjects:
                for found in every[subject.name].get(name, []):
                    alike.setdefault(identity(conditions(found)), []).append((subject, found))
            preferences = {
                key: (
                    len({subject.name for subject, _ in group}),
                    results[_place(group[0][1])],
                    self._is_usual(name, *group[0]),
                )
                for key, group in alike.items()
            }
            groups = [alike[key] for key in sorted(alike, key=lambda key: preferences[key], reverse=True)]
            pairs = [pair for group in groups for pair in group]
            if self.images is not None and name in MEASURES:
                pairs.sort(key=lambda pair: not self._as_wanted(pair[0], name, pair[1]))
            for subject, found in pairs:
                chosen[subject.name].setdefault(name, found)
        return chosen

    def _require_images(self, subjects: Sequence[Model]) -> None:
        """Refuse, before anything is measured, a model of which nobody can know on which images to measure it."""
        if self.images is not None or self.measuring.skip.issuperset(MEASURES):
            return
        strangers = [subject.name for subject in subjects if subject.settings is None]
        if strangers:
            raise UserError(
                f"{' and '.join(strangers)}: no run folder says on which images to measure; give --data FOLDER "
                "with train/CLASS/... and val/CLASS/..., or only CLASS/..."
            )

    def _images_of_most(self) -> Images | None:
        """The images that most kept results were measured on, so that missing ones are measured on the same."""
        places = Counter(_place(found) for held in self.kept.values() for found in held.values())
        for (gallery, queries), _ in places.most_common():
            if gallery is None:  # of throughput
                continue
            with contextlib.suppress(UserError):  # moved away since: the runs' own images are left
                return _labelled(gallery), None if queries is None else _labelled(queries)
            return None
        return None

    def _watched(self, subject: Model) -> Context:
        """Return the context, whose progress names the model."""
        watch: Callable = self.measuring.watch
        return replace(self.measuring.context, watch=lambda what: watch(f"{subject.name}: {what}"))


MEASURES = {"knn": knn.EVALUATION, "linear": linear.EVALUATION}
"""name in `EVALUATIONS` -> how a model's accuracy is measured."""


def _place(measurement: Result) -> tuple[str | None, str | None]:
    """Folders of the images that classify, and of those that are classified; None for none."""
    found = conditions(measurement)
    return found.get("gallery") or found.get("train"), found.get("queries") or found.get("val")


def _labelled(root: str) -> ImageFolder:
    return find_images(Path(root), labelled=True)


def _own_data(subject: Model) -> Path:
    """The images that the model was trained on."""
    if subject.settings is None:
        raise UserError("give --data")
    return Path(subject.settings["data"])


def _unfinished(subject: Model) -> list[str]:
    """A remark where the run's newest checkpoint is not of its last step."""
    if subject.run is None:
        return []
    metadata = checkpoint.newest_metadata(subject.run / "checkpoints")
    if metadata is None:
        return []
    step, total = metadata.get("step"), metadata.get("total")
    return [] if step == total else [f"{subject.name}: stopped at step {step} of {total}"]
