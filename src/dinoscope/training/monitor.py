"""Watches a run for collapse and says so in plain words."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def rank_me(features: Float[Tensor, "n d"]) -> float:
    """RankMe (Garrido et al. 2023, Eq. 1): exp of the entropy of the normalised singular values.

    From 1 (all features on a line) to min(n, d).
    """
    singular = torch.linalg.svdvals(features.float())
    shares = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_spread(features: Float[Tensor, "n d"]) -> float:
    """Standard deviation of L2-normalised features times sqrt(d): 0 when all are equal, 1 when isotropic."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[-1]))


class CollapseMonitor:
    """Judges the mean of the last `window` steps, and only after `patience` steps: every run starts uniform.

    Args:
        uniform_loss: ln K, the loss when student and teacher say nothing.
        patience: steps before the first verdict.
        window: steps that a verdict rests on.
    """

    def __init__(self, uniform_loss: float, patience: int, window: int = 50) -> None:
        self.uniform_loss, self.patience = uniform_loss, patience
        self.steps = 0
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.told: set[str] = set()

    def judge(self, values: Mapping[str, float]) -> str | None:
        """Take in one step's scalars; return a sentence the first time that a kind of collapse is seen, else None."""
        self.steps += 1
        self.recent.append(values)
        if self.steps < self.patience or len(self.recent) < (self.recent.maxlen or 0):
            return None
        kind, verdict = self._verdict()
        if kind in self.told:
            return None
        self.told.add(kind)
        return verdict

    def _verdict(self) -> tuple[str, str | None]:
        """Kind of collapse, and the sentence with the figures of the moment (None: healthy)."""
        loss, entropy, marginal = (
            self._mean(name) for name in ("cross_entropy", "teacher_entropy", "teacher_marginal_entropy")
        )
        if marginal < 0.02 * self.uniform_loss:
            return "one output", (
                f"collapsed to one output: the teacher gives every image the same answer (entropy of its mean output "
                f"{marginal:.3f} of {self.uniform_loss:.2f} nats). Raise --method.teacher-temperature, lower "
                "--method.center-momentum, or lower the learning rate."
            )
        if loss > 0.995 * self.uniform_loss and entropy > 0.98 * self.uniform_loss:
            return "uniform", (
                f"stuck at the uniform output: the loss is {loss:.3f}, ln K is {self.uniform_loss:.3f}. Lower "
                "--method.teacher-temperature (0.02) and its warm-up, lower --method.out-dim for a small data set, "
                "or train for more steps with a higher learning rate."
            )
        return "none", None

    def _mean(self, name: str) -> float:
        return sum(values[name] for values in self.recent) / len(self.recent)


class FeatureWindow:
    """The features of the last images seen, for RankMe between evaluations."""

    def __init__(self, size: int = 1024) -> None:
        self.batches: deque[Tensor] = deque()
        self.size = size

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Keep these features, drop the oldest beyond the size."""
        self.batches.append(features.detach().float().cpu())
        while sum(map(len, self.batches)) - len(self.batches[0]) >= self.size:
            self.batches.popleft()

    def features(self) -> Float[Tensor, "n d"]:
        """All that is kept."""
        return torch.cat(list(self.batches))
