"""Results of ablation studies in realistic shape, made of formulas, for the tests of what comes out of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dinoscope.study.definition import Variant
from dinoscope.study.effects import AblationResult, AblationRun

K = 256
STEPS = range(0, 801, 20)
BASE = Variant("", "DINO")

State = Literal["finished", "collapsed", "stopped", "failed"]


def run(variant: Variant, seed: int, knn: float | None, state: State = "finished", **fields: Any) -> AblationRun:
    """A run whose only measure is k-NN, if any."""
    metrics = {} if knn is None else {"knn": knn}
    return AblationRun(variant, seed, state, metrics={**metrics, **fields.pop("metrics", {})}, **fields)


def study(
    base: Sequence[float | None], variants: Mapping[tuple[str, str], Sequence[float | None]], **fields: Any
) -> AblationResult:
    """k-NN of the baseline and of (axis, label), one value for each seed from 0 on; None failed."""
    runs = [_knn_run(BASE, seed, value) for seed, value in enumerate(base)]
    for (axis, label), values in variants.items():
        runs += [_knn_run(Variant(axis, label), seed, value) for seed, value in enumerate(values)]
    axes = fields.pop("axes", {axis: axis.capitalize() for axis, _ in variants})
    return AblationResult("study", "A study", BASE, axes, tuple(runs), **fields)


def _knn_run(variant: Variant, seed: int, knn: float | None) -> AblationRun:
    return run(variant, seed, knn, "finished" if knn is not None else "failed")


def full_run(variant: Variant, seed: int, knn: float, kind: str = "", weight: float = 1.0) -> AblationRun:
    """With all measures and curves. kind: "one class", "even" or "" (healthy)."""
    random = np.random.default_rng([seed, *variant.label.encode(), *variant.axis.encode()])
    knn = knn + float(random.normal(0, 0.9 if not kind else 0.3))
    entropy, marginal = _entropies(kind, random, weight)
    curves = {
        "teacher_entropy": entropy,
        "teacher_marginal_entropy": marginal,
        "kl_teacher_student": _logged(lambda t: 0.02 + (0.0 if kind else 1.2 * (1 - math.exp(-4 * t))), random, 0.05),
        "loss": _logged(lambda t: math.log(K) - (2.2 * t if not kind else 0), random, 0.08),
        "knn_top1": tuple(
            (step, round(10 + (knn - 10) * (1 - math.exp(-3 * step / STEPS[-1])), 1)) for step in STEPS[5::5]
        ),
    }
    metrics = {
        "knn": round(knn, 1),
        "linear": round(knn + 18 + float(random.normal()), 1),
        "rank": 2.0 if kind else 4 + 0.9 * knn + float(random.normal(0, 2)),
        "voc": 28 + 0.2 * knn + float(random.normal()),
        "teacher_entropy": entropy[-1][1],
        "images_per_second": 240 + float(random.normal(0, 4)),
    }
    state = "collapsed" if kind else "finished"
    diagnosis = f"collapsed: {kind}" if kind else ""
    return AblationRun(variant, seed, state, diagnosis, metrics, curves, f"runs/{variant.axis}-{variant.label}-s{seed}")


def _entropies(kind: str, random: np.random.Generator, weight: float) -> tuple[Any, Any]:
    most = math.log(K)
    if kind == "one class":
        fall = lambda t: most * 0.9 * math.exp(-12 * t)
        return _logged(fall, random, 0.0), _logged(lambda t: most * math.exp(-10 * t), random, 0.0)
    if kind == "even":
        return _logged(lambda t: most * (1 - 0.5 * math.exp(-15 * t)), random, 0.0), _logged(
            lambda t: most, random, 0.0
        )
    return (
        _logged(lambda t: most * (0.5 + 0.25 * weight * math.exp(-3 * t)), random, 0.06),
        _logged(lambda t: most * 0.985, random, 0.01),
    )


def _logged(curve: Any, random: np.random.Generator, noise: float) -> tuple[tuple[int, float], ...]:
    return tuple((step, float(curve(step / STEPS[-1]) + random.normal(0, noise))) for step in STEPS)


def realistic() -> AblationResult:
    """Collapse (6 variants x 3 seeds), batch size (5 x 3) and components (12 x 3, one failed, two ended early)."""
    axes = {
        "collapse": "Centring and sharpening (Fig. 7 of the paper)",
        "batch size": "Batch size (Table 9 of the paper)",
        "components": "Components (Tables 7 and 14 of the paper)",
    }
    runs = [full_run(BASE, seed, 34.0) for seed in range(3)]
    for label, knn, kind in (
        ("no centring", 11.0, "one class"),
        ("no sharpening", 12.0, "even"),
        ("neither", 10.5, "even"),
        ("Sinkhorn-Knopp", 33.8, ""),
        ("teacher temperature 0.07", 29.5, ""),
        ("centre momentum 0.999", 31.0, ""),
    ):
        runs += [
            full_run(Variant("collapse", label, {"method.centering": label}), seed, knn, kind) for seed in range(3)
        ]
    for size, knn in ((32, 27.0), (64, 31.0), (256, 34.5), (512, 33.0), (1024, 30.0)):
        variant = Variant("batch size", str(size), {"batch_size": size})
        runs += [full_run(variant, seed, knn, weight=size / 500) for seed in range(3)]
    components = (
        ("no multi-crop", 26),
        ("no momentum teacher", 12),
        ("2 local crops", 30),
        ("6 local crops", 33.5),
        ("predictor", 33.7),
        ("MSE loss", 18),
        ("head of 1 layer", 29),
        ("head of 2 layers", 32),
        ("batch norm in the head", 34.2),
        ("K = 1024 outputs", 33.1),
        ("no weight normalisation of the last layer", 31),
    )
    for label, knn in components:
        runs += [full_run(Variant("components", label, {"method.x": label}), seed, knn) for seed in range(3)]
    failed = Variant("components", "patches of 5", {"backbone.patch": 5})
    runs += [AblationRun(failed, seed, "failed", "32 pixels are no multiple of 5.") for seed in range(3)]
    facts = {
        "command": "dinoscope ablate collapse --data scenes",
        "commit": "0123abc",
        "machine": "2 cores",
        "data": "5,000 scenes",
    }
    own = {"batch size": Variant("batch size", "128", {"batch_size": 128})}
    return AblationResult("collapse-study", "What DINO needs not to collapse", BASE, axes, tuple(runs), K, facts, own)
