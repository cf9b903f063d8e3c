"""What a run begins with: its images, found and checked, and the weights of another model, if it continues from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dinoscope import checkpoint
from dinoscope.data.finding import find_images, find_split, resolve_split
from dinoscope.data.grey_range import HEADER, Window, check_window, is_header, is_joined, joined, with_fallback
from dinoscope.data.normalisation import measured
from dinoscope.data.reader import UnreadableImage, fits, require_fit
from dinoscope.data.scan import ScanReport, Unreadable, check_readable, most_channels, scan
from dinoscope.data.sources import LATER_EXTENSIONS, ImageSource, evenly, image_fraction, split_images
from dinoscope.errors import UserError
from dinoscope.files import cache_folder, write_text, writing
from dinoscope.methods.method import Method
from dinoscope.model_names import Model, Watch, load_model, say_once
from dinoscope.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, BackboneConfig
from dinoscope.models.network import require_fitted, usual_normalisation
from dinoscope.system import pick_device
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.sharding import like_module

logger = logging.getLogger("dinoscope")

MAX_CHECKED = 50_000
"""Images up to which --scan auto decodes all of them before the run."""
SAMPLE = 2_000
"""Images that --scan sample decodes, evenly spaced: if 1 % of a data set is damaged, it sees some 20 cases."""


def prepared_device(config: RunConfig) -> torch.device:
    """Return the device of the run, and set the number of threads.

    Raises UserError if there is no such device, or the views are to be made on another one.
    """
    device = pick_device(config.device)
    if config.views.device not in ("cpu", device.type):
        raise UserError(f"--views.device {config.views.device} needs a run on it, and this one is on {device}")
    if config.threads:
        torch.set_num_threads(config.threads)
    return device


def require_data(data: Path) -> None:
    """Raise UserError if the images of a run to resume, a file or folder of this machine, are not there any more."""
    is_plain = type(data) is type(Path()) and not any(sign in str(data) for sign in "*?[{")
    if is_plain and not data.exists():
        raise UserError(
            f"{data}, the images of the run, is not there any more: --resume --data NEW names where it is now"
        )


def found_images(
    config: RunConfig, source: ImageSource | None = None, progress: Callable[[int, int], None] | None = None
) -> ImageSource:
    """Return all training images: the source, else those of `config.data`, of its train split if there is one.

    Of a run that makes a split, the share that it trains on. Raises UserError as `split_of` does.
    """
    return split_of(config, source, progress)[0]


def split_of(
    config: RunConfig, source: ImageSource | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """Return all training images with their groups, and the rest if the run makes a split (`RunConfig.split`).

    progress: called with (done, total) if groups are read from headers.
    Raises UserError if there are no images, the pattern does not fit them, or a split is asked for and there is one.
    """
    images = find_images(resolve_split(config.data, "train")) if source is None else source
    images = images if config.group is None else images.grouped_by(config.group, progress)
    if config.split is None:
        return images, None
    if source is None and find_split(config.data, "val") is not None:
        raise UserError(f"{config.data} has a val split: leave out --split, which is for images without one")
    return split_images(images, config.split)


def trained_on(config: RunConfig, folder: ImageSource, unreadable: Set[str]) -> ImageSource:
    """Return the run's fraction of the folder, without unreadable files. Raises UserError if it is not in (0, 1]."""
    return image_fraction(folder.without(unreadable), config.fraction)


def scanned_images(
    config: RunConfig, progress: Callable[[int, int], None], source: ImageSource | None = None
) -> tuple[ImageSource, tuple[Unreadable, ...], RunConfig]:
    """Return the images of a new run, those left out because they cannot be read, and the settings that they complete.

    These are the grey range, the channels and the normalisation.

    Only the run's fraction is scanned, as `config.scan` asks (results are cached by path, size and time). If all of it
    is, the next image in the fraction's order is taken for one that is unreadable: the fraction is that of the others.
    progress: called with (0, 0) while the files are listed, then with (done, total).
    source: all images; None finds those of `config.data`.
    Raises UserError if there are none, or more than `config.max_unreadable` of them cannot be read.
    """
    progress(0, 0)
    folder = found_images(config, source, progress)
    _require_neighbours(config, folder, progress)
    unreadable: dict[str, Unreadable] = {}
    scanned, reports = set[str](), list[ScanReport]()
    images = trained_on(config, folder, set())
    if scan_mode(config, len(images)) not in ("full", "headers"):
        report = scan_images(config, images, progress)
        check_readable(folder.name, report.unreadable, report.images, config.max_unreadable)
        _require_fit(config, folder, [report])
        images = trained_on(config, folder, {fault.path for fault in report.unreadable})
        return images, report.unreadable, _completed(config, images, [report], progress)
    while True:
        images = trained_on(config, folder, unreadable.keys())
        rest = images.without(scanned)
        if not len(rest):
            completed = _completed(config, images, reports, progress)
            return images, tuple(unreadable.values()), completed
        reports.append(scan_images(config, rest, progress))
        _require_fit(config, folder, reports)
        faults = (*reports[-1].unreadable, *_misfits(config, rest, reports[-1], _channels(config, reports)))
        unreadable |= {fault.path: fault for fault in faults}
        scanned.update(rest.keys)
        check_readable(folder.name, tuple(unreadable.values()), len(scanned), config.max_unreadable)


def begun_images(config: RunConfig, run: RunFolder, fingerprint: str, source: ImageSource | None = None) -> ImageSource:
    """Return the images that a run began with, among those that exist now: without the files that it left out.

    fingerprint: of the images as the run began; runs of version 0.1 knew fewer extensions of JPEG.
    """
    folder, left_out = found_images(config, source), set(read_unreadable(run))
    images = trained_on(config, folder, left_out)
    later = {key for key in folder.keys if key.lower().endswith(LATER_EXTENSIONS)}
    if later and images.fingerprint() != fingerprint:
        earlier = trained_on(config, folder, left_out | later)
        if earlier.fingerprint() == fingerprint:
            return earlier
    return images


def scan_images(config: RunConfig, images: ImageSource, progress: Callable[[int, int], None]) -> ScanReport:
    """Scan the images as `config.scan` asks: all of them, some, or none."""
    mode = scan_mode(config, len(images))
    limit = {"sample": SAMPLE, "none": 0}.get(mode, len(images))
    images = images if limit >= len(images) else images.subset(evenly(len(images), limit) if limit else [])
    progress(0, len(images))
    return scan(images, full=mode != "headers", cache=cache_folder("scan"), progress=progress)


def scan_mode(config: RunConfig, images: int) -> str:
    """Return how so many images are checked: "full", "headers", "sample" or "none"."""
    if config.scan != "auto":
        return config.scan
    return "full" if images <= MAX_CHECKED else "sample"


def _grey_range(config: RunConfig, reports: list[ScanReport]) -> Window | None:
    if config.window not in (None, HEADER):
        if not is_header(config.window):
            check_window(config.window)
        return config.window
    if unknown := sum(report.over_8_bit for report in reports if report.values is None):
        logger.warning(
            "%d images of more than 8 bits, whose values were not read, each take a grey range of their own: "
            "--scan full finds one for all, and --window LEVEL,WIDTH sets it",
            unknown,
        )
        return config.window
    values = joined(report.values for report in reports if report.values is not None)
    if values is None:
        return config.window
    return values.window if config.window is None else with_fallback(values.window)


def _channels(config: RunConfig, reports: list[ScanReport]) -> int:
    """Return the channels of the run: those given or made, else 3 unless most images have neither 1 nor 3."""
    if config.fixed_channels is not None:
        return config.fixed_channels
    # A model to begin from decides, and so does a mean that is given for other channels than three.
    return len(config.mean) if config.init is not None or len(config.mean) != 3 else most_channels(reports)


def _require_neighbours(config: RunConfig, images: ImageSource, progress: Callable[[int, int], None]) -> None:
    """Raise UserError for a run of slices if every image is alone in its file, and no series has two of them."""
    slices = config.slices or 1
    if slices > 1 and not images.with_slices(slices, progress).has_neighbours():
        raise UserError(
            f"{images.name}: --slices {slices} is for files of several images, such as NIfTI volumes, DICOM files of "
            "several frames, and stacks in TIFF or NPY, and for DICOM files of one series: here every image is alone "
            "in its file, and none is in a series with another"
        )


def _require_fit(config: RunConfig, images: ImageSource, reports: list[ScanReport]) -> None:
    """Raise UserError if most images cannot be brought to the channels of the run."""
    channels, most = _channels(config, reports), most_channels(reports)
    if is_joined(config.window) or (config.slices or 1) > 1:
        count = sum(sum(report.channels.values()) for report in reports)
        fitting = sum(_fitting(config, report, channels) for report in reports)
        if 2 * fitting < count:
            what = f"--slices {config.slices} takes grey images"
            if is_joined(config.window):
                what = "--window with several windows takes grey images of more than 8 bits"
            raise UserError(f"{images.name}: {what}, and {count - fitting:,} of {count:,} are others")
    elif not fits(most, channels):
        raise UserError(
            f"{images.name}: images of {most} channels, and the run's network takes {channels}: give --channels "
            f"{most}, to which a model to begin from is adapted"
        )


def _fitting(config: RunConfig, report: ScanReport, channels: int) -> int:
    """Return how many images can be brought to the channels of the run, by what is counted."""
    grey = report.channels.get(1, 0)
    if is_joined(config.window):
        return min(grey, report.over_8_bit)
    if (config.slices or 1) > 1:
        return grey if report.over_8_bit else grey + report.channels.get(3, 0)
    return sum(count for own, count in report.channels.items() if fits(own, channels))


def _misfits(config: RunConfig, images: ImageSource, report: ScanReport, channels: int) -> Iterator[Unreadable]:
    """Yield the images that cannot be brought to the channels of the run."""
    if _fitting(config, report, channels) == sum(report.channels.values()):
        return
    unreadable = {fault.path for fault in report.unreadable}
    for index, key in enumerate(images.keys):
        if key not in unreadable:
            try:
                require_fit(images.header(index), channels, config.window, config.slices or 1)
            except UnreadableImage as error:
                yield Unreadable(key, str(error))


def _completed(
    config: RunConfig, images: ImageSource, reports: list[ScanReport], progress: Callable[[int, int], None]
) -> RunConfig:
    channels = _channels(config, reports)
    config = replace(config, window=_grey_range(config, reports))
    is_default = config.init is None and (config.mean, config.std) == (IMAGENET_MEAN, IMAGENET_STD)
    slices = config.slices or 1
    is_8_bit_rgb = channels == 3 and slices == 1 and not any(report.over_8_bit for report in reports)
    if len(config.mean) == channels and (is_8_bit_rgb or not is_default):
        return config
    found = None
    if not is_8_bit_rgb:
        stacks = images.with_slices(slices)
        found = measured(stacks, channels, config.window, cache=cache_folder("scan"), progress=progress)
    mean, std = usual_normalisation(channels) if found is None else found
    return replace(config, mean=mean, std=std)


def write_unreadable(run: RunFolder, reasons: Mapping[str, str]) -> None:
    """Write the files that are left out, with the reason, to the run folder."""
    with writing(run.unreadable):
        write_text(run.unreadable, json.dumps(reasons, indent=2) + "\n")
        # That of version 0.1 would contradict this one.
        run.unreadable.with_suffix(".txt").unlink(missing_ok=True)


def read_unreadable(run: RunFolder) -> dict[str, str]:
    """Return path and reason of each file of `write_unreadable`; for a run of version 0.1 from its unreadable.txt.

    Raises UserError if the list is damaged.
    """
    file = run.unreadable
    try:
        if not file.exists() and (earlier := file.with_suffix(".txt")).exists():
            lines = earlier.read_bytes().decode("utf-8", "surrogateescape").split("\n")
            return {path: reason for path, _, reason in (line.partition("\t") for line in lines if line)}
        reasons = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
        raise UserError(f"{file} is no list of files and reasons")
    return reasons


GENTLE_PEAK = 1e-4
"""Peak learning rate of AdamW, scaled to the batch, above which a run that continues from trained weights is warned.

A rule of thumb, not a measurement. With the peak of 3.1e-4 that the log of facebookresearch/dino issue 284 shows, the
model ended below the one that it began with; issue 207 there and facebookresearch/dinov2 issue 204 (k-NN from 80 % to
25 % within 10 000 images) report the same of the default rates. Fine-tuning was reported to work at 1e-5 and below
(dinov2 issue 252). 1e-4 is a third of the lowest of these harmful rates.
"""


def beginning_from(config: RunConfig, name: str, watch: Watch = say_once) -> RunConfig:
    """Return the settings with `name` as the initial model, and with its network, normalisation, grey range and slices.

    What is set already stays, and so does a number of channels, to which the model is adapted. watch: shows the
    progress of a download.
    Raises UserError if there is no such model.
    """
    return continuing(config, name, load_model(name, watch).backbone.config)


def continuing(config: RunConfig, name: str, model: BackboneConfig) -> RunConfig:
    """Return what `beginning_from` does for a model that is loaded already. model: its network."""
    window = model.window if config.window is None else config.window
    slices = model.slices if config.slices is None and model.slices > 1 else config.slices
    config = replace(config, init=name, backbone=model.name, window=window, slices=slices)
    if config.fixed_channels in (None, model.channels):
        config = replace(config, mean=model.mean, std=model.std)
    return config


def settled(config: RunConfig) -> RunConfig:
    """Return the settings with what identifies the trained models that the method learns from.

    Raises UserError if one is missing, is no trained model, lies in the folder of the run, or is not the one that the
    run began with.
    """

    def load(name: str) -> Backbone:
        model = load_model(name)
        _require_outside(model, config.out, "it")
        require_fitted(model.backbone)
        return model.backbone

    return replace(config, method=config.method.settled(load))


def _require_outside(model: Model, out: Path, what: str) -> None:
    if model.path is not None and model.path.resolve().is_relative_to(out.resolve()):
        # --overwrite deletes the run folder
        raise UserError(f"{what} lies in --out {out}, which the run would write: choose another")


def load_initial(config: RunConfig) -> Backbone | None:
    """Return the network that the run begins from; None for random weights.

    Raises UserError if there is no such model, or it is not of the run's network and normalisation.
    """
    if config.init is None:
        return None
    model, wanted = load_model(config.init), config.backbone_config
    _require_outside(model, config.out, f"--init {config.init}")
    given = model.backbone.config
    if given.name != wanted.name:
        raise UserError(
            f"--init {config.init} is a {given.name}, and the run's network is {wanted.name}: leave --backbone out to "
            f"take the model's, or give a model of {wanted.name}"
        )
    if given.channels == wanted.channels and (given.mean, given.std) != (wanted.mean, wanted.std):
        raise UserError(
            f"--init {config.init} was trained on images normalised with mean {given.mean} and std {given.std}, and "
            f"the run's are {wanted.mean} and {wanted.std}: give --mean and --std as the model has them"
        )
    return model.backbone


@torch.no_grad()
def give_weights(initial: Backbone, method: Method, source: str) -> None:
    """Load the weights of `initial` into every backbone of the method: student and teacher, query and key.

    The first layer is `adapted` to other channels. Position embeddings are resized to the layout of the method's as
    `initial` itself resizes them, so that the features of images of the run's size are the same. Raises UserError if
    anything else does not fit.
    """
    for backbone in method.backbones:
        weights = adapted(initial.weights_for(backbone.config), initial.config, backbone, source)
        weights = like_module(weights, backbone.net)
        checkpoint.load_strictly(backbone.net, weights, Path(source))


def adapted(weights: dict[str, Tensor], initial: BackboneConfig, backbone: Backbone, source: str) -> dict[str, Tensor]:
    """Return the weights with a first layer for the channels of `backbone`.

    Each channel gets the sum over the old channels divided by the number of the new ones: for RGB the mean times
    3 / channels. So an image whose channels are all alike gives the same as before.

    Raises UserError if the channels are in more than one layer.
    """
    before, after = initial.channels, backbone.config.channels
    if before == after:
        return weights
    own = backbone.net.state_dict()
    differing = [name for name in weights.keys() & own.keys() if weights[name].shape != own[name].shape]
    if len(differing) != 1 or weights[differing[0]].ndim != 4 or weights[differing[0]].shape[1] != before:
        raise UserError(
            f"{source}: the first layer of {initial.name} cannot be adapted from {before} to {after} channels: leave "
            "--init out, or choose another network"
        )
    kernel = weights[differing[0]]
    return weights | {differing[0]: (kernel.sum(dim=1, keepdim=True) / after).repeat(1, after, 1, 1)}


def facts_of(initial: BackboneConfig, config: RunConfig) -> str:
    """Describe what the run begins from."""
    before, size = initial.layout_size, config.backbone_config.layout_size
    resized = "" if before == size else f", laid out for {before} px and now for {size} px"
    channels = config.backbone_config.channels
    first = (
        ""
        if channels == initial.channels
        else f", its first layer adapted from {initial.channels} to {channels} channels"
    )
    return f"weights of {config.init}, whose network ({initial.name}{resized}{first}) is the run's; the head is fresh"


def washes_out(config: RunConfig) -> str | None:
    """Return a warning if the learning rate would lose what the initial model knows (`GENTLE_PEAK`), else None.

    Only for AdamW: for SGD and LARS no such figure is known. With layer-wise decay, high rates are meant for the head.
    """
    scale, peak = config.optimizer.scale(config.batch_size), config.optimizer.peak(config.batch_size)
    is_decayed = config.optimizer.layer_decay < 1
    if config.init is None or config.optimizer.name != "adamw" or is_decayed or peak <= GENTLE_PEAK:
        return None
    return (
        f"the learning rate rises to {peak:.1e} (scaled to the batch), and rates of 3e-04 and more are reported to "
        f"wash out what trained weights know: --optimizer.learning-rate {GENTLE_PEAK / scale:.1e} "
        f"keeps it at {GENTLE_PEAK:.0e}"
    )
