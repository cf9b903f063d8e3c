"""What a command is: a function whose parameters, and the configs among them, are its options."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dinoscope.cli.options import Given
from dinoscope.data.grey_range import parse_window, window_text
from dinoscope.errors import UserError

MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)

WHAT_MAY_BE_NAMED = (
    "Run folder, exported folder, weights file (also others'), released weights (`dinoscope models`), shipped, pixels, "
    "random:NETWORK, or random:MODEL for a model's network with random weights."
)

ModelName = Annotated[str, tyro.conf.arg(name="model", metavar="MODEL", help=WHAT_MAY_BE_NAMED)]
"""One model, as `model_names.load_model` takes it."""

ModelNames = Annotated[
    tuple[str, ...], tyro.conf.arg(name="model", metavar="MODEL...", help=f"One or more. {WHAT_MAY_BE_NAMED}")
]
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
    """

    summary: str
    function: Callable[..., int | None]
    raw: bool = False

    def __call__(self, given: Given) -> int:
        """Build the arguments, and run the function. Raises UserError."""
        return (self.function(given) if self.raw else build(self.function, given.argv())()) or 0


def build(function: Callable[..., Any], argv: list[str], **settings: Any) -> Callable[[], Any]:
    """Return a function, or a dataclass, with the arguments that a command line makes: to be called.

    Raises UserError for values that a config refuses.
    """

    @functools.wraps(function)
    def later(*arguments: Any, **named: Any) -> Any:
        return functools.partial(function, *arguments, **named)

    said, default = io.StringIO(), settings.pop("default", None)
    target, known = (later, {}) if default is None else (function, {"default": default})
    try:
        with contextlib.redirect_stderr(said):
            built = tyro.cli(target, args=argv, registry=window_registry(), **{"config": MARKERS, **settings, **known})
    except SystemExit:
        text = " ".join(re.sub(r"[^\S ]|[─│╭╮╰╯]", " ", said.getvalue()).split())
        raise UserError(text.removeprefix("Value error ")) from None
    return built if default is None else lambda: built


def window_registry() -> ConstructorRegistry:
    """Return what makes tyro read an option of type `tuple[float, float] | None` as LEVEL,WIDTH."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_window)
    return registry


def _window(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if kind.type != (tuple[float, float] | None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LEVEL,WIDTH",
        instance_from_str=lambda words: parse_window(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None" if value is None else window_text(value)],
    )
