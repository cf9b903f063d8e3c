"""What a command is: a function whose parameters, and the configs among them, are its options."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dinoscope import distributed
from dinoscope.cli.console import progress_bar
from dinoscope.cli.options import Given
from dinoscope.data.grey_range import parse_window, window_text
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.places import parse_place
from dinoscope.system import pick_device

MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)

WHAT_MAY_BE_NAMED = (
    "Run folder, exported folder, weights file (also others'), released weights (`dinoscope models`), shipped, pixels, "
    "patches, random:NETWORK, or random:MODEL for a model's network with random weights."
)
SEVERAL = f"One or more models; a folder of runs stands for them. {WHAT_MAY_BE_NAMED}"

ModelName = Annotated[str, tyro.conf.arg(name="model", metavar="MODEL", help=WHAT_MAY_BE_NAMED)]
"""One model, as `model_names.load_model` takes it."""

ModelNames = Annotated[tuple[str, ...], tyro.conf.arg(name="model", metavar="MODEL...", help=SEVERAL)]
"""Models, as `model_names.load_models` takes them."""


LINE: ContextVar[str] = ContextVar("line", default="dinoscope")


def command_line() -> str:
    """Return the command that is being run, to be copied into a shell."""
    return LINE.get()


@dataclass(frozen=True)
class Command:
    """A command of the app.

    summary: its line in `dinoscope --help`.
    function: does it, and returns the exit code, or None for 0.
    raw: it takes the checked command line itself; `schema` then describes it.
    options: a dataclass of the options, which the function takes instead. hidden: those of its fields that are none.
    is_shared: processes that torchrun or SLURM started share the work; the function ends in the main one, which alone
        prints.
    first: module whose `begin(given)`, a context, is entered before the command is imported.
    """

    summary: str
    function: Callable[..., int | None]
    raw: bool = False
    options: type[Any] | None = None
    hidden: frozenset[str] = frozenset()
    is_shared: bool = False
    first: str = ""

    def __call__(self, given: Given) -> int:
        """Build the arguments, and run the function. Raises UserError."""
        if self.raw:
            return self.function(given) or 0
        if self.options is not None:
            return self.function(build(self.options, given.argv())()) or 0
        call = build(self.function, given.argv())
        if not self.is_shared:
            return call() or 0
        with contextlib.ExitStack() as group:
            group.enter_context(distributed.process_group(torch.device("cpu")))  # what they exchange lies there
            if not distributed.is_main():
                nowhere = group.enter_context(Path(os.devnull).open("w"))
                group.enter_context(contextlib.redirect_stdout(nowhere))
                group.enter_context(contextlib.redirect_stderr(nowhere))
            return call() or 0


def build(function: Callable[..., Any], argv: list[str], **settings: Any) -> Callable[[], Any]:
    """Return a function, or a dataclass, with the arguments that a command line makes: to be called.

    Raises UserError for values that a config refuses.
    """

    @functools.wraps(function)
    def later(*arguments: Any, **named: Any) -> Any:
        return functools.partial(function, *arguments, **named)

    said, is_class = io.StringIO(), isinstance(function, type)
    target, settings = (function if is_class else later), {"config": MARKERS, **settings}
    try:
        with contextlib.redirect_stderr(said):
            built = tyro.cli(target, args=argv, registry=registry_of_types(), **settings)
    except SystemExit:
        text = " ".join(re.sub(r"[^\S ]|[─│╭╮╰╯]", " ", said.getvalue()).split())
        raise UserError(text.removeprefix("Value error ")) from None
    return (lambda: built) if is_class else built


@dataclass(frozen=True)
class DeviceOptions:
    """Where networks run."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    def context(self, **more: Any) -> Context:
        """Return the same as evaluations take it, with progress bars. Raises UserError if the device is not there."""
        return Context(pick_device(self.device), watch=progress_bar, **more)


@dataclass(frozen=True)
class ExtractionOptions(DeviceOptions):
    """How features are computed."""

    image_size: int | None = None
    """Side of the square that the network sees, in pixels; by default the one the model stores."""

    crop_fraction: float | None = None
    """Part of the short side that the centre crop keeps; by default 0.875, and 1 up to 64 pixels."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products. Published figures are fp32."""

    batch_size: int | None = None
    """Images at a time; lower it if memory is short. The figures do not depend on it."""

    workers: int = -1
    """Processes that read images; -1 chooses. The figures do not depend on it."""

    no_cache: bool = False
    """Compute all features again and keep none; else they stay in $DINOSCOPE_CACHE or the system's cache folder."""

    def context(self, **more: Any) -> Context:
        """Return the same as evaluations take it, with progress bars. Raises UserError if the device is not there."""
        own = {name: value for name, value in vars(self).items() if name not in ("device", "no_cache")}
        return super().context(cached=not self.no_cache, **own, **more)


@dataclass(frozen=True)
class LabelledOptions(ExtractionOptions):
    """How features are computed, and which labelled images are measured on."""

    group: Annotated[str | None, tyro.conf.arg(metavar="PATTERN")] = None
    """Regular expression that finds, in the path of each image, the patient, slide or video that it is of:
    '[^/]+/(?P<patient>[^/]+)/'; or header:patient, header:study, header:series of DICOM files. No neighbour of the
    same group votes, and splits and intervals keep groups whole. By default that of the run on its own data; none:
    without."""

    split: float | Literal["none"] | None = None
    """Share of the images to train on, such as 0.8, if there is no val split. The rest are measured on; groups stay
    whole. By default that of the run on its own data; none: without."""


@dataclass(frozen=True)
class ExtractionWithBatch(LabelledOptions):
    """How features are computed, and what is measured on."""  # for commands whose --batch-size is something else

    batch_size: Annotated[int | None, tyro.conf.arg(name="extraction-batch-size")] = None
    """Images at a time while features are computed. They do not depend on it."""


EXTRACTION = ExtractionOptions()


def registry_of_types() -> ConstructorRegistry:
    """Return what makes tyro read a path as a place, and `tuple[float, ...] | None`, which windows alone have."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_window)
    registry.primitive_rule(_path)
    return registry


def _path(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if kind.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: parse_place(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _window(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if kind.type != (tuple[float, ...] | None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LEVEL,WIDTH",
        instance_from_str=lambda words: parse_window(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None" if value is None else window_text(value)],
    )
