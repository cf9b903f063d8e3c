"""The commands that draw what models see: `attention`, `pca`, `similarity`, `segment` and `map`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch.nn.functional as F
import tyro
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.checkpoint import find_weights
from dinoscope.cli.command import EXTRACTION, Command, ExtractionOptions, ModelName, ModelNames
from dinoscope.cli.console import metric_table, progress_bar, say, stdout
from dinoscope.data.benchmarks import MaskedImages, find_masks
from dinoscope.data.finding import find_images
from dinoscope.data.images import OTHER_EXTENSIONS, UnreadableImage, extensions, read
from dinoscope.data.reader import split_key
from dinoscope.data.sources import balanced, evenly, images_in_folder
from dinoscope.data.video import VIDEO_EXTENSIONS, open_video
from dinoscope.errors import UserError, lookup
from dinoscope.explain.attention import map_masks, mean_and_heads, network_input
from dinoscope.explain.embedding import TITLES, EmbeddingMap, described, embedding_map
from dinoscope.explain.maps import MAPS, count_maps, map_title
from dinoscope.files import claim, claim_file, mark, unique_names, write_all
from dinoscope.model_names import Model, load_model, load_models
from dinoscope.pictures import (
    PAGE_WIDTH,
    Page,
    fitted,
    mask_overlay,
    overlay,
    page_files,
    page_names,
    scale_of,
    write_png,
)
from dinoscope.report import maps, pages
from dinoscope.report.films import FILM_SUFFIXES, write_colors_film
from dinoscope.report.pages import ModelInput, Shown
from dinoscope.system import pick_device
from dinoscope.types import Metric

Picture = UInt8[ndarray, "_ _ *c"]
Images = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...", help="Image files, or folders of images.")]

MASS = "Share of a map that its mask holds, above 0 and at most 1."
BLOCK = "Block of the transformer: from 0, or from the end with -1 the last"


@dataclass(frozen=True)
class PictureOptions:
    """What is drawn, how, and whether pictures may be replaced."""

    size: int | None = None
    """Short side at which the network sees an image, in pixels; by default the one the model stores. More pixels
    give a finer map; the DINO paper's are of 480."""

    limit: int = 16
    """Images taken from each folder, evenly spaced."""

    dpi: int | None = None
    """Draw pages for print, not for the screen: so many dots an inch, such as 300, at a width of 7.2 inches. Each is
    also written as a PDF."""

    overwrite: bool = False
    """Replace pictures that are already there."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""


Options = tyro.conf.OmitArgPrefixes[PictureOptions]
DEFAULTS = PictureOptions()


class Drawing:
    """Image files, the models that are given them, and what was wrong with files that could not be drawn.

    Raises UserError if there are no images, a model is not there, or the size is below one of its patches.
    """

    def __init__(self, options: PictureOptions, images: Sequence[Path], names: Sequence[str | Model]) -> None:
        self.dpi, self._scale = options.dpi, scale_of(options.dpi)
        self.options, self.files = options, find_files(images, options.limit)
        device, self.faults = pick_device(options.device), list[str]()
        self.models = load_models(names, progress_bar)
        for model in self.models:
            patch = model.backbone.patch_size
            if options.size is not None and options.size < patch:
                raise UserError(f"--size must be at least one patch of {patch} px, not {options.size}")
            model.backbone.to(device)
        self.sizes = [options.size or model.backbone.config.image_size for model in self.models]
        self.note = pages.model_note(self.models[0], self.sizes[0])

    def look(self, doing: str, masks: MaskedImages | None = None) -> Iterator[tuple[int, Shown]]:
        """Read one image after the other, with its place among the files; what is wrong with one goes to `faults`.

        Each model is given an image by its own grey range, and with as many neighbouring slices as it takes; it is
        shown alone, by the grey range of the first.
        """
        with progress_bar(doing) as progress:
            for index, file in enumerate(self.files):
                progress(index, len(self.files))
                try:
                    raw = read(file)
                    configs = [model.backbone.config for model in self.models]
                    stacks = {n: raw if n == 1 else read(file, slices=n) for n in {config.slices for config in configs}}
                    images = [stacks[config.slices].pixels(config.channels, config.window) for config in configs]
                    inputs = [
                        ModelInput(model, size, network_input(model.backbone, image, size))
                        for model, size, image in zip(self.models, self.sizes, images, strict=True)
                    ]
                    shown = Shown(file.name, raw.rgb(configs[0].window), tuple(inputs))
                    if masks is not None and file in masks.images:
                        shown = replace(shown, mask=masks.ground_truth(masks.images.index(file), shown.size))
                except (UnreadableImage, UserError) as error:
                    self.faults.append(f"{file}: {error}")
                else:
                    yield index, shown

    def look_at_all(self) -> Iterator[tuple[int, tuple[int, int], pages.ImageFeatures]]:
        """Yield for each image its place, its size, and its name, pixels and features for one page of all images."""
        width = round(PAGE_WIDTH // 2 * self._scale)
        for index, shown in self.look("looking at images"):
            # no larger than it is shown, because the page holds all of them
            yield index, shown.size, (shown.name, fitted(shown.image, width), shown.inputs[0].patches())

    def claim(self, out: Path, names: Sequence[str]) -> None:
        """Make the output folder and note that these pictures are no data. Raises UserError if some are there."""
        claim(out, names, overwrite=self.options.overwrite)
        mark(out, [name for name in names if name.endswith(".png")])

    def draw_each(
        self,
        out: Path,
        kind: str,
        draw: Callable[[Shown], Iterable[Page | Picture]],
        doing: str,
        masks: MaskedImages | None = None,
        *,
        pictures: Sequence[str] = (),
    ) -> None:
        """Draw the page OUT/NAME_KIND.png of each file, and pictures, and report what could not be drawn.

        draw: makes the page of an image, then its pictures, of the kinds `pictures`.

        Raises UserError if none could be drawn, or files are in the way or cannot be written.
        """
        names, drawn = unique_names(map(picture_name, self.files)), 0
        files = [file for name in names for file in page_names(f"{name}_{kind}")]
        self.claim(out, files + [f"{name}_{other}.png" for name in names for other in pictures])
        for index, shown in self.look(doing, masks):
            for other, drawing in zip((kind, *pictures), list(draw(shown)), strict=True):
                name = f"{names[index]}_{other}"
                if isinstance(drawing, Page):
                    write_all(out, page_files(name, drawing))
                else:
                    write_png(out / f"{name}.png", drawing)
            drawn += 1
        if not drawn:
            raise UserError("no image could be drawn: " + "; ".join(self.faults))
        self.report(drawn, out)

    def report(self, drawn: int, out: Path) -> None:
        """Print where the pages are, and which images could not be drawn."""
        if self.faults:
            say("\n  ".join([f"{len(self.faults)} not drawn:", *self.faults]))
        stdout(f"{drawn} page{'s' * (drawn != 1)} in {out}")


def find_files(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return the files named, and from each folder named up to `limit` images, evenly spaced.

    Raises UserError if nothing is named, the limit is below 1, or a folder has no images.
    """
    if not paths:
        raise UserError("no images: name image files, or a folder of them")
    evenly(0, limit)  # refuses a limit below 1, though no folder is named
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            folder = images_in_folder(path)
            files += [folder.root / folder.paths[index] for index in evenly(len(folder), limit)]
        else:
            files.append(path)
    return files


def picture_name(file: Path) -> str:
    """Return what the pictures of an image are called: the file's name without an ending, and which image of it."""
    name, frame = split_key(file.name)
    return Path(name).stem + (f"-{frame.replace('=', '').replace(',', '-')}" if frame else "")


WAYS_TO_SEGMENT = {**dict.fromkeys(MAPS), "pca": None}
"""What `segment --by` takes."""


def models_and_images(models: Sequence[str], images: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Separate `--model A B IMAGE...`: the command line alone does not tell at which word the images begin.

    What follows `--model` is an image if it is a folder that holds no model, or has the ending of an image; but
    the first is always a model.
    """
    first, *others = models
    misplaced = [name for name in others if _is_image(Path(name))]
    return [first, *(name for name in others if name not in misplaced)], [*map(Path, misplaced), *images]


def _is_image(path: Path) -> bool:
    if not path.is_dir():
        return split_key(path.name)[0].lower().endswith((*extensions(), *OTHER_EXTENSIONS))
    try:
        find_weights(path)
    except UserError:
        return True
    return False


def attention(
    images: Images,
    /,
    model: ModelNames,
    out: Path = Path("attention"),
    masks: Path | None = None,
    map: str = "attention",
    block: Annotated[int | Literal["all"], tyro.conf.arg(help=f"{BLOCK}; all draws the mean map of every block.")] = -1,
    mass: Annotated[float, tyro.conf.arg(help=MASS)] = 0.6,
    separate: bool = False,
    options: Options = DEFAULTS,
) -> None:
    """Draw what a model attends to, or compare several.

    One model: a page for each image with the mean over the heads, its mask, and every head with its mask. Several
    models, or with --masks: a page for each image with the mean map and the mask of each model, and the mask's
    Jaccard. The attention is that of the class token in one block. A ResNet has none: it shows where its features
    are strong.

    Args:
        out: Folder for the pictures, one for each image: NAME_attention.png, or what --map is; NAME_compared.png of
            several models or with --masks; NAME_blocks.png.
        masks: The true masks: a folder of PNG files named like the images, or a VOC folder. 0 is background, 255 void,
            which is not counted; if a folder has only these two, 255 is the object.
        map: attention: of each head of one block (of a ResNet: feature energy). rollout: of all blocks up to that one,
            in one map. energy: length of the patches' features. gradcam: what speaks for the image's own feature.
            centre: a blob that looks at no image.
        separate: One model: also write each overlay and mask as a PNG of its own, as large as the image.
    """
    lookup("kind of map", map, MAPS)
    names, paths = models_and_images(model, images)
    drawing = Drawing(options, paths, names)
    masked = None if masks is None else find_masks(drawing.files, masks)
    several = len(drawing.models) > 1 or masked is not None
    if separate and (several or block == "all"):
        raise UserError("--separate is for one model and one block, without --masks")
    if block == "all" and (map != "attention" or masked is not None):
        raise UserError("--block all is for --map attention, without --masks")
    kind, scores = "blocks" if block == "all" else "compared" if several else map, list[list[float]]()
    separated: list[str] = []
    if separate:
        heads = [f"head{head}" for head in range(count_maps(map, drawing.models[0].backbone))]
        separated = [name for head in ["mean", *heads] for name in (head, f"{head}_mask")]

    def draw(shown: Shown) -> Iterator[Page | Picture]:
        if block == "all":
            yield pages.blocks_page(shown, dpi=drawing.dpi)
        elif several:
            page, jaccards = pages.comparison_page(shown, map, block, mass, dpi=drawing.dpi)
            scores.extend([jaccards] if jaccards else [])
            yield page
        else:
            (given,) = shown.inputs
            found = given.maps(map, block)
            note = drawing.note + ("" if block == -1 else f", block {block}")
            title = map_title(map, given.model.backbone)
            yield pages.attention_panel(shown.image, found, mass, shown.name, note, title, dpi=drawing.dpi)
            if separate:
                every = mean_and_heads(found[None])[0]
                for values, mask in zip(every.numpy(), map_masks(every, mass).numpy(), strict=True):
                    yield overlay(shown.image, values)
                    yield mask_overlay(shown.image, mask)

    drawing.draw_each(out, kind, draw, "drawing attention", masked, pictures=separated)
    if scores:
        of_models = zip(drawing.models, zip(*scores, strict=True), strict=True)
        metrics = [Metric(each.label, 100 * float(np.mean(values))) for each, values in of_models]
        stdout(metric_table(f"mean Jaccard of the masks, {len(scores)} image{'s' * (len(scores) != 1)}", metrics))


def pca(
    images: Images,
    /,
    model: ModelName,
    out: Path = Path("pca"),
    joint: bool = False,
    foreground: bool = False,
    side_by_side: bool = False,
    vp9: bool = False,
    options: Options = DEFAULTS,
) -> None:
    """Colour each patch by the first three principal components of its features: like parts, like colours.

    Works for transformers and ResNets. Each image is analysed on its own, or all of them jointly. Of a video, or a
    folder of its frames, --out film.mp4 makes a film; a colour means the same in every frame.

    Args:
        out: Folder for the pictures: NAME_pca.png for each image, or joint_pca.png. Or the film: .mp4 or .gif.
        joint: Analyse all images jointly, so that a colour means the same in each; one page for all.
        foreground: Colour the foreground only: patches whose first component is on the far side from the border's.
        side_by_side: Film: the video on the left, its colours on the right.
        vp9: Film: write VP9 to the .mp4, which browsers play, at a hundredth of the speed of MPEG-4 part 2.
    """
    if out.suffix.lower() in FILM_SUFFIXES:
        if joint:
            raise UserError("--joint is for pictures: the colours of a film are those of all its frames in any case")
        _pca_film(images, model, out, options, foreground=foreground, side_by_side=side_by_side, vp9=vp9)
        return
    if side_by_side or vp9:
        raise UserError("--side-by-side and --vp9 are for a film: --out must end in .mp4 or .gif")
    video = next((path for path in images if path.suffix.lower() in set(VIDEO_EXTENSIONS) - {".gif"}), None)
    if video is not None:
        raise UserError(f"{video} is a video: --out names the film to write, and must end in .mp4 or .gif")
    drawing = Drawing(options, images, [model])

    def draw(shown: Shown) -> Iterator[Page]:
        image = (shown.name, shown.image, shown.inputs[0].patches())
        yield pages.colors_page([image], shown.name, drawing.note, foreground=foreground, dpi=drawing.dpi)

    if not joint:
        drawing.draw_each(out, "pca", draw, "drawing components")
        return
    drawing.claim(out, page_names("joint_pca"))
    seen = [image for *_, image in drawing.look_at_all()]
    if len(seen) < 2:
        raise UserError("; ".join(["--joint needs at least two images that can be read", *drawing.faults]))
    title = f"{len(seen)} images, analysed jointly"
    page = pages.colors_page(seen, title, drawing.note, foreground=foreground, dpi=drawing.dpi)
    write_all(out, page_files("joint_pca", page))
    drawing.report(1, out)


def _pca_film(
    paths: Sequence[Path], name: str, out: Path, options: PictureOptions, *, foreground: bool, **looks: bool
) -> None:
    if len(paths) != 1:
        raise UserError(f"a film is made of one video, or of one folder of its frames, not of {len(paths)}")
    claim_file(out, overwrite=options.overwrite)
    device, video = pick_device(options.device), open_video(paths[0])
    if out.resolve() in {path.resolve() for path in (paths[0], *video.files)}:
        raise UserError(f"{out} is what is to be read: name another file with --out")
    loaded = load_model(name, progress_bar)
    backbone = loaded.backbone.to(device)
    size = backbone.config.image_size if options.size is None else options.size
    if size < backbone.patch_size:
        raise UserError(f"--size must be at least one patch of {backbone.patch_size} px, not {size}")
    video = replace(video, window=backbone.config.window)
    mark(out.parent, [out.name])
    with progress_bar("drawing components") as progress:
        film = write_colors_film(loaded, video, out, size, foreground=foreground, progress=progress, **looks)
    share = f"{film.share:.0%} of the variance of {film.sampled} of them"
    stdout(f"{out}: {film.frames} frames; red, green, blue: the first three principal components, {share}")


def similarity(
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")],
    /,
    model: ModelName,
    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="X,Y")],
    out: Path = Path("similarity"),
    stretch: bool = False,
    options: Options = DEFAULTS,
) -> None:
    """Draw how similar each patch is to a chosen one, in the first image and in any others.

    One page with a row for each point: the first image with the point, then the cosines in every image.

    Args:
        images: The image in which the points lie, then other images or folders of images.
        at: A point of the first image in its own pixels, from 0,0 at the upper left; may be given several times.
        out: Folder for the picture, NAME_similarity.png after the first image.
        stretch: Colours from the lowest to the highest cosine of each row, not from 0 to 1: for networks whose patches
            are all alike.
    """
    if not at:
        raise UserError("no point: give --at X,Y in pixels of the first image, such as --at 120,80")
    points = [(int(x), int(y)) for x, y in (text.split(",") for text in at)]
    if images and images[0].is_dir():
        raise UserError(f"{images[0]} is a folder: the first image is the one in which the points lie")
    drawing = Drawing(options, images, [model])
    name = f"{picture_name(drawing.files[0])}_similarity"
    drawing.claim(out, page_names(name))
    seen = drawing.look_at_all()
    place, size, first = next(seen, (None, (0, 0), None))
    if place != 0 or first is None:
        raise UserError("the first image must be readable: " + "; ".join(drawing.faults))
    others = [image for *_, image in seen]
    seen_images, note, dpi = [first, *others], drawing.note, drawing.dpi
    page = pages.similarity_page(seen_images, points, size, note, stretch=stretch, dpi=dpi)
    write_all(out, page_files(name, page))
    drawing.report(1, out)


def segment(
    images: Images,
    /,
    model: ModelName,
    out: Path = Path("segments"),
    by: str = "attention",
    block: Annotated[int, tyro.conf.arg(help=f"With a map: the {BLOCK[:1].lower()}{BLOCK[1:]}.")] = -1,
    mass: Annotated[float, tyro.conf.arg(help=MASS)] = 0.6,
    cutout: bool = False,
    options: Options = DEFAULTS,
) -> None:
    """Write the foreground of each image as a mask of the image's own size: 255 inside, 0 outside.

    Next to it a page with the image, what the mask was made from, and the mask. A mask is as fine as the patches;
    a larger --size makes them finer.

    Args:
        out: Folder for the pictures: NAME_mask.png, NAME_segment.png, and NAME_cutout.png with --cutout.
        by: attention (of a ResNet: feature energy), rollout, energy, gradcam or centre: the patches that hold --mass of
            it. pca: those whose first principal component is on the far side from the border's, without a class token.
        cutout: Also write the image with a transparent background.
    """
    lookup("way to segment", by, WAYS_TO_SEGMENT)
    drawing = Drawing(options, images, [model])

    def draw(shown: Shown) -> Iterator[Page | Picture]:
        page, mask = pages.segment_page(shown, by, block, mass, dpi=drawing.dpi)
        inside = F.interpolate(mask[None, None].float(), shown.size, mode="nearest-exact")[0, 0]
        alpha = (255 * inside).numpy().astype(np.uint8)
        yield from (page, alpha)
        if cutout:
            yield np.dstack([shown.image, alpha])

    drawing.draw_each(out, "segment", draw, "segmenting", pictures=["mask", *(["cutout"] if cutout else [])])


def draw_map(
    model: ModelNames,
    data: Path,
    out: Path = Path("map.png"),
    method: Literal["tsne", "umap", "pca"] = "tsne",
    limit: int = 600,
    seed: int = 0,
    points: bool = False,
    dpi: int | None = None,
    overwrite: bool = False,
    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = EXTRACTION,
) -> None:
    """Draw the images of a folder so that those with like features lie near each other.

    One model: a map of thumbnails. Several: a point for each image, on one map for each model. Frames and points have
    the colours of the classes, if there are labels. For each map, the share of neighbours that it keeps is printed.

    Args:
        data: Folder of images, at any depth. If each lies in a folder of its class, that is its label: CLASS/..., or
            train/CLASS/... and val/CLASS/...
        out: Picture to write, a PNG.
        method: tsne, umap (needs umap-learn: pip install 'dinoscope[umap]'), or pca.
        limit: At most so many images, evenly spaced, the classes alike.
        seed: Seed of t-SNE and UMAP.
        points: One model: points too instead of thumbnails.
        dpi: Draw for print with so many dots an inch, such as 300, at a width of 7.2 inches, and also as a PDF.
        overwrite: Replace the file if there is one.
    """
    if limit < 2:
        raise UserError(f"--limit must be at least 2, not {limit}")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the picture is a PNG, so the name must end in .png")
    scale_of(dpi)  # refused before the images are read
    for file in (out, out.with_suffix(".pdf")):
        claim_file(file, overwrite=overwrite)
    found = find_images(data, splits=True)
    folder = balanced(found, limit)
    models, context = load_models(model, progress_bar), extraction.context()
    models = [context.fitted(each, data) for each in models]
    banks = [context.features(each.backbone, folder, f"features of {each.label}") for each in models]
    made: list[tuple[str, EmbeddingMap]] = []
    with progress_bar("placing images") as progress:
        for done, (each, bank) in enumerate(zip(models, banks, strict=True)):
            progress(done, len(models))
            try:
                made.append((each.label, embedding_map(bank.features, method, seed)))
            except UserError as error:
                raise UserError(f"{each.label}: {error}") from error
    labelling, paths, room = maps.labelling_of(banks[0]), banks[0].paths, ""
    if len(models) > 1 or points:
        details = ["" if one.kept is None else f"{one.kept:.0%} of neighbours kept" for _, one in made]
        panels = [(label, detail, one.points) for (label, one), detail in zip(made, details, strict=True)]
        page = maps.points_page(panels, labelling, dpi=dpi)
    else:
        window = models[0].backbone.config.window
        place = {key: position for position, key in enumerate(folder.keys)}
        images = [maps.thumbnail(folder.read(place[path]).rgb(window), dpi) for path in paths]
        title = f"{models[0].label}, {data.resolve().name}"
        page, fitting = maps.thumbnails_page(made[0][1].points, images, labelling, title, TITLES[method], dpi=dpi)
        room = "" if fitting == len(paths) else f", {fitting} of them with room for a thumbnail"
    (_, png), (pdf_name, pdf) = page_files(out.stem, page)
    write_all(out.parent, [(out.name, png), (pdf_name, pdf)])
    stdout(f"{out}: {len(paths)} of {len(found)} images{room}")
    for label, one in made:
        stdout(f"{label}: {described(one)}")


COMMANDS = {
    "attention": Command("pictures of what a model attends to, or several models side by side", attention),
    "pca": Command("principal components of patch features as colours, of images or as a film", pca),
    "similarity": Command("which patches are like a chosen one, within an image and across images", similarity),
    "segment": Command("the foreground of images as masks and cut-outs", segment),
    "map": Command("a map of a folder's images by their features (t-SNE, UMAP or PCA), models side by side", draw_map),
}
