"""Linear classifiers trained side by side, one for each learning rate, on the same batches.

All of them together are one matrix [dim, rates * classes]: a step is two matrix products, whatever the number
of rates. Each goes the way it would go alone: torch's SGD with momentum 0.9 on the mean cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.evaluation.statistics import share_metric
from dinoscope.types import Metric

MOMENTUM = 0.9
INITIAL_DEVIATION = 0.01
"""Of the weights; biases begin at 0 (DINO's linear evaluation)."""
_ROWS = 1024  # images at a time where nothing is trained


class Probes:
    """Weights of `rates` linear classifiers, all beginning at the same ones, and their momentum.

    rates: the learning rate of each.
    seed: of the first weights, which do not depend on the device.
    """

    def __init__(self, rates: Sequence[float], dim: int, classes: int, *, seed: int, device: torch.device) -> None:
        first = torch.randn(dim, 1, classes, generator=torch.Generator().manual_seed(seed)).mul(INITIAL_DEVIATION)
        self.rates = torch.tensor(rates, device=device)[:, None]
        self.weight = first.to(device).expand(-1, len(rates), -1).contiguous()
        self.bias = torch.zeros(len(rates), classes, device=device)
        self._velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b r c"]:
        """Logits of each classifier."""
        return torch.mm(features, self.weight.flatten(1)).view(len(features), *self.bias.shape) + self.bias

    @torch.no_grad()
    def step(self, features: Float[Tensor, "b d"], labels: Int[Tensor, " b"], factor: float) -> None:
        """One step of SGD on the mean cross-entropy of a batch, with `factor` times the learning rates."""
        # The gradient of the mean cross-entropy by the logits: (softmax - one-hot) / batch.
        error = self.logits(features).softmax(dim=2)
        error[torch.arange(len(labels), device=labels.device), :, labels] -= 1
        error /= len(labels)
        weight, bias = self._velocity
        weight.flatten(1).addmm_(features.T, error.flatten(1), beta=MOMENTUM)
        bias.mul_(MOMENTUM).add_(error.sum(dim=0))
        rates = -factor * self.rates
        self.weight.addcmul_(weight, rates)
        self.bias.addcmul_(bias, rates)

    @torch.no_grad()
    def accuracy(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        prepare: Callable[[Float[Tensor, "b d"]], Float[Tensor, "b d"]] = lambda features: features,
    ) -> Float[Tensor, "2 r"]:
        """Top-1 and top-5 accuracy in % of each classifier; `prepare` is applied to the features before."""
        count = min(5, self.bias.shape[1])
        right = torch.zeros(count, len(self.bias), dtype=torch.int64)
        for rows in slices(len(features)):
            logits = self.logits(prepare(features[rows].to(self.weight.device)))
            hits = logits.topk(count, dim=2).indices == labels[rows, None, None].to(logits.device)
            right += hits.sum(dim=0).T.cpu()
        return 100 * torch.stack([right[0], right.sum(dim=0)]).double() / len(features)


@dataclass(frozen=True)
class Standardize:
    """Features to mean 0 and deviation 1, as measured on the training images; a constant feature becomes 0."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    def __call__(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Apply it, on the device of the features."""
        return (features - self.mean.to(features.device)) * self.scale.to(features.device)


def standardization(features: Float[Tensor, "n d"], rows: Int[Tensor, " k"]) -> Standardize:
    """Mean and deviation over these rows, without copying all of them.

    Raises UserError where a feature is not finite.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for part in slices(len(rows)):
        total += features[rows[part]].double().sum(dim=0)
    if not total.isfinite().all():
        raise UserError("a feature is NaN or infinite: the model diverged, or its weights are damaged")
    mean, squares = total / len(rows), torch.zeros_like(total)
    for part in slices(len(rows)):
        squares += (features[rows[part]] - mean).square().sum(dim=0)
    deviation = (squares / len(rows)).sqrt()
    # What is constant but for rounding must not be blown up to deviation 1.
    constant = deviation <= 1e-6 * torch.maximum(deviation.max(), mean.abs())
    return Standardize(mean.float(), deviation.reciprocal().masked_fill(constant, 0).float())


def metrics(name: str, accuracy: Float[Tensor, "2 1"], images: int) -> Iterator[Metric]:
    """Yield `NAME_top1` and `NAME_top5` of the accuracies of one classifier over so many images, in %."""
    for top, value in zip((1, 5), accuracy[:, 0], strict=True):
        yield share_metric(f"{name}_top{top}", float(value), images)


def slices(length: int) -> Iterator[slice]:
    """Consecutive slices of a thousand rows, so that working memory does not grow with the data."""
    for start in range(0, length, _ROWS):
        yield slice(start, start + _ROWS)
