"""Settings of DINO (Caron et al. 2021), the switches of its ablation studies among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from dinoscope.methods.method import RunShape, too_few_views

Loss = Literal["cross_entropy", "kl", "reverse_kl", "mse", "mse_softmax"]
Balance = Literal["center", "sinkhorn", "softmax", "none"]
TeacherRule = Literal["ema", "student", "previous_step", "previous_epoch", "frozen"]
Predictor = Literal["none", "mlp"]
Activation = Literal["gelu", "relu"]

_CHOICES = {
    "loss": Loss,
    "balance": Balance,
    "teacher": TeacherRule,
    "predictor": Predictor,
    "head_activation": Activation,
}


@dataclass(frozen=True)
class DINOConfig:
    """Settings of DINO; the defaults are the reference's. docs/methods/dino.md has what the paper found of each.

    out_dim: K, the number of outputs (prototypes). 65,536 for ImageNet; a few thousand or fewer for small sets.
    hidden_dim, bottleneck_dim, head_layers: the projection head's MLP. bottleneck_dim 0 leaves the bottleneck out:
        the last layer maps straight from the hidden units, and the head has head_layers linear maps in all.
    head_batch_norm: batch norm inside that MLP. It tells images apart from the first step on, which lets small
        networks start that would else stay at ln K for long.
    head_activation: between the linear maps.
    head_l2: bring the bottleneck to length 1.
    head_weight_norm: hold direction and length of the prototypes apart; False is a plain linear last layer.
    norm_last_layer: hold the prototypes at length 1: steadier; False does a little better for ViT-S. Without
        head_weight_norm it does nothing.
    predictor: "mlp" puts two linear maps with a ReLU between them behind the student's bottleneck, as BYOL has it;
        the teacher has none.
    loss: how far the student is from the teacher, over pairs of different views. "cross_entropy" (the paper); "kl",
        of the student from the teacher, which has the same gradient and is less by the teacher's entropy;
        "reverse_kl", of the teacher from the student; "mse", of the L2-normalised outputs, without temperatures (the
        paper's and BYOL's); "mse_softmax", of the probabilities.
    student_temperature: sharpness of the student's output.
    teacher_temperature, warmup_teacher_temperature, warmup_teacher_temperature_epochs: the teacher's; lower is
        sharper. Lower it (0.02) when the loss stays at ln K. At the student's temperature nothing is sharpened.
    balance: how the teacher's outputs are kept from collapsing. "center" subtracts a moving mean (the paper);
        "sinkhorn" shares the batch out equally among the outputs (the paper's Table 15, and DINOv2): sturdier for
        short runs and small networks; "softmax" does so once, roughly (Table 15); "none" leaves them as they are.
    koleo: weight of a loss that pushes apart the bottlenecks of the images in a batch (DINOv2 has it, on the
        features); 0 is the paper. It makes small networks start within minutes.
    center_momentum: of the moving mean subtracted from the teacher's output, against collapse to one output.
    teacher: whose weights the teacher has: "ema", a moving average of the student's; "student", the student's own of
        this step; "previous_step", its own of the step before; "previous_epoch", its own at the end of the epoch
        before (the first ones in the first epoch); "frozen", its first ones for good. Gradients never reach it.
        Evaluations use the teacher under "ema", else the student.
    teacher_momentum: of "ema" at the start; rises to 1 by a cosine. Longer runs and smaller batches want it nearer to
        1 (0.9995 at batch 256), very short runs lower.
    freeze_last_layer_epochs: the prototypes do not move in the first epochs.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    head_batch_norm: bool = False
    head_activation: Activation = "gelu"
    head_l2: bool = True
    head_weight_norm: bool = True
    norm_last_layer: bool = True
    predictor: Predictor = "none"
    loss: Loss = "cross_entropy"
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: int = 0
    balance: Balance = "center"
    koleo: float = 0.0
    center_momentum: float = 0.9
    teacher: TeacherRule = "ema"
    teacher_momentum: float = 0.996
    freeze_last_layer_epochs: int = 1

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")
        for name in ("student_temperature", "teacher_temperature", "warmup_teacher_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("center_momentum", "teacher_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 to 1, not {getattr(self, name)}")
        if self.out_dim < 2 or self.head_layers < 1:
            raise ValueError(
                f"out_dim must be at least 2 and head_layers at least 1, not {self.out_dim} and {self.head_layers}"
            )
        if self.hidden_dim < 1 or self.bottleneck_dim < 0:
            raise ValueError(
                f"hidden_dim must be at least 1 and bottleneck_dim 0 (none) or more, not {self.hidden_dim} and "
                f"{self.bottleneck_dim}"
            )
        if self.loss == "mse" and self.balance in ("sinkhorn", "softmax"):
            raise ValueError(
                f"loss mse compares outputs, and balance {self.balance} gives probabilities: take balance center or "
                "none, or loss mse_softmax"
            )
        if self.koleo < 0:
            raise ValueError(f"koleo must be 0 (off) or more, not {self.koleo}")

    def faults(self, run: RunShape) -> Iterator[str]:
        """See `MethodConfig.faults`."""
        yield from too_few_views("DINO", run)
        if self.freeze_last_layer_epochs >= run.epochs:
            yield (
                f"the last layer would be frozen for all of the run's {run.epochs:g} epochs: "
                "lower --method.freeze-last-layer-epochs or raise --epochs"
            )
