"""How long the page takes from an image to the attention of every block: ViT-S/16 at 480 px, random weights.

    python benchmarks/demo_attention.py [--network vit_small_patch16_224] [--size 480] [--repeats 15] [--threads 2]

Beside it, taking turns: the bare forward of the same network, and the plain way that runs the network for each
block's map. Then what follows a pass: a moved slider, the patches' features, rollout and Grad-CAM. Prints medians, and
the largest difference of the maps from the plain way; exits with 1 where that is above 1e-5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from taking_turns import measure

from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.image import Controls, view
from dinoscope.demo.pictures import Limits, Picture
from dinoscope.explain.attention import attention_maps, prepare
from dinoscope.explain.maps import gradcam_of_pass, patches_of_pass, rollout_of_pass
from dinoscope.model_names import load_model

EXACT = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(f"random:{options.network}")
    pixels = np.random.default_rng(0).integers(0, 256, (options.size, options.size, 3), dtype=np.uint8)
    backbone, limits = model.backbone, Limits(most_size=options.size)
    images = backbone.normalize(prepare(pixels, options.size, backbone.patch_size)[None])
    depth, count = Engine([model], limits).depth(model.label), [0]

    def fresh() -> tuple[Engine, Input]:
        count[0] += 1
        return Engine([model], limits), Input(model.label, Picture(str(count[0]), pixels), options.size)

    def image_to_all_maps() -> None:
        engine, given = fresh()
        for block in range(depth):
            engine.maps(given, "attention", block)

    @torch.inference_mode()
    def bare_forward() -> None:
        backbone(images)

    def plain_way() -> None:
        for block in range(depth):
            attention_maps(backbone, images, block)

    sides: dict[str, Callable[[], object]] = {
        "image to the maps of all blocks": image_to_all_maps,
        "bare forward": bare_forward,
        "plain way, block by block": plain_way,
    }
    for side in sides.values():
        side()
    report(measure(sides, options.repeats))
    report(after_a_pass(*fresh(), options.repeats))
    engine, given = fresh()
    differences = [
        (engine.maps(given, "attention", block) - attention_maps(backbone, images, block)[0]).abs().max().item()
        for block in range(depth)
    ]
    print(f"largest difference from the plain way: {max(differences):.1e}")
    return int(max(differences) > EXACT)


def after_a_pass(engine: Engine, given: Input, repeats: int) -> dict[str, dict[str, float]]:
    """What is done once the pass is kept. All but the slider is kept as well, so each is paid for once an image."""
    view(engine, given, Controls(), None)
    passed, backbone, mass = engine.run(given), engine.models[given.model].backbone, [0.3]

    def slider() -> None:
        mass[0] += 0.01
        view(engine, given, Controls(mass=mass[0]), None)

    return measure(
        {
            "a moved slider, pictures drawn": slider,
            "features of the patches, once": lambda: patches_of_pass(backbone, passed),
            "rollout to the last block, once": lambda: rollout_of_pass(backbone, passed),  # pyright: ignore
            "Grad-CAM of all blocks, once": lambda: gradcam_of_pass(backbone, passed),
        },
        min(repeats, 9),
    )


def report(times: dict[str, dict[str, float]]) -> None:
    for name, each in times.items():
        print(f"{name:<34} {1000 * each['wall_s']:8.1f} ms   CPU {1000 * each['cpu_s']:8.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
