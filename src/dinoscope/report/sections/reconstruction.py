"""The section on reconstructions: images, what a run's network sees of them, and what it predicts of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.data.neighbours import shown
from dinoscope.data.reader import UnreadableImage
from dinoscope.errors import UserError
from dinoscope.features import evaluation_image
from dinoscope.methods import build_method
from dinoscope.methods.method import Method, Reconstruction
from dinoscope.models.backbone import load_strictly
from dinoscope.pictures import Pixels, Tile, bands, fitted, page, tile_width, webp
from dinoscope.report.page import Block, Figure, Notice, Section, folded_rest
from dinoscope.report.runs import Material, RunRecord
from dinoscope.report.sections.attention import training_images
from dinoscope.training.run_folder import RunFolder

_OPEN = 2  # runs
_GREY = 200
_COLUMNS = 6
_TITLES = ("image", "seen", "predicted")
_LEAD = "The network sees the patches that are left, and predicts the grey ones."


def section(material: Material) -> Section | None:
    """Show the reconstructions of every run that can draw some; None without images or pictures."""
    runs = [run for run in material.runs if run.judge.reconstruction is not None]
    images, about = training_images(material) if material.pictures and runs else ([], "")
    if not images:
        return None
    figures, notices = list[Figure](), list[Block]()
    for run in runs:
        try:
            method = _method(run)
            squares = [image.given_to(run.config.backbone_config) for image in images]
        except (UserError, UnreadableImage) as error:
            notices.append(Notice(f"{run.label}: {error}", "warning"))
            continue
        if method is not None and method.reconstruction is not None:
            figures.append(_figure(run, method, method.reconstruction, squares, about))
    if not (figures or notices):
        return None
    shown = folded_rest("Further runs", figures, _OPEN)
    return Section("What the models reconstruct", "reconstruction", _LEAD, (*shown, *notices))


def _method(run: RunRecord) -> Method | None:
    """Return the method with the weights of the newest checkpoint that is whole; None without any."""
    path, _ = checkpoint.newest_whole(RunFolder(run.path).checkpoints)
    if path is None:
        return None
    config = run.config
    method = build_method(config.method, config.backbone_config, max(run.classes or 0, 2)).eval()
    tensors = checkpoint.load(path, "method.").tensors
    load_strictly(method, tensors, path)
    return method


def _figure(
    run: RunRecord, method: Method, reconstruction: Reconstruction, images: Sequence[Pixels], about: str
) -> Figure:
    size, slices, masking = run.config.views.global_size, run.config.backbone_config.slices, method.masking
    assert masking is not None, "a method that reconstructs hides patches"
    squares = torch.stack([evaluation_image(image, size, 1.0) for image in images])
    masks = masking.sample_batch(run.config.seed, 0, range(len(images)), 1)[0]
    drawn = reconstruction.draw(squares, masks)
    seen = _greyed(squares, masks, masking.rows, masking.columns)
    width = tile_width(_COLUMNS)
    columns = [
        [
            Tile(fitted(_pixels(picture, slices), width), title if place == 0 else "")
            for picture, title in zip(each, _TITLES, strict=True)
        ]
        for place, each in enumerate(zip(squares, seen, drawn, strict=True))
    ]
    share = float(masks.float().mean())
    caption = f"{run.label}: {about}, {size} px, of which {share:.0%} of the patches are hidden. {reconstruction.note}"
    rows = bands(columns, _COLUMNS, width)
    return Figure(
        webp(page(rows, min_width=0)), caption.strip(), f"Images, patches seen, and predictions of {run.label}"
    )


def _greyed(
    images: UInt8[Tensor, "b c h w"], masks: Bool[Tensor, "b n"], rows: int, columns: int
) -> UInt8[Tensor, "b c h w"]:
    cells = masks.view(-1, 1, rows, columns)
    hidden = cells.repeat_interleave(images.shape[2] // rows, dim=2).repeat_interleave(
        images.shape[3] // columns, dim=3
    )
    return images.masked_fill(hidden, _GREY)


def _pixels(image: UInt8[Tensor, "c h w"], slices: int) -> UInt8[np.ndarray, "h w 3"]:
    return shown(image.permute(1, 2, 0).numpy(), slices)
