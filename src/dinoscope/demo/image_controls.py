"""The controls of the tab for one image, and what a person has set them to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dinoscope.demo.components import build_radio, build_slider
from dinoscope.demo.engine import KINDS, OF_BLOCKS
from dinoscope.demo.image_view import Controls
from dinoscope.demo.site import Site
from dinoscope.pictures import OPACITY

MEAN = "mean"
OWN = "own"
NOTHING = ""
"""Of the second model: none is shown beside the first."""
SIZES = (224, 320, 480, 640)


@dataclass(frozen=True)
class ControlPanel:
    """The components, in the order of `values`."""

    kind: gr.Radio
    head: gr.Radio
    block: gr.Slider
    mass: gr.Slider
    opacity: gr.Slider
    size: gr.Radio
    smooth: gr.Checkbox

    @property
    def components(self) -> list[Any]:
        """All of them."""
        return [self.kind, self.head, self.block, self.mass, self.opacity, self.size, self.smooth]

    def read(self, data: Mapping[Any, Any]) -> Controls:
        """What the values of the components mean: layers are counted from 1 by the slider, shares are in percent."""
        head = data[self.head]
        return Controls(
            data[self.kind],
            None if head == MEAN else int(head),
            int(data[self.block]) - 1,
            data[self.mass] / 100,
            data[self.opacity] / 100,
            self.read_size(data),
            data[self.smooth],
        )

    def read_size(self, data: Mapping[Any, Any]) -> int | None:
        """The resolution alone, as in `Gaze`."""
        return None if data[self.size] == OWN else int(data[self.size])


def seen_models(first: str, second: str) -> list[str]:
    """The one or two models that are chosen, each once."""
    return [first] if second in (NOTHING, first) else [first, second]


def model_choice(site: Site) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Which model, and which beside it: the first two, where there are two."""
    word, labels = site.words.label, list(site.engine.models)
    first = gr.Dropdown(labels, value=labels[0], label=word("image_model"), filterable=False, min_width=200)
    others = [(word("image_no_second"), NOTHING), *((label, label) for label in labels)]
    value = labels[1] if len(labels) > 1 else NOTHING
    second = gr.Dropdown(others, value=value, label=word("image_second"), filterable=False, min_width=200)
    return first, second


def build_controls(site: Site, models: list[str]) -> ControlPanel:
    """The controls, fitted to the models that are shown at first."""
    word = site.words.label
    kinds = [(word(f"image_kind_{kind}"), kind) for kind in KINDS]
    kind = gr.Radio(
        kinds, value="attention", label=word("image_kind"), info=word("image_kind_info"), elem_classes="kinds"
    )
    head = build_radio(
        head_choices(site, models),
        MEAN,
        label=word("image_head"),
        info=word("image_head_info"),
        elem_classes="heads-choice",
    )
    depth = deepest(site, models)
    block = build_slider(
        1,
        max(depth, 2),
        depth,
        step=1,
        label=word("image_block"),
        info=word("image_block_info"),
        interactive=depth > 1,
        elem_id="block",
    )
    mass = build_slider(5, 100, 60, step=1, label=word("image_mass"), info=word("image_mass_info"), elem_id="mass")
    opacity = build_slider(0, 100, round(100 * OPACITY), step=1, label=word("image_opacity"), elem_id="opacity")
    with gr.Accordion(word("image_more"), open=False):
        size = build_size(site)
        smooth = gr.Checkbox(True, label=word("image_smooth"), info=word("image_smooth_info"))
    return ControlPanel(kind, head, block, mass, opacity, size, smooth)


def build_size(site: Site) -> gr.Radio:
    """Choice of the resolution, within the limits."""
    word = site.words.label
    sizes = [size for size in SIZES if size <= site.limits.most_size]
    choices = [(str(size), str(size)) for size in sizes] + [(word("image_size_own"), OWN)]
    return gr.Radio(
        choices,
        value=start_size(site, sizes),
        label=word("image_size"),
        info=word("image_size_info"),
        elem_classes="sizes",
    )


def start_size(site: Site, sizes: list[int]) -> str:
    """The DINO paper's 480 px for networks made for photographs, 224 px for the small ones of 32 to 64 px."""
    made_for = max(model.backbone.config.image_size for model in site.engine.models.values())
    wanted = 480 if made_for >= 224 else 224
    return str(max((size for size in sizes if size <= wanted), default=OWN))


def head_choices(site: Site, models: list[str]) -> list[tuple[Any, str]]:
    """The mean, then the heads of the model that has most: on the page they are counted from 1, as layers are."""
    most = max(site.engine.heads(model) for model in models)
    return [(site.words.label("image_mean"), MEAN), *((str(n + 1), str(n)) for n in range(most if most > 1 else 0))]


def deepest(site: Site, models: list[str]) -> int:
    """Number of layers of the deepest model."""
    return max(site.engine.depth(model) for model in models)


def fit_controls(site: Site, models: list[str], kind: str, head: str, layer: tuple[int, int]) -> tuple[Any, Any, int]:
    """Updates of head and layer for other models or another kind: what does not apply cannot be moved; and the depth.

    layer: the one that was chosen, from 1, of so many; the last one stays the last.
    """
    choices, depth = head_choices(site, models), deepest(site, models)
    kept = head if head in [value for _, value in choices] else MEAN
    several = kind == "attention" and len(choices) > 1
    block = depth if layer[0] >= layer[1] else min(layer[0], depth)
    return (
        gr.Radio(choices, value=kept, interactive=several),
        gr.Slider(value=block, maximum=max(depth, 2), interactive=kind in OF_BLOCKS and depth > 1),
        depth,
    )
