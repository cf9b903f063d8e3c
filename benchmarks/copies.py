"""A folder in the layout of Copydays, made of the images of any folder, for `dinoscope copies`.

    python benchmarks/copies.py --data FOLDER --out ROOT [--images N]
    dinoscope copies --model MODEL... --data ROOT [--distractors OTHERS] [--whiten MORE]

original/ has N images of FOLDER, chosen by chance. jpegqual/ has them in the nine qualities of Copydays, crops/ with
its shares of the area cut off, and strong/ two copies of each that were changed in several ways at once: cut to
between half and all of each side, mirrored or not, other colours, a line of text, blurred, and JPEG of quality 20. The
real strong copies are made by hand (printed and scanned, painted on), so figures are not comparable with published
ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from duplicates import Draw, colored, cropped, flipped, jpeg, lettered
from PIL import Image, ImageFilter

from dinoscope.data.finding import find_images
from dinoscope.files import claim

QUALITIES = (3, 5, 8, 10, 15, 20, 30, 50, 75)
CUT = (10, 15, 20, 30, 40, 50, 60, 70, 80)
"""Percent of the area that a crop leaves out."""
STRONG = 2
"""Strong copies of an image."""


def changed_much(image: Image.Image, draw: Draw) -> Image.Image:
    image = cropped(draw.uniform(0.5, 1))(image, draw)
    if draw.random() < 0.5:
        image = flipped(image, draw)
    image = lettered(colored(image, draw), draw)
    return jpeg(image.filter(ImageFilter.GaussianBlur(draw.uniform(0, 0.01) * min(image.size))), draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=150)
    asked = parser.parse_args()
    claim(asked.out, ("original", "jpegqual", "crops", "strong"), overwrite=False)
    source = find_images(asked.data, labelled=False)
    draw = np.random.default_rng(0)
    chosen = sorted(draw.permutation(len(source))[: asked.images])
    for number, place in enumerate(chosen):
        image = Image.fromarray(source.read(int(place)).rgb())
        name = f"{2000 + number}"

        def keep(copy: Image.Image, folder: str, ending: str, quality: int = 95, name: str = name) -> None:
            path = asked.out / folder / f"{name}{ending}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            copy.save(path, quality=quality)

        keep(image, "original", "00")
        for quality in QUALITIES:
            keep(image, f"jpegqual/{quality}", "00", quality)
        for percent in CUT:
            keep(cropped(float(np.sqrt(1 - percent / 100)))(image, draw), f"crops/{percent}", "00")
        for copy in range(STRONG):
            keep(changed_much(image, draw), "strong", f"{copy + 1:02d}")
    print(f"{len(chosen)} originals and their copies: {asked.out}")


if __name__ == "__main__":
    main()
