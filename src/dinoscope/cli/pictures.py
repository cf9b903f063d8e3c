"""The commands that draw what models see: `attention`, `pca`, `similarity`, `segment` and `map`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.checkpoint import find_weights
from dinoscope.cli.command import EXTRACTION, Command, ExtractionOptions, ModelName, ModelNames
from dinoscope.cli.console import metric_table, progress_bar, say, stdout
from dinoscope.data.benchmarks import VOID, MaskedImages, find_masks, object_pixels
from dinoscope.data.images import OTHER_EXTENSIONS, UnreadableImage, decode, extensions, read
from dinoscope.data.sources import balanced, evenly, find_images, find_images_of_splits
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import attention_of_blocks, map_masks, mean_and_heads, prepare
from dinoscope.explain.embedding import TITLES, EmbeddingMap, described, embedding_map
from dinoscope.explain.maps import MAPS, count_maps, map_title
from dinoscope.explain.patches import patch_at, patch_box, patch_colors, patch_features, similarity_maps
from dinoscope.files import claim, claim_file, mark
from dinoscope.model_names import Model, load_models
from dinoscope.models.network import require_transformer
from dinoscope.pictures import (
    PAGE_WIDTH,
    Legend,
    Tile,
    color_picture,
    fitted,
    mask_overlay,
    mass_legend,
    overlay,
    tile_width,
    write_png,
)
from dinoscope.report.maps import ModelPoints, labelling_of, points_page, thumbnail, thumbnails_page
from dinoscope.report.pages import (
    ColoredImage,
    Heading,
    ModelMap,
    SimilarPatches,
    attention_panel,
    blocks_page,
    colors_page,
    comparison_page,
    segment_page,
    similarity_page,
)
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

    overwrite: bool = False
    """Replace pictures that are already there."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    def viewers(self, models: Sequence[str]) -> list[Viewer]:
        """Load the models. Raises UserError if one is not there, or the size is below one of its patches."""
        device, viewers = pick_device(self.device), list[Viewer]()
        for model in load_models(models, progress_bar):
            patch = model.backbone.patch_size
            if self.size is not None and self.size < patch:
                raise UserError(f"--size must be at least one patch of {patch} px, not {self.size}")
            model.backbone.to(device)
            viewers.append(Viewer(model, self.size or model.backbone.config.image_size))
        return viewers


Drawing = tyro.conf.OmitArgPrefixes[PictureOptions]
DRAWING = PictureOptions()


@dataclass(frozen=True)
class Viewer:
    """A model on its device, and the short side, in pixels, at which it sees images."""

    model: Model
    size: int

    def input(self, image: UInt8[ndarray, "h w 3"]) -> Float[Tensor, "1 3 s t"]:
        """Return the image resized and normalised. Raises UserError if it has too many patches."""
        backbone = self.model.backbone
        return backbone.normalize(prepare(image, self.size, backbone.patch_size)[None].to(backbone.mean.device))

    def on_cpu(self, result: Float[Tensor, "1 ..."], what: str) -> Tensor:
        """Return what the model gave for one image. Raises UserError for values that are not finite."""
        if not result.isfinite().all():
            raise UserError(
                f"the {what} of {self.model.label} is not finite: "
                "the weights of this model are broken (did its training diverge?)"
            )
        return result[0].float().cpu()

    def maps(self, kind: str, images: Float[Tensor, "1 3 h w"], block: int) -> Float[Tensor, "maps rows columns"]:
        """Return one image's maps of a kind, on the CPU."""
        backbone = self.model.backbone
        return self.on_cpu(MAPS[kind](backbone, images, block), map_title(kind, backbone))

    def patches(self, images: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "rows columns d"]:
        """Return the features of one image's patches, on the CPU."""
        return self.on_cpu(patch_features(self.model.backbone, images), "features")

    @property
    def note(self) -> str:
        """Which model at which size, in a few words."""
        label, network = self.model.label, self.model.backbone.config.name
        return f"{label}, {self.size} px" if network in label else f"{label}: {network}, {self.size} px"


@dataclass(frozen=True)
class Seen:
    """An image that was read, by the grey range of the first model, and what each model is given of it."""

    index: int
    file: Path
    image: UInt8[ndarray, "h w 3"]
    inputs: tuple[Float[Tensor, "1 3 _ _"], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]


class Unusable(UserError):
    """What is wrong with one image; the others are drawn."""


def look(files: Sequence[Path], viewers: Sequence[Viewer], faults: list[str], doing: str) -> Iterator[Seen]:
    """Read and prepare one image after the other, with a progress bar; what is wrong with one goes to `faults`."""
    with progress_bar(doing) as progress:
        for index, file in enumerate(files):
            progress(index, len(files))
            try:
                raw = read(file)
                images = [raw.rgb(viewer.model.backbone.config.window) for viewer in viewers]
                inputs = tuple(viewer.input(image) for viewer, image in zip(viewers, images, strict=True))
            except (UnreadableImage, UserError) as error:
                faults.append(f"{file}: {error}")
            else:
                yield Seen(index, file, images[0], inputs)


def draw_each(
    files: Sequence[Path],
    viewers: Sequence[Viewer],
    out: Path,
    kinds: Sequence[str],
    pages: Callable[[Seen], Iterable[Picture]],
    *,
    overwrite: bool,
    doing: str,
) -> int:
    """Draw OUT/NAME_KIND.png of each file; report what could not be drawn, and return the number of images drawn.

    pages: makes the pictures of an image in the order of `kinds`; may raise Unusable.

    Raises UserError if none could be drawn, or pictures are in the way or cannot be written.
    """
    names = unique_names(files)
    claim_pictures(out, [f"{name}_{kind}.png" for name in names for kind in kinds], overwrite=overwrite)
    drawn, faults = 0, list[str]()
    for seen in look(files, viewers, faults, doing):
        try:
            pictures = list(pages(seen))
        except Unusable as error:
            faults.append(str(error))
            continue
        for kind, picture in zip(kinds, pictures, strict=True):
            write_picture(out / f"{names[seen.index]}_{kind}.png", picture)
        drawn += 1
    report_drawn(drawn, faults, out)
    return drawn


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
            folder = find_images(path)
            files += [folder.path(index) for index in evenly(len(folder), limit)]
        else:
            files.append(path)
    return files


def models_and_images(models: Sequence[str], images: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Part `--model A B IMAGE...`, where the command line alone does not tell at which word the images begin.

    What follows `--model` is an image if it is a folder that holds no model, or has the ending of an image; but
    the first is always a model.
    """
    first, *others = models
    misplaced = [name for name in others if _is_image(Path(name))]
    return [first, *(name for name in others if name not in misplaced)], [*map(Path, misplaced), *images]


def _is_image(path: Path) -> bool:
    if not path.is_dir():
        return path.name.lower().endswith((*extensions(), *OTHER_EXTENSIONS))
    try:
        find_weights(path)
    except UserError:
        return True
    return False


def unique_names(files: Sequence[Path]) -> list[str]:
    """Return the files' names without their endings; a name that is taken already gets a number, as in "cat-2"."""
    names: dict[str, str] = {}  # by casefold: some file systems take "Cat" and "cat" for one
    for file in files:
        name, number = file.stem, 1
        while name.casefold() in names:
            number += 1
            name = f"{file.stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())


def claim_pictures(out: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Make the output folder and note that these pictures are no data. Raises UserError if some are there already."""
    claim(out, names, overwrite=overwrite)
    try:
        mark(out, names)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error


def write_picture(path: Path, picture: Picture) -> None:
    """Write a PNG, whole or not at all. Raises UserError if that is not possible."""
    try:
        write_png(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def report_drawn(drawn: int, faults: Sequence[str], out: Path) -> None:
    """Print where the pictures are, and which images could not be drawn. Raises UserError if none could."""
    if not drawn:
        raise UserError("no image could be drawn: " + "; ".join(faults))
    if faults:
        say("\n  ".join([f"{len(faults)} not drawn:", *faults]))
    stdout(f"{drawn} page{'s' * (drawn != 1)} in {out}")


# attention


@dataclass
class Truth:
    """The true masks of the images that are drawn, and the Jaccard of each model's masks so far, by its label."""

    masks: MaskedImages
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def classes(self, seen: Seen) -> UInt8[ndarray, "h w"] | None:
        """Return the mask of an image, if it has one. Raises Unusable if that cannot be read."""
        if seen.file not in self.masks.images:
            return None
        try:
            return self.masks.ground_truth(self.masks.images.index(seen.file), seen.size)
        except UserError as error:
            raise Unusable(str(error)) from error

    def measure(
        self, classes: UInt8[ndarray, "h w"] | None, label: str, mask: Bool[Tensor, "rows columns"]
    ) -> float | None:
        """Return the Jaccard of a model's mask, 0 to 1, without void pixels; None if there is no object to lie on."""
        if classes is None or not object_pixels(classes).any():
            return None
        score = jaccard(mask, torch.from_numpy(object_pixels(classes)), torch.from_numpy(classes != VOID))
        self.scores[label].append(score)
        return score

    def report(self, labels: Sequence[str]) -> None:
        """Print each model's mean Jaccard over the images whose masks show an object."""
        if count := len(self.scores[labels[0]]):
            metrics = [Metric(label, 100 * float(np.mean(self.scores[label]))) for label in labels]
            stdout(metric_table(f"mean Jaccard of the masks, {count} image{'s' * (count != 1)}", metrics))


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
    drawing: Drawing = DRAWING,
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
            which is not counted; where a folder has only these two, 255 is the object.
        map: attention: of each head of one block (of a ResNet: feature energy). rollout: of all blocks up to that one,
            in one map. energy: length of the patches' features. gradcam: what speaks for the image's own feature.
            centre: a blob that looks at no image.
        separate: One model: also write each overlay and mask as a PNG of its own, as large as the image.
    """
    lookup("kind of map", map, MAPS)
    names, paths = models_and_images(model, images)
    files, viewers = find_files(paths, drawing.limit), drawing.viewers(names)
    truth = None if masks is None else Truth(find_masks(files, masks))
    several = len(viewers) > 1 or truth is not None
    if separate and (several or block == "all"):
        raise UserError("--separate is for one model and one block, without --masks")
    if block == "all":
        if map != "attention" or truth is not None:
            raise UserError("--block all is for --map attention, without --masks")
        kinds, pages = ["blocks"], lambda seen: [_blocks(seen, viewers)]
    elif several:
        kinds, pages = ["compared"], lambda seen: [_comparison(seen, viewers, map, block, mass, truth)]
    else:
        kinds, pages = [map], lambda seen: _panel(seen, viewers[0], map, block, mass, separate=separate)
        if separate:
            heads = [f"head{head}" for head in range(count_maps(map, viewers[0].model.backbone))]
            kinds += [kind for head in ["mean", *heads] for kind in (head, f"{head}_mask")]
    draw_each(files, viewers, out, kinds, pages, overwrite=drawing.overwrite, doing="drawing attention")
    if truth is not None:
        truth.report([viewer.model.label for viewer in viewers])


def _panel(seen: Seen, viewer: Viewer, kind: str, block: int, mass: float, *, separate: bool) -> Iterator[Picture]:
    """Give the page of one model, and every picture of it."""
    maps, title = viewer.maps(kind, seen.inputs[0], block), map_title(kind, viewer.model.backbone)
    note = viewer.note + ("" if block == -1 else f", block {block}")
    yield attention_panel(seen.image, maps, mass, seen.file.name, note, title)
    if separate:
        every = mean_and_heads(maps[None])[0]
        for values, mask in zip(every.numpy(), map_masks(every, mass).numpy(), strict=True):
            yield overlay(seen.image, values)
            yield mask_overlay(seen.image, mask)


def _comparison(
    seen: Seen, viewers: Sequence[Viewer], kind: str, block: int, mass: float, truth: Truth | None
) -> Picture:
    """Draw the mean map and the mask of each model, next to the true mask if there is one."""
    classes, shown = truth.classes(seen) if truth else None, list[ModelMap]()
    for viewer, images in zip(viewers, seen.inputs, strict=True):
        mean = viewer.maps(kind, images, block).mean(dim=0)
        mask, label = map_masks(mean, mass), viewer.model.label
        score = truth.measure(classes, label, mask) if truth else None
        shown.append(ModelMap(label, map_title(kind, viewer.model.backbone), mean.numpy(), mask.numpy(), score))
    text = "the last block" if block == -1 else f"block {block}"
    heading = Heading(seen.file.name, f"{'rollout to ' * (kind == 'rollout')}{text}, {_sizes(viewers)}")
    return comparison_page(seen.image, shown, mass, heading, None if classes is None else object_pixels(classes))


def _blocks(seen: Seen, viewers: Sequence[Viewer]) -> Picture:
    """Draw the mean map of every block of each model."""
    rows: list[tuple[str, list[ndarray]]] = []
    for viewer, images in zip(viewers, seen.inputs, strict=True):
        backbone = viewer.model.backbone
        transformer = require_transformer(backbone, "--block all")
        with torch.no_grad():
            maps = [
                viewer.on_cpu(of_block.mean(dim=1), "attention")
                for of_block in attention_of_blocks(transformer, images)
            ]
        rows.append((viewer.model.label, [mean.numpy() for mean in maps]))
    note = viewers[0].note if len(viewers) == 1 else _sizes(viewers)
    return blocks_page(seen.image, rows, Heading(seen.file.name, note))


def _sizes(viewers: Sequence[Viewer]) -> str:
    return " and ".join(str(size) for size in sorted({viewer.size for viewer in viewers})) + " px"


# pca


def pca(
    images: Images,
    /,
    model: ModelName,
    out: Path = Path("pca"),
    joint: bool = False,
    foreground: bool = False,
    drawing: Drawing = DRAWING,
) -> None:
    """Colour each patch by the first three principal components of its features: like parts, like colours.

    Works for transformers and ResNets. Each image is analysed on its own, or all of them jointly.

    Args:
        out: Folder for the pictures: NAME_pca.png for each image, or joint_pca.png.
        joint: Analyse all images jointly, so that a colour means the same in each; one page for all.
        foreground: Colour the foreground only: patches whose first component is on the far side from the border's.
    """
    files, viewers = find_files(images, drawing.limit), drawing.viewers([model])
    viewer = viewers[0]

    def page(names: Sequence[str], shown: Sequence[ndarray], features: Sequence[Tensor], title: str) -> Picture:
        colors = patch_colors(features, foreground=foreground)
        colored = [
            ColoredImage(name, image, found.colors.numpy(), found.foreground.numpy() if foreground else None)
            for name, image, found in zip(names, shown, colors, strict=True)
        ]
        return colors_page(colored, Heading(title, viewer.note), colors[0].share)

    if joint:
        claim_pictures(out, ["joint_pca.png"], overwrite=drawing.overwrite)
        names, shown, features, faults = _look_at_all(files, viewer)
        if len(shown) < 2:
            raise UserError("--joint needs at least two images that can be read" + "".join(f"; {f}" for f in faults))
        write_picture(out / "joint_pca.png", page(names, shown, features, f"{len(shown)} images, analysed jointly"))
        report_drawn(1, faults, out)
    else:

        def pages(seen: Seen) -> list[Picture]:
            return [page(["image"], [seen.image], [viewer.patches(seen.inputs[0])], seen.file.name)]

        draw_each(files, viewers, out, ["pca"], pages, overwrite=drawing.overwrite, doing="drawing components")


def _look_at_all(
    files: Sequence[Path], viewer: Viewer
) -> tuple[list[str], list[UInt8[ndarray, "h w 3"]], list[Float[Tensor, "rows columns d"]], list[str]]:
    """Return names, images, features of patches, and what was wrong with the files that could not be read."""
    names, images, features, faults = list[str](), list[ndarray](), list[Tensor](), list[str]()
    for seen in look(files, [viewer], faults, "looking at images"):
        names.append(seen.file.name)
        images.append(fitted(seen.image, PAGE_WIDTH // 2))  # all of them are held: no larger than they are shown
        features.append(viewer.patches(seen.inputs[0]))
    return names, images, features, faults


# similarity


def similarity(
    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")],
    /,
    model: ModelName,
    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="X,Y")],
    out: Path = Path("similarity"),
    drawing: Drawing = DRAWING,
) -> None:
    """Draw how similar each patch is to a chosen one, in the first image and in any others.

    One page with a row for each point: the first image with the point, then the cosines in every image.

    Args:
        images: The image in which the points lie, then other images or folders of images.
        at: A point of the first image in its own pixels, from 0,0 at the upper left; may be given several times.
        out: Folder for the picture, NAME_similarity.png after the first image.
    """
    points = [parse_point(text) for text in at]
    if not points:
        raise UserError("no point: give --at X,Y in pixels of the first image, such as --at 120,80")
    if images and images[0].is_dir():
        raise UserError(f"{images[0]} is a folder: the first image is the one in which the points lie")
    files, viewer = find_files(images, drawing.limit), drawing.viewers([model])[0]
    name = f"{unique_names(files[:1])[0]}_similarity.png"
    claim_pictures(out, [name], overwrite=drawing.overwrite)
    faults = list[str]()
    first = next(look(files[:1], [viewer], faults, "looking at images"), None)
    if first is None:
        raise UserError("the first image must be readable: " + "; ".join(faults))
    names, shown, features, faults = _look_at_all(files, viewer)
    rows = compare_patches(points, first.size, features)
    heading = Heading(f"patches of {files[0].name}", viewer.note)
    write_picture(out / name, similarity_page(shown, names, rows, first.size, heading))
    report_drawn(1, faults, out)


def parse_point(text: str) -> tuple[int, int]:
    """Return (x, y) of "X,Y". Raises UserError for anything else."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: give X,Y in whole pixels, such as --at 120,80") from None
    return x, y


def compare_patches(
    points: Sequence[tuple[int, int]], size: tuple[int, int], features: Sequence[Float[Tensor, "_ _ d"]]
) -> list[SimilarPatches]:
    """Return the cosines with the patch at each point of the first image, whose size is (height, width).

    Raises UserError for a point outside of it.
    """
    grid = (features[0].shape[0], features[0].shape[1])
    patches = [patch_at(point, size, grid) for point in points]
    queries = torch.stack([features[0][patch] for patch in patches])
    maps = [similarity_maps(queries, of_image) for of_image in features]
    return [
        SimilarPatches(point, patch_box(patch, size, grid), [of_image[number].numpy() for of_image in maps])
        for number, (point, patch) in enumerate(zip(points, patches, strict=True))
    ]


# segment


def segment(
    images: Images,
    /,
    model: ModelName,
    out: Path = Path("segments"),
    by: str = "attention",
    block: Annotated[int, tyro.conf.arg(help=f"With a map: the {BLOCK[:1].lower()}{BLOCK[1:]}.")] = -1,
    mass: Annotated[float, tyro.conf.arg(help=MASS)] = 0.6,
    cutout: bool = False,
    drawing: Drawing = DRAWING,
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
    lookup("way to segment", by, {**dict.fromkeys(MAPS), "pca": None})
    files, viewers = find_files(images, drawing.limit), drawing.viewers([model])

    def pages(seen: Seen) -> list[Picture]:
        ground = fitted(seen.image, tile_width(PAGE_WIDTH, 3))
        if by == "pca":
            mask, tile, legend = _by_components(viewers[0], seen, ground)
        else:
            mask, tile, legend = _by_map(viewers[0], seen, ground, by, block, mass)
        inside = (
            (255 * F.interpolate(mask[None, None].float(), seen.size, mode="nearest-exact")[0, 0])
            .numpy()
            .astype(np.uint8)
        )
        page = segment_page(seen.image, tile, mask.numpy(), Heading(seen.file.name, viewers[0].note), legend)
        return [inside, page, *([np.dstack([seen.image, inside])] if cutout else [])]

    kinds = ["mask", "segment", *(["cutout"] if cutout else [])]
    draw_each(files, viewers, out, kinds, pages, overwrite=drawing.overwrite, doing="segmenting")


Foreground = tuple[Bool[Tensor, "rows columns"], Tile, Legend | None]
"""The foreground of an image's patches, the picture it was made from, and that one's scale of colours."""


def _by_map(viewer: Viewer, seen: Seen, ground: ndarray, kind: str, block: int, mass: float) -> Foreground:
    """Return the fewest patches that hold the mass of the mean map."""
    mean, title = viewer.maps(kind, seen.inputs[0], block).mean(dim=0), map_title(kind, viewer.model.backbone)
    tile = Tile(overlay(ground, mean.numpy()), title, f"{mean.shape[1]} × {mean.shape[0]} patches")
    return map_masks(mean, mass), tile, mass_legend(mass, title)


def _by_components(viewer: Viewer, seen: Seen, ground: ndarray) -> Foreground:
    """Return the patches whose first principal component is on the far side from the border's."""
    found = patch_colors([viewer.patches(seen.inputs[0])], foreground=True)[0]
    rows, columns, _ = found.colors.shape
    picture = color_picture(found.colors.numpy(), (ground.shape[0], ground.shape[1]))
    return found.foreground, Tile(picture, "principal components", f"{columns} × {rows} patches"), None


# map


def draw_map(
    model: ModelNames,
    data: Path,
    out: Path = Path("map.png"),
    method: Literal["tsne", "umap", "pca"] = "tsne",
    limit: int = 600,
    seed: int = 0,
    points: bool = False,
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
        overwrite: Replace the file if there is one.
    """
    if limit < 2:
        raise UserError(f"--limit must be at least 2, not {limit}")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the picture is a PNG, so the name must end in .png")
    claim_file(out, overwrite=overwrite)
    found = find_images_of_splits(data)
    folder = balanced(found, limit)
    models, context = load_models(model, progress_bar), extraction.context()
    banks = [context.features(each.backbone, folder, f"features of {each.label}") for each in models]
    maps: list[EmbeddingMap] = []
    with progress_bar("placing images") as progress:
        for done, (each, bank) in enumerate(zip(models, banks, strict=True)):
            progress(done, len(models))
            try:
                maps.append(embedding_map(bank.features, method, seed))
            except UserError as error:
                raise UserError(f"{each.label}: {error}") from error
    labelling, count, note = labelling_of(banks[0]), len(banks[0].paths), ""
    if len(models) > 1 or points:
        panels = [
            ModelPoints(each.label, "" if made.kept is None else f"{made.kept:.0%} of neighbours kept", made.points)
            for each, made in zip(models, maps, strict=True)
        ]
        picture = points_page(panels, labelling)
    else:
        window = models[0].backbone.config.window
        images = [thumbnail(decode(folder.root / path, window=window)) for path in banks[0].paths]
        heading = (f"{models[0].label}, {data.resolve().name}", TITLES[method])
        picture, shown = thumbnails_page(maps[0].points, images, labelling, *heading)
        note = "" if shown == count else f", {shown} of them with room for a thumbnail"
    try:
        mark(out.parent, [out.name])
        write_png(out, picture)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}") from error
    stdout(f"{out}: {count} of {len(found)} images{note}")
    for each, made in zip(models, maps, strict=True):
        stdout(f"{each.label}: {described(made)}")


COMMANDS = {
    "attention": Command("pictures of what a model attends to, or several models side by side", attention),
    "pca": Command("principal components of patch features as colours", pca),
    "similarity": Command("which patches are like a chosen one, within an image and across images", similarity),
    "segment": Command("the foreground of images as masks and cut-outs", segment),
    "map": Command("a map of a folder's images by their features (t-SNE, UMAP or PCA), models side by side", draw_map),
}
