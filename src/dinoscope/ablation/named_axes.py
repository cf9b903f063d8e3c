"""The axes of the named studies: what of DINO is varied, and the paper's tables that ask the same (Caron et al. 2021).

Values that only one scale of a study has are in `studies`.
"""

from __future__ import annotations

from typing import Any

from dinoscope.ablation.named_study import NamedAxis, Times, Value
from dinoscope.ablation.study_file import label_of


def each(setting: str, *values: Any) -> tuple[Value, ...]:
    """The values of one setting, labelled with themselves."""
    return tuple(Value("" if isinstance(value, Times) else label_of(value), {setting: value}) for value in values)


def sharpness(*temperatures: float) -> tuple[Value, ...]:
    """Constant temperatures of the teacher."""
    return tuple(
        Value(f"{one:g}", {"method.teacher_temperature": one, "method.warmup_teacher_temperature": one})
        for one in temperatures
    )


def warmed_up(begin: float, end: float, epochs: int) -> Value:
    """A temperature of the teacher that rises over the first epochs."""
    return Value(
        f"{begin:g} to {end:g}",
        {
            "method.teacher_temperature": end,
            "method.warmup_teacher_temperature": begin,
            "method.warmup_teacher_temperature_epochs": epochs,
        },
    )


# Collapse

_EVEN = {"method.teacher_temperature": 0.1, "method.warmup_teacher_temperature": 0.1}
"""No sharpening: the student's own temperature."""

COLLAPSE = NamedAxis(
    "Centring and sharpening (Figure 7)",
    (
        Value("both", {"method.balance": "center"}),
        Value("centring only", _EVEN),
        Value("sharpening only", {"method.balance": "none"}),
        Value("neither", {"method.balance": "none", **_EVEN}),
    ),
)

SINKHORN = Value("Sinkhorn, not centring", {"method.balance": "sinkhorn"})
SOFTMAX = Value("softmax over the batch", {"method.balance": "softmax"})
CENTRING = Value("centring, not Sinkhorn", {"method.balance": "center"})

OTHER_MEANS = NamedAxis(
    "Sinkhorn or the softmax over the batch for centring (Table 15), and KoLeo besides (not in the paper), each alone",
    (
        Value("Sinkhorn for centring", SINKHORN.settings),
        Value("softmax for centring", SOFTMAX.settings),
        Value("KoLeo too", {"method.koleo": 0.5}),
    ),
)

# Teacher, loss, parts

TEACHER = NamedAxis(
    "Where the teacher's weights come from (Figure 6, right)",
    tuple(
        Value(label, {"method.teacher": rule})
        for label, rule in (
            ("momentum", "ema"),
            ("student's own", "student"),
            ("previous step", "previous_step"),
            ("previous epoch", "previous_epoch"),
            ("frozen", "frozen"),
        )
    ),
)

WITHOUT_MOMENTUM = Value("no momentum teacher", {"method.teacher": "student"})
PREDICTOR = Value("with a predictor", {"method.predictor": "mlp"})
NO_MULTICROP = Value("no multi-crop", {"views.num_local": 0, "views.global_scale": [0.14, 1.0]})
"""With the wider global views that the authors take for that case (`view_presets.two_views`)."""

COMPONENTS = "Components, each changed alone (Table 7; softmax: Table 15)"
MOMENTUM = "Momentum of the teacher at the start, from where it rises to 1 (not in the paper)"
TEMPERATURE = "Temperature of the teacher (appendix D)"
LOCAL_VIEWS = "Local views (Tables 7 and 8)"


def losses(*names: str) -> NamedAxis:
    """What the student minimises."""
    return NamedAxis("What the student minimises (Table 7, row 5: MSE)", each("method.loss", *names))


def student_temperature() -> NamedAxis:
    """Of the student, around the paper's 0.1."""
    return NamedAxis(
        "Temperature of the student (not in the paper)", each("method.student_temperature", 0.08, 0.1, 0.15, 0.2)
    )


# Views


def local_views(count: int) -> Value:
    """Small local views beside two global ones, as `small_32` has them."""
    changes = {"views.local_size": Times("views.global_size", 0.5), "views.local_scale": [0.12, 0.4]}
    return Value(f"{count} local", {"views.num_local": count, **changes})


def scales(*, local: bool) -> NamedAxis:
    """Global views cover a share from s to 1 of the image; local ones, where the base has them, from 0.05 to s."""
    values = []
    for share in (0.08, 0.16, 0.24, 0.32, 0.48):
        settings = {"views.global_scale": [share, 1.0]} | ({"views.local_scale": [0.05, share]} if local else {})
        values.append(Value(f"s = {share:g}", settings))
    what = "Scales of the views, (s, 1) and (0.05, s)" if local else "Scale of the views, (s, 1)"
    return NamedAxis(f"{what} (appendix E)", tuple(values))


AUGMENTATIONS = NamedAxis(
    "Augmentations, each left out alone (not in the paper)",
    (
        Value("no random crop", {"views.global_scale": [1.0, 1.0]}),
        Value("no flip", {"views.horizontal_flip": 0.0}),
        Value("no colour jitter", {"views.jitter_probability": 0.0}),
        Value("no grey images", {"views.grayscale": 0.0}),
        Value("no blur", {"views.blur_probability": [0.0, 0.0, 0.0]}),
        Value("no solarisation", {"views.solarize_probability": [0.0, 0.0, 0.0]}),
    ),
    switches=True,
)

# Head

_HEAD_SWITCHES = (
    Value("ReLU", {"method.head_activation": "relu"}),
    Value("batch norm", {"method.head_batch_norm": True}),
    Value("no batch norm", {"method.head_batch_norm": False}),
    Value("bottleneck not of length 1", {"method.head_l2": False}),
    Value("no bottleneck", {"method.bottleneck_dim": 0}),
    Value("prototypes of any length", {"method.norm_last_layer": False}),
    Value("prototypes of length 1", {"method.norm_last_layer": True}),
    Value("plain last layer", {"method.head_weight_norm": False}),
)


def head(hidden: tuple[int, ...], bottlenecks: tuple[int, ...]) -> dict[str, NamedAxis]:
    """Depth, widths and form of the projection head."""
    return {
        "layers": NamedAxis("Layers of the head (appendix C)", each("method.head_layers", 1, 2, 3, 4)),
        "hidden": NamedAxis("Hidden units of the head (not in the paper)", each("method.hidden_dim", *hidden)),
        "bottleneck": NamedAxis(
            "Width of the bottleneck (not in the paper)", each("method.bottleneck_dim", *bottlenecks)
        ),
        "form": NamedAxis("Form of the head (appendix C, and more)", _HEAD_SWITCHES, switches=True),
    }


# Optimisation and data

LEARNING_RATE = NamedAxis(
    "Peak learning rate at batch 256 (not in the paper)",
    each("optimizer.learning_rate", *(Times("optimizer.learning_rate", factor) for factor in (0.25, 0.5, 1, 2, 4))),
)

DROP_PATH = NamedAxis("Stochastic depth of the student (not in the paper)", each("drop_path", 0.0, 0.1, 0.2))

OPTIMISATION = NamedAxis(
    "Optimiser and its schedules, each changed alone (not in the paper)",
    (
        Value("SGD at 0.03", {"optimizer.name": "sgd", "optimizer.learning_rate": 0.03}),
        Value("LARS at 0.3", {"optimizer.name": "lars", "optimizer.learning_rate": 0.3}),
        Value("rate by the square root of the batch", {"optimizer.scaling": "sqrt"}),
        Value("rate whatever the batch", {"optimizer.scaling": "none"}),
        Value("no warm-up", {"optimizer.warmup_epochs": 0.0}),
        Value(
            "warm-up from a tenth of the rate", {"optimizer.start_learning_rate": Times("optimizer.learning_rate", 0.1)}
        ),
        Value("weight decay rises to 0.4", {"optimizer.final_weight_decay": 0.4}),
        Value("constant weight decay", {"optimizer.final_weight_decay": Times("optimizer.weight_decay", 1)}),
        Value("no weight decay", {"optimizer.weight_decay": 0.0, "optimizer.final_weight_decay": 0.0}),
        Value("weight decay on biases and norms too", {"optimizer.decayed": "all"}),
        Value("no clipping", {"optimizer.clip": 0.0}),
        Value("clipping at 0.3", {"optimizer.clip": 0.3}),
        Value("last layer free from the start", {"method.freeze_last_layer_epochs": 0}),
        Value("last layer frozen for an epoch", {"method.freeze_last_layer_epochs": 1}),
    ),
    switches=True,
)
"""SGD and LARS at the rates of this package's recipes for ResNet-50: untuned for anything else."""

FRACTION = NamedAxis(
    "Share of the training images, with as many epochs of it (not in the paper)", each("fraction", 0.1, 0.25, 0.5, 1.0)
)
