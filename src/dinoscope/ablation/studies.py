"""The ablations of Caron et al. 2021 by name, and three beside them, with the paper's values and with small ones.

Small values of a network's width, K, or momentum are those that a run of minutes bears.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinoscope.ablation import named_axes as axes
from dinoscope.ablation.definition import DEFAULT_RECIPE, StudyDefinition
from dinoscope.ablation.named_axes import each
from dinoscope.ablation.named_study import AtScale, NamedAxis, NamedStudy, Scale, Times, Value, on_recipe
from dinoscope.errors import lookup


def _both(axes_of_both: Mapping[str, NamedAxis]) -> dict[Scale, AtScale]:
    """The same at both scales."""
    return {"paper": AtScale(axes_of_both), "small": AtScale(axes_of_both)}


def _of_one_setting(
    name: str, title: str, setting: str, paper: tuple[Any, ...], small: tuple[Any, ...]
) -> dict[Scale, AtScale]:
    """One axis, of one setting, with other values at each scale."""
    return {
        "paper": AtScale({name: NamedAxis(title, each(setting, *paper))}),
        "small": AtScale({name: NamedAxis(title, each(setting, *small))}),
    }


def _components(*values: Value) -> AtScale:
    return AtScale({"component": NamedAxis(axes.COMPONENTS, values, switches=True)})


def _temperatures(*values: Value) -> AtScale:
    return AtScale(
        {
            "teacher temperature": NamedAxis(axes.TEMPERATURE, values),
            "student temperature": axes.student_temperature(),
        }
    )


def _local_views(*values: Value) -> NamedAxis:
    return NamedAxis(axes.LOCAL_VIEWS, values)


_PATCHES = "Patch size (Figure 5)"
_COUNTS = (2, 4, 6, 8, 10)

STUDIES: dict[str, NamedStudy] = {
    "components": NamedStudy(
        "Which components matter? (Table 7)",
        {
            "paper": _components(
                axes.WITHOUT_MOMENTUM,
                axes.NO_MULTICROP,
                Value("MSE, not cross-entropy", {"method.loss": "mse"}),
                axes.SINKHORN,
                axes.CENTRING,
                axes.SOFTMAX,
                axes.PREDICTOR,
            ),
            "small": _components(
                axes.WITHOUT_MOMENTUM,
                Value("no multi-crop", {"views.num_local": 0}),
                axes.local_views(4),
                Value("MSE of probabilities", {"method.loss": "mse_softmax"}),
                axes.SINKHORN,
                axes.CENTRING,
                axes.SOFTMAX,
                axes.PREDICTOR,
                Value("no KoLeo", {"method.koleo": 0.0}),
                Value("no batch norm in the head", {"method.head_batch_norm": False}),
            ),
        },
    ),
    "collapse": NamedStudy(
        "Do centring and sharpening each prevent one kind of collapse? (Figure 7)",
        {
            "paper": AtScale({"balance": axes.COLLAPSE}),
            # KoLeo teaches the features by itself and so hides a collapse: the base has none
            "small": AtScale(
                {"balance": axes.COLLAPSE, "means": axes.OTHER_MEANS},
                {"method.balance": "center", "method.koleo": 0.0},
            ),
        },
    ),
    "teacher": NamedStudy("What makes a good teacher? (Figure 6, right)", _both({"teacher": axes.TEACHER})),
    "loss": NamedStudy(
        "Cross-entropy against other losses (Table 7)",
        {
            "paper": AtScale({"loss": axes.losses("cross_entropy", "mse", "mse_softmax", "kl", "reverse_kl")}),
            # mse does not go with the small recipe's Sinkhorn
            "small": AtScale({"loss": axes.losses("cross_entropy", "mse_softmax", "kl", "reverse_kl")}),
        },
    ),
    "multicrop": NamedStudy(
        "What local views bring, and what they cost (Table 8)",
        {
            "paper": AtScale(
                {
                    "local views": _local_views(
                        Value("none", axes.NO_MULTICROP.settings),
                        *(Value(f"{count} local", {"views.num_local": count}) for count in _COUNTS),
                    ),
                    "scales": axes.scales(local=True),
                }
            ),
            "small": AtScale(
                {
                    "local views": _local_views(Value("none", {"views.num_local": 0}), *map(axes.local_views, _COUNTS)),
                    "scales": axes.scales(local=False),
                }
            ),
        },
    ),
    "batch-size": NamedStudy(
        "How small may the batch be? (Table 9)",
        _of_one_setting(
            "batch size",
            "Batch size (Table 9)",
            "batch_size",
            (128, 256, 512, 1024),
            tuple(Times("batch_size", share) for share in (1 / 4, 1 / 2, 1, 2)),
        ),
    ),
    "momentum": NamedStudy(
        "How slowly should teacher and centre follow? (centre: appendix D)",
        {
            "paper": AtScale(
                {
                    "teacher momentum": NamedAxis(
                        axes.MOMENTUM, each("method.teacher_momentum", 0.0, 0.9, 0.99, 0.996, 0.999)
                    ),
                    "centre momentum": NamedAxis(
                        "Momentum of the centre (appendix D)", each("method.center_momentum", 0.0, 0.9, 0.99, 0.999)
                    ),
                }
            ),
            "small": AtScale(
                {
                    "teacher momentum": NamedAxis(
                        axes.MOMENTUM, each("method.teacher_momentum", 0.0, 0.9, 0.97, 0.99, 0.996)
                    )
                }
            ),
        },
    ),
    "temperature": NamedStudy(
        "How sharp should the teacher be? (appendix D)",
        {
            "paper": _temperatures(*axes.sharpness(0.02, 0.04, 0.06, 0.08), axes.warmed_up(0.04, 0.07, 30)),
            "small": _temperatures(*axes.sharpness(0.02, 0.03, 0.04, 0.06, 0.1), axes.warmed_up(0.02, 0.05, 2)),
        },
    ),
    "head": NamedStudy(
        "How should the projection head be built? (appendix C)",
        {
            "paper": AtScale(axes.head((512, 1024, 2048, 4096), (64, 128, 256, 512))),
            "small": AtScale(axes.head((64, 128, 256, 512), (16, 32, 64, 128))),
        },
    ),
    "output-dim": NamedStudy(
        "How many outputs? (appendix C)",
        _of_one_setting(
            "outputs",
            "Outputs of the head, K (appendix C)",
            "method.out_dim",
            (1024, 4096, 16384, 65536, 262144),
            (64, 256, 512, 1024, 4096),
        ),
    ),
    "patch-size": NamedStudy(
        "What do smaller patches bring, and what do they cost? (Figure 5)",
        {
            "paper": AtScale(
                {"patch": NamedAxis(_PATCHES, each("backbone", "vit_small_patch16_224", "vit_small_patch8_224"))},
                networks=("vit_small_patch16_224",),
            ),
            "small": AtScale(
                {"patch": NamedAxis(_PATCHES, each("backbone", *(f"vit_micro_patch{side}_64" for side in (16, 8, 4))))},
                {"backbone": "vit_micro_patch8_64"},
                networks=("vit_micro_conv8",),
            ),
        },
    ),
    "augmentations": NamedStudy(
        "Which augmentations matter? (not in the paper)", _both({"without": axes.AUGMENTATIONS})
    ),
    "optimisation": NamedStudy(
        "How should it be optimised? (not in the paper)",
        _both({"learning rate": axes.LEARNING_RATE, "drop path": axes.DROP_PATH, "form": axes.OPTIMISATION}),
    ),
    "data": NamedStudy("How many images does it take? (not in the paper)", _both({"share": axes.FRACTION})),
}
"""name -> the study."""


def named_study(name: str, recipe: str = DEFAULT_RECIPE) -> StudyDefinition:
    """A study by name. Raises UserError for an unknown name, or as `on_recipe` does."""
    return on_recipe(name, lookup("ablation study", name, STUDIES), recipe)
