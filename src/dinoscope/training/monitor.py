"""Watches a run for collapse and says so in plain words."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope.methods.health import Verdict


def rank_me(features: Float[Tensor, "n d"]) -> float:
    """RankMe (Garrido et al. 2023, Eq. 1): exp of the entropy of the normalised singular values.

    From 1 (all features on a line) to min(n, d).
    """
    singular = torch.linalg.svdvals(features.float())
    shares = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def patience(total: int) -> int:
    """Steps of a run of `total` before the first verdict on it."""
    return max(300, total // 10)


class CollapseMonitor:
    """Judges the mean of the last `window` steps, and only after `patience` steps: every run starts uniform.

    Args:
        diagnose: the method's judgement of mean values; None is healthy.
        patience: steps before the first verdict.
        window: steps that a verdict rests on; of a run that goes on, they are made anew.
        steps: that the run made before.
    """

    def __init__(
        self,
        diagnose: Callable[[Mapping[str, float]], Verdict | None],
        patience: int,
        window: int = 50,
        steps: int = 0,
    ) -> None:
        self.diagnose, self.patience, self.steps = diagnose, patience, steps
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.told: set[str] = set()

    def judge(self, values: Mapping[str, float]) -> Verdict | None:
        """Take in one step's scalars; return a verdict the first time that its kind of collapse is seen, else None."""
        self.steps += 1
        self.recent.append(values)
        if self.steps < self.patience or len(self.recent) < (self.recent.maxlen or 0):
            return None
        means = {name: sum(step[name] for step in self.recent) / len(self.recent) for name in values}
        verdict = self.diagnose(means)
        if verdict is None or verdict.kind in self.told:
            return None
        self.told.add(verdict.kind)
        return verdict


class FeatureWindow:
    """The features of the last images seen by all processes, for RankMe between evaluations."""

    def __init__(self, size: int = 1024) -> None:
        self.batches: deque[Tensor] = deque()
        self.size = size

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Keep the features of a step, drop the oldest steps beyond the size."""
        self.batches.append(features.detach().float().cpu())
        while sum(map(len, self.batches)) - len(self.batches[0]) >= self.size:
            self.batches.popleft()

    def features(self) -> Float[Tensor, "n d"]:
        """All that is kept."""
        return torch.cat(list(self.batches))
