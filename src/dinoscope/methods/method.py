"""The contract between a method and the one training loop, and what methods share.

A method is one file here and one line in `METHODS`: its settings (`MethodConfig`), its parts (`Method`), and its entry
(`MethodEntry`): display name and recipes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dinoscope.data.masking import PatchMasking
from dinoscope.data.mixing import Mixing
from dinoscope.data.views import ViewsConfig
from dinoscope.methods.health import Verdict, complete_collapse, standard_deviation_of
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.models.heads import copy_parameters, follow
from dinoscope.types import Step, StepOutput, Views

Outputs = Mapping[str, Tensor]
"""Per-sample tensors of one forward, all [views, batch, ...], so that micro-batches join along dimension 1."""

Load = Callable[[str], Backbone]
"""Name of a trained model -> its network, on the CPU and in evaluation mode. Raises UserError if there is none."""


@dataclass(frozen=True)
class RunShape:
    """What the settings of a method must fit.

    classes: of the images; 0: no labels.
    batch_size, micro_batch: images per optimiser step over all processes, and per forward of one process.
    num_global, num_local: views per image.
    transformer: the backbone is a Vision Transformer (no batch norm, a patch projection).
    """

    images: int
    classes: int
    batch_size: int
    micro_batch: int
    epochs: float
    num_global: int
    num_local: int
    transformer: bool


class MethodConfig:
    """Settings of a method: the base of a frozen dataclass.

    found: settings that `settled` fills in.
    """

    found: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def choices(cls) -> dict[str, type[MethodConfig]]:
        """Return the settings of all methods by class name, which is the "kind" in a file of settings."""
        from dinoscope.methods import METHODS

        return {entry.config.__name__: entry.config for entry in METHODS.values()}

    def faults(self, run: RunShape) -> Iterable[str]:
        """Return a sentence for each setting that does not fit the run: what is wrong and what to change."""
        return ()

    def settled(self, load: Load) -> MethodConfig:
        """Return the settings of a run that begins or continues, with what identifies the trained models they name.

        Raises UserError if one is missing, or not the one that the run began with.
        """
        return self

    def portable(self) -> MethodConfig:
        """Return the settings with absolute paths, so that they hold in any folder."""
        return self

    @property
    def outputs(self) -> int | None:
        """K if the method predicts a distribution over K outputs, whose entropy is at most ln K; else None."""
        return None

    @property
    def variant(self) -> str | None:
        """The key in `MethodEntry.variants` if tables list these settings under a name of their own."""
        return None

    def shortened(self, share: float) -> MethodConfig:
        """Return the settings for a run of this share of the length; those named `..._epochs` shrink with it."""
        shorter = {name: share * value for name, value in vars(self).items() if name.endswith("_epochs")}
        return replace(cast(Any, self), **shorter)

    def check_above_0(self, *names: str) -> None:
        """Raise ValueError if one of these settings is 0 or less."""
        for name in names:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def check_range(self, low: float, high: float, *names: str) -> None:
        """Raise ValueError if one of these settings is not in [low, high]."""
        allowed = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        for name in names:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {allowed}, not {getattr(self, name)}")

    def check_choices(self) -> None:
        """Raise ValueError if a setting is none of the choices that its type lists."""
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")


@dataclass(frozen=True)
class Reconstruction:
    """Capability: pictures of what a method predicts of hidden patches.

    draw: (images uint8 [b, c, h, w], masks of their patches [b, n] on the CPU) -> images with these as predicted.
    note: how to read the pictures.
    """

    draw: Callable[[Tensor, Tensor], UInt8[Tensor, "b c h w"]]
    note: str


class Method(nn.Module, ABC):
    """A way of training. Encoding and loss are separate, so that one routine accumulates gradients for every method.

    The defaults are those of a method that trains and evaluates the one network `self.backbone` and has no state but
    its weights. A method with a teacher, a queue or a centre overrides what differs.
    """

    additive: bool = True
    """Whether the loss of a batch is the mean of the losses of its equal parts (given the method's state)."""
    advice: str = "Lower the learning rate."
    """What to change after complete collapse."""
    masking: PatchMasking | None = None
    """Which patches of the global views are hidden: `Views.masks`, which the loader makes."""
    mixing: Mixing | None = None
    """How views are mixed with those of other images: `Views.mixes`, which the loader makes."""
    backbone: Backbone

    def adopt(self, load: Load) -> None:
        """Take in the trained models that the settings name; once, after the weights are made, before the first step.

        A method that only judges values (`diagnose`) is not asked.
        """

    @abstractmethod
    def encode(self, views: Views) -> Outputs:
        """Run the networks: the only place where gradients and other processes' hooks meet the parameters."""

    @abstractmethod
    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return the scalar loss, values to log, and what `after_step` needs of the batch. Change no state."""

    def forward(self, views: Views) -> Outputs:  # so that DistributedDataParallel can wrap the method
        return self.encode(views)

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return scalars to log that are no means over images, from the statistics of the batch of all processes.

        The default is the standard deviation of the embeddings, if `loss` returned their moments.
        """
        if "embedding_moments" not in statistics:
            return {}
        return {"embedding_spread": standard_deviation_of(statistics["embedding_moments"])}

    def before_update(self, step: Step) -> None:
        """Change the gradients after clipping and before the optimiser step (a frozen layer)."""

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move teacher, centre, queue and prototypes: once per optimiser step."""

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """Judge a run by the means of its recently logged values; None is healthy.

        The default finds complete collapse, if the standard deviation of the embeddings is logged.
        """
        deviation = recent.get("embedding_spread")
        return None if deviation is None else complete_collapse(deviation, self.advice)

    @property
    def reconstruction(self) -> Reconstruction | None:
        """Capability: see `Reconstruction`; its masks are those of `masking`."""
        return None

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the named parameters for the optimiser: those that have a gradient."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The trained network and its copies (teacher, keys), which all begin with the same weights."""
        return (self.backbone,)

    @property
    def frozen(self) -> tuple[Backbone, ...]:
        """The networks of others that the method learns from."""
        return ()

    @property
    def evaluated_backbone(self) -> Backbone:
        """The network that evaluations use: the trained one, or a teacher that is better."""
        return self.backbone

    @property
    def classifier_prefix(self) -> str | None:
        """Capability: the prefix, in the method's state dict, of the weight and bias of a linear layer from the image
        feature of the evaluated network to a logit for each class; None without labels."""
        return None

    @property
    def evaluated_prefix(self) -> str:
        """The prefix of that network's weights in the method's state dict."""
        return next(f"{name}." for name, part in self.named_children() if part is self.evaluated_backbone)


Head = TypeVar("Head", bound=nn.Module)


class StudentTeacher(Method, Generic[Head]):
    """A method with two networks of one architecture: the teacher begins as a copy of the student and is not trained.

    Evaluations use the teacher. Only the student has stochastic depth.
    """

    def __init__(self, backbone: BackboneConfig, head: Callable[[int], Head]) -> None:
        """Build both. head: makes a head for features of a width."""
        super().__init__()
        self.student_backbone = build_backbone(backbone)
        self.student_head = head(self.student_backbone.dim)
        self.teacher_backbone = build_backbone(without_drop_path(backbone))
        self.teacher_head = head(self.student_backbone.dim)
        copy_parameters(self.student_backbone, self.teacher_backbone)
        copy_parameters(self.student_head, self.teacher_head)

    def move_teacher(self, momentum: float) -> None:
        """Set the teacher's weights to momentum * its own + (1 - momentum) * the student's."""
        follow(self.teacher_backbone, self.student_backbone, momentum)
        follow(self.teacher_head, self.student_head, momentum)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return (self.student_backbone, self.teacher_backbone)

    @property
    def evaluated_backbone(self) -> Backbone:
        return self.teacher_backbone


class Projected(Method):
    """A method that trains one network by the projections of its features, and has no other state."""

    def __init__(self, backbone: BackboneConfig, head: Callable[[int], nn.Module]) -> None:
        """Build both. head: makes a projection head for features of a width."""
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.head = head(self.backbone.dim)

    def encode(self, views: Views) -> Outputs:
        """Return projections of the global and of the local views, and features of all: [views, batch, dim]."""
        features = view_features(self.backbone, views)
        outputs = by_view({"projection": self.head(features), "features": features}, views)
        of_global, of_local = outputs["projection"].tensor_split([len(views.global_views)])
        return {"projection": of_global, "local_projection": of_local, "features": outputs["features"]}


def all_projections(outputs: Outputs) -> Float[Tensor, "v b d"]:
    """Return what `Projected.encode` projected, global views first."""
    return torch.cat([outputs["projection"], outputs["local_projection"]])


def view_features(backbone: Backbone, views: Views, *, local: bool = True) -> Float[Tensor, "rows d"]:
    """Return image features of all global views, then (if `local`) of all local ones: rows ordered (view, image)."""
    groups = [views.global_views, views.local_views if local else None]
    return torch.cat(
        [backbone.feature(backbone.normalize(group.flatten(0, 1))) for group in groups if group is not None]
    )


def by_view(outputs: Mapping[str, Float[Tensor, "rows _"]], views: Views) -> dict[str, Float[Tensor, "v b _"]]:
    """Return rows ordered (view, image) as [views, batch, ...], each output under its name."""
    return {name: rows.reshape(-1, views.batch_size, rows.shape[-1]) for name, rows in outputs.items()}


@dataclass(frozen=True)
class Display:
    """How tables and figures show a method.

    title: as the field writes it.
    color: from Okabe and Ito's palette, for any colour vision and for print; "" takes one by the title.
    deviations: dotted setting -> its value in the method's paper, and the note on a row that has another.
    """

    title: str
    color: str = ""
    deviations: Mapping[str, tuple[Any, str]] = field(default_factory=dict[str, tuple[Any, str]])


LOSS_PARTS, TEACHER_AND_STUDENT = "Parts of the loss", "Teacher and student"
FEATURES, SCHEDULES = "What the features use", "Schedules"
"""Titles of figures that curves of methods are in."""


@dataclass(frozen=True)
class Curve:
    """A scalar that a method logs, as reports draw it. Curves of several methods with one title share a panel.

    title, unit: of the panel. name: in metrics.jsonl. reading: how to read it.
    figure: the title of the figure that the panel is in.
    entropy: it is one of the method's outputs, at most ln K.
    optional: by its settings a run may do without it.
    """

    title: str
    unit: str
    name: str
    reading: str = ""
    figure: str = LOSS_PARTS
    entropy: bool = False
    optional: bool = False


DEVIATION_READING = (
    "Standard deviation of embeddings, which the loss sees, and of features, which are kept, times the root of their "
    "length: 1 if they point in all directions alike, 0 if all images have the same one, which is complete collapse."
)
EMBEDDING_DEVIATION = Curve(
    "Deviation of embeddings", "std. deviation", "embedding_spread", DEVIATION_READING, figure=FEATURES
)
DIMENSIONS = Curve(
    "Participation ratio",
    "dimensions",
    "participation_ratio",
    "Participation ratio: how many dimensions the embeddings of a batch fill; near 1, all lie near a line.",
    figure=FEATURES,
)
TEACHER_MOMENTUM = Curve(
    "Teacher momentum",
    "momentum",
    "teacher_momentum",
    "Momentum: of the moving average that the teacher (MoCo's key network, BYOL's target network) is.",
    figure=SCHEDULES,
)
TARGET_ENTROPY = Curve(
    "Entropy of the targets",
    "nats",
    "teacher_entropy",
    "Targets are the teacher's outputs in DINO, the codes in SwAV. Healthy: the entropy of each falls well below ln K, "
    "its maximum. If it stays there, the outputs do not distinguish images.",
    figure=TEACHER_AND_STUDENT,
    entropy=True,
)
OUTPUT_CURVES = (
    TARGET_ENTROPY,
    Curve(
        "Entropy of their mean",
        "nats",
        "teacher_marginal_entropy",
        "Healthy: the entropy of their mean stays close to ln K. If it falls towards 0, all images get one output.",
        figure=TEACHER_AND_STUDENT,
        entropy=True,
    ),
    Curve(
        "KL(teacher, student)",
        "nats",
        "kl_teacher_student",
        "KL divergence: how far the student's outputs are from the teacher's.",
        figure=TEACHER_AND_STUDENT,
    ),
    TEACHER_MOMENTUM,
)
"""Curves of methods whose teacher predicts a distribution, as in DINO and iBOT."""
KOLEO = Curve("KoLeo", "nats", "koleo", "KoLeo is lower the farther apart the nearest images are.", optional=True)
CODING_CURVES = (
    Curve("Alignment", "cosine", "alignment", "Alignment: mean cosine of the views of an image, 1 if all agree."),
    Curve("Coding rate", "nats", "coding_rate", "Coding rate: the volume that the embeddings of a batch fill."),
    Curve(
        "Share of the largest rate",
        "share",
        "coding_rate_share",
        "Its share of the largest possible: near 0 after complete or dimensional collapse.",
    ),
    EMBEDDING_DEVIATION,
)
"""Curves of SimDINO and EMP-SSL."""


@dataclass(frozen=True)
class Recipe:
    """Named settings as plain data.

    about: what it is for, how to start it, and what was measured or published with it.
    settings: dotted setting -> value; "views" names a preset. Any other setting has `RunConfig`'s default, which is
        DINO's on ViT-S.
    method: name in `METHODS`; `recipes.RECIPES` fills it in.
    """

    about: str
    settings: Mapping[str, Any]
    method: str = ""


@dataclass(frozen=True)
class MethodEntry:
    """What the project knows of a method: all that a registry line names.

    config: the class of its settings.
    build: makes a method with fresh weights of settings, a `BackboneConfig` and, with labels, the number of classes.
    year: of its paper. Tables list methods by year, those with labels first.
    labels: whether it is trained with labels.
    curves: what it logs beyond the loss, as reports draw it.
    from_model: whether it learns from a trained model, which its settings must name: no part of "all methods".
    transformers_only: whether it works on patch tokens, which only Vision Transformers have.
    variants: key -> how tables show settings that have a name of their own (`MethodConfig.variant`).
    recipes: its published and measured settings, by name.
    small: its settings in the small comparison beyond those of `recipes.CPU` and `GPU`, by the views of the others and
        whether the network is a Vision Transformer.
    small_about: the end of the text on its recipe for small images: what was published.
    """

    config: type[MethodConfig]
    build: Callable[..., Method]
    display: Display
    year: int
    labels: bool = False
    curves: tuple[Curve, ...] = ()
    from_model: bool = False
    transformers_only: bool = False
    variants: Mapping[str, Display] = field(default_factory=dict[str, Display])
    recipes: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])
    small: Callable[[ViewsConfig, bool], Mapping[str, Any]] = lambda views, transformer: {}
    small_about: str = ""


SOLO_LEARN = "Published at 1000 epochs with other views: linear {} on CIFAR-10 (the solo-learn zoo)."

TOO_FEW_VIEWS = "compares views of an image: --views.num-global and --views.num-local must add up to 2 or more"

HEAD_BATCH_NORM = {"method.head_batch_norm": (True, "without the batch norm in its head that its code has")}
"""The deviation that SimCLR, MoCo v3, BYOL and SwAV share."""

VIT_SMALL_300: dict[str, Any] = {"epochs": 300, "batch_size": 1024}
"""DINO's settings for 300 epochs of ViT-S, with which its authors ran the rivals (Caron et al. 2021, Table 2).

They report that they ran them for 300 epochs, not with which optimiser settings; the views are the rival's own.
"""

RESNET50: dict[str, Any] = {"backbone": "resnet50", "drop_path": 0.0}


def settings(run: Mapping[str, Any] = MappingProxyType({}), **groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name: those of a run, and those of its groups (method, optimizer, views)."""
    return {**run} | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def optimizer(name: str, learning_rate: float, weight_decay: float, *, warmup_epochs: float = 10) -> dict[str, Any]:
    """Return an optimiser with constant weight decay, a cosine to 0 and no clipping; LARS as SimCLR, BYOL and SwAV."""
    schedule = {"learning_rate": learning_rate, "min_learning_rate": 0.0, "warmup_epochs": warmup_epochs, "clip": 0}
    return {"name": name, **schedule, "weight_decay": weight_decay, "final_weight_decay": weight_decay}
