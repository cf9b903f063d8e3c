"""The ablations of Caron et al. 2021 by name, with the paper's values and with values for small data and machines."""

from __future__ import annotations

from typing import Any

from dinoscope.ablation.definition import DEFAULT_RECIPE, StudyDefinition
from dinoscope.ablation.named_study import AtScale, NamedAxis, NamedStudy, Times, Value, on_recipe
from dinoscope.ablation.study_file import label_of
from dinoscope.errors import lookup


def _each(setting: str, *values: Any) -> tuple[Value, ...]:
    """The values of one setting, labelled with themselves."""
    return tuple(Value("" if isinstance(value, Times) else label_of(value), {setting: value}) for value in values)


def _sharpness(*temperatures: float) -> tuple[Value, ...]:
    """Constant temperatures of the teacher."""
    return tuple(
        Value(f"{each:g}", {"method.teacher_temperature": each, "method.warmup_teacher_temperature": each})
        for each in temperatures
    )


_BATCHES = "Batch size (Table 9)"
_LOSSES = "What the student minimises (Table 7, row 5: MSE)"
_COLLAPSE = "Centring and sharpening (Figure 7)"
_TEACHERS = "Where the teacher's weights come from (Figure 6, right)"
_CROPS = "Local views (Tables 7 and 8)"
_MOMENTUM = "Momentum of the teacher at the start, from where it rises to 1 (not in the paper)"
_CENTRE = "Momentum of the centre (appendix D)"
_TEMPERATURE = "Temperature of the teacher (appendix D)"
_OUTPUTS = "Outputs of the head, K (appendix C)"
_PATCHES = "Patch size (Figure 5)"
_COMPONENTS = "Components, each changed alone (Table 7)"

_EVEN = {"method.teacher_temperature": 0.1, "method.warmup_teacher_temperature": 0.1}
"""No sharpening: the student's own temperature."""

_COLLAPSE_AXIS = NamedAxis(
    _COLLAPSE,
    (
        Value("both", {"method.balance": "center"}),
        Value("centring only", _EVEN),
        Value("sharpening only", {"method.balance": "none"}),
        Value("neither", {"method.balance": "none", **_EVEN}),
    ),
)

_COLLAPSE_ALONE = NamedAxis(
    "The same without KoLeo, which pushes images apart and so hides a collapse; the base has it",
    tuple(
        Value(label, {"method.koleo": 0.0, **changes})
        for label, changes in (
            ("both", {}),
            ("centring only", _EVEN),
            ("sharpening only", {"method.balance": "none"}),
        )
    ),
)

_TEACHER_AXIS = NamedAxis(
    _TEACHERS,
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


def _local_views(count: int) -> Value:
    """Small local views beside two global ones, as `small_32` has them."""
    changes = {"views.local_size": Times("views.global_size", 0.5), "views.local_scale": [0.12, 0.4]}
    return Value(f"{count} local", {"views.num_local": count, **changes})


_WITHOUT_MOMENTUM = Value("no momentum teacher", {"method.teacher": "student"})
_SINKHORN = Value("Sinkhorn, not centring", {"method.balance": "sinkhorn"})
_CENTRING = Value("centring, not Sinkhorn", {"method.balance": "center"})
_PREDICTOR = Value("with a predictor", {"method.predictor": "mlp"})

_HEAD_SWITCHES = (
    Value("ReLU", {"method.head_activation": "relu"}),
    Value("batch norm", {"method.head_batch_norm": True}),
    Value("no batch norm", {"method.head_batch_norm": False}),
    Value("bottleneck not of length 1", {"method.head_l2": False}),
    Value("no bottleneck", {"method.bottleneck_dim": 0}),
    Value("prototypes of any length", {"method.norm_last_layer": False}),
    Value("plain last layer", {"method.head_weight_norm": False}),
)


def _head(*bottlenecks: int) -> dict[str, NamedAxis]:
    return {
        "layers": NamedAxis("Layers of the head (appendix C)", _each("method.head_layers", 1, 2, 3, 4)),
        "bottleneck": NamedAxis(
            "Width of the bottleneck (not in the paper)", _each("method.bottleneck_dim", *bottlenecks)
        ),
        "form": NamedAxis("Form of the head (appendix C, and more)", _HEAD_SWITCHES, switches=True),
    }


STUDIES: dict[str, NamedStudy] = {
    "components": NamedStudy(
        "Which components matter? (Table 7)",
        {
            "paper": AtScale(
                {
                    "component": NamedAxis(
                        _COMPONENTS,
                        (
                            _WITHOUT_MOMENTUM,
                            Value("no multi-crop", {"views.num_local": 0, "views.global_scale": [0.14, 1.0]}),
                            Value("MSE, not cross-entropy", {"method.loss": "mse"}),
                            _SINKHORN,
                            _CENTRING,
                            _PREDICTOR,
                        ),
                        switches=True,
                    )
                }
            ),
            "small": AtScale(
                {
                    "component": NamedAxis(
                        _COMPONENTS,
                        (
                            _WITHOUT_MOMENTUM,
                            Value("no multi-crop", {"views.num_local": 0}),
                            _local_views(4),
                            Value("MSE of probabilities", {"method.loss": "mse_softmax"}),
                            _SINKHORN,
                            _CENTRING,
                            _PREDICTOR,
                            Value("no KoLeo", {"method.koleo": 0}),
                            Value("no batch norm in the head", {"method.head_batch_norm": False}),
                        ),
                        switches=True,
                    )
                }
            ),
        },
    ),
    "collapse": NamedStudy(
        "Do centring and sharpening each prevent one kind of collapse? (Figure 7)",
        {
            "paper": AtScale({"balance": _COLLAPSE_AXIS}),
            "small": AtScale({"balance": _COLLAPSE_AXIS, "no KoLeo": _COLLAPSE_ALONE}, {"method.balance": "center"}),
        },
    ),
    "teacher": NamedStudy(
        "What makes a good teacher? (Figure 6, right)",
        {"paper": AtScale({"teacher": _TEACHER_AXIS}), "small": AtScale({"teacher": _TEACHER_AXIS})},
    ),
    "loss": NamedStudy(
        "Cross-entropy against other losses (Table 7)",
        {
            "paper": AtScale(
                {
                    "loss": NamedAxis(
                        _LOSSES, _each("method.loss", "cross_entropy", "mse", "mse_softmax", "kl", "reverse_kl")
                    )
                }
            ),
            "small": AtScale(
                {"loss": NamedAxis(_LOSSES, _each("method.loss", "cross_entropy", "mse_softmax", "kl", "reverse_kl"))}
            ),
        },
    ),
    "multicrop": NamedStudy(
        "What local views bring, and what they cost (Table 8)",
        {
            "paper": AtScale(
                {
                    "local views": NamedAxis(
                        _CROPS,
                        (
                            Value("none", {"views.num_local": 0, "views.global_scale": [0.14, 1.0]}),
                            *(Value(f"{count} local", {"views.num_local": count}) for count in (2, 6, 10)),
                        ),
                    )
                }
            ),
            "small": AtScale(
                {
                    "local views": NamedAxis(
                        _CROPS, (Value("none", {"views.num_local": 0}), *map(_local_views, (2, 4, 6)))
                    )
                }
            ),
        },
    ),
    "batch-size": NamedStudy(
        "How small may the batch be? (Table 9)",
        {
            "paper": AtScale({"batch size": NamedAxis(_BATCHES, _each("batch_size", 128, 256, 512, 1024))}),
            "small": AtScale(
                {
                    "batch size": NamedAxis(
                        _BATCHES, _each("batch_size", *(Times("batch_size", share) for share in (1 / 4, 1 / 2, 1, 2)))
                    )
                }
            ),
        },
    ),
    "momentum": NamedStudy(
        "How slowly should teacher and centre follow? (centre: appendix D)",
        {
            "paper": AtScale(
                {
                    "teacher momentum": NamedAxis(
                        _MOMENTUM, _each("method.teacher_momentum", 0.0, 0.9, 0.99, 0.996, 0.999)
                    ),
                    "centre momentum": NamedAxis(_CENTRE, _each("method.center_momentum", 0.0, 0.9, 0.99, 0.999)),
                }
            ),
            "small": AtScale(
                {
                    "teacher momentum": NamedAxis(
                        _MOMENTUM, _each("method.teacher_momentum", 0.0, 0.9, 0.97, 0.99, 0.996)
                    )
                }
            ),
        },
    ),
    "temperature": NamedStudy(
        "How sharp should the teacher be? (appendix D)",
        {
            "paper": AtScale(
                {
                    "teacher temperature": NamedAxis(
                        _TEMPERATURE,
                        (
                            *_sharpness(0.02, 0.04, 0.06, 0.08),
                            Value(
                                "0.04 to 0.07",
                                {
                                    "method.teacher_temperature": 0.07,
                                    "method.warmup_teacher_temperature": 0.04,
                                    "method.warmup_teacher_temperature_epochs": 30,
                                },
                            ),
                        ),
                    )
                }
            ),
            "small": AtScale({"teacher temperature": NamedAxis(_TEMPERATURE, _sharpness(0.02, 0.03, 0.04, 0.06, 0.1))}),
        },
    ),
    "head": NamedStudy(
        "How should the projection head be built? (appendix C)",
        {"paper": AtScale(_head(64, 128, 256, 512)), "small": AtScale(_head(16, 32, 64, 128))},
    ),
    "output-dim": NamedStudy(
        "How many outputs? (appendix C)",
        {
            "paper": AtScale(
                {"outputs": NamedAxis(_OUTPUTS, _each("method.out_dim", 1024, 4096, 16384, 65536, 262144))}
            ),
            "small": AtScale({"outputs": NamedAxis(_OUTPUTS, _each("method.out_dim", 64, 256, 512, 1024, 4096))}),
        },
    ),
    "patch-size": NamedStudy(
        "What do smaller patches bring, and what do they cost? (Figure 5)",
        {
            "paper": AtScale(
                {"patch": NamedAxis(_PATCHES, _each("backbone", "vit_small_patch16_224", "vit_small_patch8_224"))},
                networks=("vit_small_patch16_224",),
            ),
            "small": AtScale(
                {
                    "patch": NamedAxis(
                        _PATCHES, _each("backbone", *(f"vit_micro_patch{side}_64" for side in (16, 8, 4)))
                    )
                },
                {"backbone": "vit_micro_patch8_64"},
                networks=("vit_micro_conv8",),
            ),
        },
    ),
}
"""name -> the study. The small values of a network's width, K, or momentum are those that a run of minutes bears."""


def named_study(name: str, recipe: str = DEFAULT_RECIPE) -> StudyDefinition:
    """A study by name. Raises UserError for an unknown name, or as `on_recipe` does."""
    return on_recipe(name, lookup("ablation study", name, STUDIES), recipe)
