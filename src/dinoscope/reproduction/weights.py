"""The weights that a table needs: which files, where they are, and that all are here before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dinoscope.errors import UserError, lookup
from dinoscope.model_names import RANDOM, Model, Watch, load_model, random_backbone
from dinoscope.models.backbone import BACKBONES, build_backbone
from dinoscope.models.pretrained import CATALOGUE, Choices, Release, fetch, import_file, is_cached
from dinoscope.models.pretrained.fetch import MEGABYTE, cached_file, has_digest

BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Weights:
    """One model of a table. name: in `CATALOGUE`, or with `RANDOM` before it for random weights of that network.

    path: a file or exported folder of the person's own, to be taken for those weights; None takes the catalogue's.
    """

    name: str
    release: Release
    path: Path | None = None

    @property
    def random(self) -> bool:
        """Whether nothing need be read."""
        return self.name.startswith(RANDOM)

    @property
    def here(self) -> bool:
        """Whether nothing need be fetched."""
        return self.random or self.path is not None or is_cached(self.release)

    @property
    def place(self) -> str:
        """The file, for a person: where it is, or as it is called."""
        return "" if self.random else str(self.path) if self.path is not None else self.release.file

    @property
    def remark(self) -> str:
        """What must be known of a file that the person brought; "" for nothing."""
        if self.path is None or not self.path.is_file() or has_digest(self.path, self.release.digest):
            return ""
        return f"{self.path} is not the released file: its digest is not {self.release.digest}"

    def megabytes(self) -> tuple[float, bool]:
        """Size of the file, and whether that is known: else it is that of the network's weights."""
        if self.random:
            return 0.0, True
        file = self.path if self.path is not None else cached_file(self.release)
        if file.is_file():
            return file.stat().st_size / MEGABYTE, True
        if self.release.megabytes is not None:
            return self.release.megabytes, True
        with torch.device("meta"):
            network = build_backbone(self.release.config())
        return sum(math.prod(each.shape) for each in network.parameters()) * BYTES_PER_WEIGHT / MEGABYTE, False

    def load(self) -> Model:
        """The model, on the CPU, labelled by its name.

        Raises UserError where the file cannot be read or holds another network.
        """
        if self.path is None:
            model = load_model(self.name)
            return Model(self.name, self.name, model.backbone, model.path, model.origin)
        if self.path.is_dir():
            model = load_model(str(self.path))
            found, wanted = model.backbone.config.name, self.release.architecture
            if BACKBONES[found] != BACKBONES[wanted]:
                raise UserError(f"{self.path} holds a {found}, and {self.name} is a {wanted}")
            return Model(self.name, self.name, model.backbone, self.path, model.origin)
        backbone, found = import_file(self.path, Choices(self.release.architecture))
        return Model(self.name, self.name, backbone, self.path, found.provenance())

    def untrained(self) -> Model:
        """The same network with random weights: as fast as with others, and there without any file."""
        return Model(self.name, self.name, random_backbone(self.release.config()), None)


def parse(text: str) -> Weights:
    """NAME or random:NAME of the catalogue, NAME=PATH, or the PATH of a file that is called as a released one.

    Raises UserError for an unknown name, offering the nearest, and for a path that is not there or says no name.
    """
    name, equals, path = text.partition("=")
    if equals and name in CATALOGUE:
        return Weights(name, CATALOGUE[name], _existing(path))
    plain = text.removeprefix(RANDOM)
    if plain not in CATALOGUE and text == plain and Path(text).exists():
        names = [name for name, release in CATALOGUE.items() if release.file == Path(text).name]
        if not names:
            raise UserError(
                f"--models {text}: no released file is called {Path(text).name}; say what it is to be held against, as "
                f"in dino_vits16={text}"
            )
        return Weights(names[0], CATALOGUE[names[0]], Path(text))
    return Weights(text, lookup("released model", name if equals else plain, CATALOGUE))


def fetch_all(every: Sequence[Weights], watch: Watch) -> None:
    """Have every file here and, where its digest is known, checked.

    watch: sees the progress of what must be fetched.

    Raises UserError where that fails: one line with all that are missing, and where they are to be put.
    """
    for each in every:
        if each.random or each.path is not None:
            continue
        if is_cached(each.release):
            fetch(each.name, each.release)  # checks it
            continue
        try:
            with watch(f"fetching {each.name} from {each.release.url}, in MB") as progress:
                fetch(each.name, each.release, progress)
        except UserError as error:
            others = [f"{other.name} ({other.release.url})" for other in every if not other.here and other != each]
            more = f". Likewise missing, for the same folder: {', '.join(others)}" if others else ""
            raise UserError(f"{error}{more}. Or choose models with --models") from error


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"--models: there is no file or folder {path}")
    return Path(path)
