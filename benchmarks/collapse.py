"""How early training warns of collapse: random settings of DINO from a declared range, and losses that lack a term.

    python benchmarks/collapse.py [--settings 30] [--steps 3000] [--stop STEP] [--seed 0] [--json FILE]

Every run is a tiny Vision Transformer on drawn scenes, on one thread. The warnings are those of training itself.
Whether a run has collapsed at its end is judged by other figures, on images that it was not trained on:

- DINO: the information in nats that the student's output carries about the image, I = H(mean output) - mean H(output),
  is below 5 % of ln K. It is 0 if all images have the same output, one-hot or uniform.
- VICReg, Barlow Twins: RankMe of the embeddings is below a tenth of their dimensions, or the standard
  deviation of a dimension, whose target in VICReg is 1, below 0.02.

A warning is in time up to a tenth of the steps. With --stop, each run has the schedules of all its steps and is judged
after the first ones. Views are made once and shared by all runs. A run that stops by itself, since its loss is not
finite, needs no warning.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinoscope.config import changed
from dinoscope.data.finding import find_images
from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.losses.dino import entropy
from dinoscope.methods import METHODS
from dinoscope.methods.health import rank_me
from dinoscope.methods.method import settings
from dinoscope.models.backbone import BACKBONES
from dinoscope.models.vit import ViTShape
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.training.config import RunConfig
from dinoscope.training.loop import CollapseMonitor, patience
from dinoscope.training.trainer import Trainer
from dinoscope.types import Views

Draw = Callable[[np.random.Generator], Any]


def between(low: float, high: float) -> Draw:
    """A number between these, of which the logarithm is uniform."""
    return lambda rng: float(np.exp(rng.uniform(math.log(low), math.log(high))))


def one_of(*values: object) -> Draw:
    return lambda rng: values[int(rng.integers(len(values)))]


RANGE: dict[str, Draw] = {
    "optimizer.learning_rate": between(3e-4, 3e-2),
    "method.teacher_temperature": between(0.01, 0.2),
    "method.centering": one_of("center", "center", "sinkhorn", "none"),
    "method.center_momentum": one_of(0.0, 0.5, 0.9, 0.99, 0.999),
    "method.teacher_momentum": one_of(0.0, 0.5, 0.9, 0.97, 0.996),
    "method.head_batch_norm": one_of(False, True),
    "method.norm_last_layer": one_of(False, True),
    "optimizer.clip": one_of(0.0, 3.0),
}
"""Setting -> how it is drawn; all others are those of `BASE`. The student's temperature is 0.1."""

LACKING: dict[str, tuple[str, dict[str, Any]]] = {
    "vicreg, whole": ("vicreg", {}),
    "vicreg without variance": ("vicreg", {"method.variance": 0.0}),
    "vicreg without variance and covariance": ("vicreg", {"method.variance": 0.0, "method.covariance": 0.0}),
    "vicreg without covariance": ("vicreg", {"method.covariance": 0.0}),
    "barlow, whole": ("barlow", {}),
    "barlow without the off-diagonal": ("barlow", {"method.off_diagonal": 0.0}),
}

NETWORK = "vit_nano_patch8_16"
SIZE, BATCH, IMAGES, EPOCHS_OF_VIEWS = 16, 32, 640, 8
BASE: dict[str, dict[str, Any]] = {
    "dino": {"out_dim": 64, "hidden_dim": 64, "bottleneck_dim": 16, "freeze_last_layer_epochs": 0},
    "vicreg": {"hidden_dim": 64, "projection_dim": 32, "invariance": 1.0, "variance": 1.0, "covariance": 0.04},
    "barlow": {"hidden_dim": 64, "projection_dim": 32, "scale": 1 / 32},
}
COLLAPSED_INFORMATION = 0.05


@dataclass(frozen=True)
class Outcome:
    """A run: at which step (from 1) it first warned and of what, and how it ended."""

    name: str
    settings: Mapping[str, Any]
    steps: int
    warned: int | None
    kind: str
    collapsed: bool
    figure: float
    stopped: int | None = None

    @property
    def verdict(self) -> str:
        if self.stopped is not None:
            return "stopped"
        if not self.collapsed:
            return "false alarm" if self.warned else "healthy"
        if self.warned is None:
            return "missed"
        return "in time" if self.warned <= self.steps // 10 else "late"


def main() -> None:
    """Train all runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=30, help="random ones of DINO")
    parser.add_argument("--steps", type=int, default=3000, help="of each run")
    parser.add_argument("--stop", type=int, help="the step after which each run is judged, if not its last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    BACKBONES[NETWORK] = ViTShape(8, 32, 2, 2, stem="conv", mlp_ratio=2.0)
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Data.make(Path(folder))
            for name, config in runs(data.folder, options.settings, options.steps, options.seed):
                outcomes.append(train(name, config, data, options.steps, options.stop or options.steps))
                print(line(outcomes[-1]), flush=True)
    finally:
        del BACKBONES[NETWORK]
    for title, group in (
        ("DINO", [outcome for outcome in outcomes if outcome.name.isdigit()]),
        ("VICReg and Barlow Twins", [outcome for outcome in outcomes if not outcome.name.isdigit()]),
    ):
        print(f"{title}: {summary(group)}")
    print(f"{time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def runs(data: Path, count: int, steps: int, seed: int) -> Iterator[tuple[str, RunConfig]]:
    """Yield name and settings of every run; the n-th random settings do not depend on the count."""
    epochs = steps / (IMAGES // BATCH)
    common: dict[str, Any] = {
        "backbone": NETWORK,
        "drop_path": 0.0,
        "batch_size": BATCH,
        "epochs": epochs,
        "seed": seed,
    }
    common |= {"optimizer.scaling": "none", "optimizer.warmup_epochs": epochs / 30, "optimizer.learning_rate": 1e-3}
    common |= {"optimizer.final_weight_decay": 0.04, "precision": "fp32", "device": "cpu"}

    def made(method: str, values: Mapping[str, Any]) -> RunConfig:
        config = RunConfig(data, data / "run", method=METHODS[method].config(), views=VIEWS)
        return changed(config, common | settings(method=BASE[method]) | dict(values))

    for number in range(count):
        rng = np.random.default_rng((seed, number))
        drawn = {name: draw(rng) for name, draw in RANGE.items()}
        yield (
            str(number),
            made("dino", drawn | {"method.warmup_teacher_temperature": drawn["method.teacher_temperature"]}),
        )
    for name, (method, values) in LACKING.items():
        yield name, made(method, {"optimizer.learning_rate": 1e-2} | values)


VIEWS = ViewsConfig(
    num_local=0,
    global_size=SIZE,
    global_scale=(0.5, 1.0),
    jitter_probability=0.0,
    grayscale=0.0,
    blur_probability=(0.0, 0.0, 0.0),
    solarize_probability=(0.0, 0.0, 0.0),
)


@dataclass(frozen=True)
class Data:
    """Views of the training images of several epochs, and held-out ones with their labels."""

    folder: Path
    batches: tuple[Views, ...]
    held_out: Views

    @classmethod
    def make(cls, folder: Path) -> Data:
        """Draw the scenes into the folder."""
        per_class = IMAGES // 10
        scenes = ScenesConfig(
            size=32, train_per_class=per_class, val_per_class=per_class, voc_images=0, davis_sequences=0
        )
        write_scenes(folder, scenes)
        parts: list[list[Any]] = []
        for split, epochs in (("train", EPOCHS_OF_VIEWS), ("val", 1)):
            path = folder / "folder" / split
            base = RunConfig(path, folder / "run", backbone="vit_micro_patch8_64", views=VIEWS, workers=0, device="cpu")
            config = replace(base, batch_size=BATCH if split == "train" else IMAGES, epochs=epochs)
            parts.append(list(Trainer(config, find_images(path), torch.device("cpu")).batches()))
        return cls(folder / "folder" / "train", tuple(parts[0]), parts[1][0])


def train(name: str, config: RunConfig, data: Data, steps: int, stop: int) -> Outcome:
    """Train with the warnings of training itself, and judge the end by other figures."""
    trainer = Trainer(config, find_images(data.folder), torch.device("cpu"))
    monitor, warned, kind, stopped = CollapseMonitor(trainer.method.diagnose, patience(trainer.total)), None, "", None
    for step in range(stop):
        try:
            verdict = monitor.judge(trainer.make_step(data.batches[step % len(data.batches)]))
        except UserError:
            stopped = step + 1
            break
        if verdict is not None and warned is None:
            warned, kind = step + 1, verdict.kind
    collapsed, figure = judged(trainer, data.held_out)
    shown = {path: _value(config, path) for path in RANGE} if name.isdigit() else {}
    return Outcome(name, shown, steps, warned, kind, collapsed, figure, stopped)


def _value(config: RunConfig, path: str) -> Any:
    group, _, name = path.partition(".")
    return getattr(getattr(config, group), name)


@torch.no_grad()
def judged(trainer: Trainer, views: Views) -> tuple[bool, float]:
    """Return whether the run has collapsed, and the figure that it is judged by."""
    outputs = trainer.method.eval().encode(views)
    if "student" in outputs:
        share = information(outputs["student"]) / math.log(outputs["student"].shape[-1])
        return share < COLLAPSED_INFORMATION, share
    embeddings = outputs["projection"][0]
    rank = rank_me(embeddings - embeddings.mean(dim=0))
    return rank < embeddings.shape[1] / 10 or float(embeddings.std(dim=0).mean()) < 0.02, rank


def information(logits: Tensor, temperature: float = 0.1) -> float:
    """Return the mutual information of image and output in nats. logits: [views, images, K]."""
    outputs = torch.softmax(logits / temperature, dim=-1).flatten(0, 1)
    return float(entropy(outputs.mean(dim=0)) - entropy(outputs).mean())


def line(outcome: Outcome) -> str:
    """One row of the table."""
    shown = " ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in outcome.settings.values())
    warning = (
        f"{outcome.warned} {outcome.kind}" if outcome.warned else f"stopped {outcome.stopped}" * bool(outcome.stopped)
    )
    ended = "collapsed" if outcome.collapsed else ""
    return f"{outcome.name:3} | {shown} | {outcome.figure:.3f} | {ended} | {warning} | {outcome.verdict}"


def summary(outcomes: list[Outcome]) -> str:
    """Count verdicts."""
    counts = {each: sum(outcome.verdict == each for outcome in outcomes) for each in ("in time", "late", "missed")}
    collapsed = sum(counts.values())
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    alarms = sum(outcome.verdict == "false alarm" for outcome in outcomes)
    stopped = sum(outcome.verdict == "stopped" for outcome in outcomes)
    return (
        f"{len(outcomes)} runs, {collapsed} collapsed ({told}); {alarms} false alarms; {stopped} stopped by themselves"
    )


if __name__ == "__main__":
    sys.exit(main())
