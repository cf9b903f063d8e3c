"""What the commands that draw share: options, which images, the models that look at them, and writing pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from torch import Tensor

    from dinoscope.model_names import Model


@dataclass(frozen=True)
class PictureOptions:
    """What is looked at, how, and whether pictures may be replaced."""

    size: int | None = None
    """Short side at which the network sees an image, in pixels; by default the one the model stores. More pixels
    give a finer map; the DINO paper's are of 480."""

    limit: int = 16
    """Images taken from each folder, spread evenly over it."""

    overwrite: bool = False
    """Replace pictures that are already there."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    def viewers(self, models: Sequence[str]) -> list[Viewer]:
        """Load the models. Raises UserError where one is not there, or the size is below one of its patches."""
        from dinoscope.cli.console import progress_bar
        from dinoscope.model_names import load_models
        from dinoscope.system import pick_device

        device, viewers = pick_device(self.device), list[Viewer]()
        for model in load_models(models, progress_bar):
            patch = model.backbone.patch_size
            if self.size is not None and self.size < patch:
                raise UserError(f"--size must be at least one patch of {patch} px, not {self.size}")
            model.backbone.to(device)
            viewers.append(Viewer(model, self.size or model.backbone.config.image_size))
        return viewers


@dataclass(frozen=True)
class Viewer:
    """A model on its device, and the short side, in pixels, at which it sees images."""

    model: Model
    size: int

    def input(self, image: UInt8[ndarray, "h w 3"]) -> Float[Tensor, "1 3 s t"]:
        """The image resized and normalised for this model. Raises UserError where it has too many patches."""
        from dinoscope.explain.attention import prepare

        backbone = self.model.backbone
        return backbone.normalize(prepare(image, self.size, backbone.patch_size)[None].to(backbone.mean.device))

    def on_cpu(self, result: Float[Tensor, "1 ..."], what: str) -> Tensor:
        """What the model gave for one image. Raises UserError where those are no numbers."""
        if not result.isfinite().all():
            raise UserError(
                f"the {what} of {self.model.label} is not finite: "
                "the weights of this model are broken (did its training diverge?)"
            )
        return result[0].float().cpu()

    def patches(self, images: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "rows columns d"]:
        """Features of one image's patches, on the CPU."""
        from dinoscope.explain.patches import patch_features

        return self.on_cpu(patch_features(self.model.backbone, images), "features")

    @property
    def note(self) -> str:
        """Which model at which size, in a few words."""
        label, network = self.model.label, self.model.backbone.config.name
        return f"{label}, {self.size} px" if network in label else f"{label}: {network}, {self.size} px"


@dataclass(frozen=True)
class Seen:
    """An image that could be read, and what each model is given of it. index: among the files.

    image: by the grey range of the first model.
    """

    index: int
    file: Path
    image: UInt8[ndarray, "h w 3"]
    inputs: tuple[Float[Tensor, "1 3 _ _"], ...]


def look(files: Sequence[Path], viewers: Sequence[Viewer], faults: list[str], doing: str) -> Iterator[Seen]:
    """Decode and prepare one image after the other, with a progress bar; what is wrong with one goes to `faults`."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.images import UnreadableImage, read

    with progress_bar(doing) as progress:
        for index, file in enumerate(files):
            progress(index, len(files))
            try:
                raw = read(file)
                seen = [raw.rgb(viewer.model.backbone.config.window) for viewer in viewers]
                inputs = tuple(viewer.input(image) for viewer, image in zip(viewers, seen, strict=True))
            except (UnreadableImage, UserError) as error:
                faults.append(f"{file}: {error}")
                continue
            yield Seen(index, file, seen[0], inputs)


def find_files(paths: Sequence[Path], limit: int) -> list[Path]:
    """The files named, and from each folder named up to `limit` images, spread evenly over it.

    Raises UserError where nothing is named, the limit is below 1, or a folder has no images.
    """
    from dinoscope.data.sources import evenly, find_images

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
    """Part `--model A B IMAGE...`, where the command line alone does not say at which word the images begin.

    What follows `--model` is an image if it is a folder that holds no model, or has the ending of an image; but
    the first is always a model.
    """
    first, *others = models
    misplaced = [name for name in others if _is_image(Path(name))]
    return [first, *(name for name in others if name not in misplaced)], [*map(Path, misplaced), *images]


def _is_image(path: Path) -> bool:
    from dinoscope.checkpoint import find_weights
    from dinoscope.data.images import OTHER_EXTENSIONS, extensions

    if not path.is_dir():
        return path.name.lower().endswith((*extensions(), *OTHER_EXTENSIONS))
    try:
        find_weights(path)
    except UserError:
        return True
    return False


def unique_names(files: Sequence[Path]) -> list[str]:
    """The files' names without their endings; a name that is taken already gets a number, as in "cat-2"."""
    names: dict[str, str] = {}  # by casefold: some file systems take "Cat" and "cat" for one
    for file in files:
        name, number = file.stem, 1
        while name.casefold() in names:
            number += 1
            name = f"{file.stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())


def claim(folder: Path, targets: Iterable[Path], *, overwrite: bool) -> None:
    """Make the output folder; refuse to replace pictures unasked. They are noted as no data. Raises UserError."""
    from dinoscope.files import mark

    targets = list(targets)
    existing = [path for path in targets if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{len(existing)} of the pictures are already there, such as {existing[0]}; "
            "add --overwrite to replace them, or name another folder with --out"
        )
    try:
        mark(folder, [path.name for path in targets])
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error


def claim_each(out: Path, files: Sequence[Path], kinds: Sequence[str], *, overwrite: bool) -> list[list[Path]]:
    """`claim` OUT/NAME_KIND.png for each file and kind; return them, a list for each file. Raises UserError."""
    targets = [[out / f"{name}_{kind}.png" for kind in kinds] for name in unique_names(files)]
    claim(out, [path for paths in targets for path in paths], overwrite=overwrite)
    return targets


def write_picture(path: Path, picture: UInt8[ndarray, "h w *c"]) -> None:
    """Write a PNG, whole or not at all. Raises UserError where that is not possible."""
    from dinoscope.pictures import write_png

    try:
        write_png(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def say_drawn(drawn: int, faults: Sequence[str], out: Path) -> None:
    """Tell where the pictures are, and which images could not be drawn. Raises UserError where none could."""
    from dinoscope.cli.console import Console

    if not drawn:
        raise UserError("no image could be drawn: " + "; ".join(faults))
    if faults:
        Console(stderr=True).print(
            f"{len(faults)} not drawn:", *faults, sep="\n  ", markup=False, highlight=False, soft_wrap=True
        )
    pages = "1 page" if drawn == 1 else f"{drawn} pages"
    Console().print(f"{pages} in {out}", markup=False, highlight=False, soft_wrap=True)
