"""The commands about models: `models`, `backbones`, `import`, `export` and `embed`."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table
from torch.overrides import TorchFunctionMode

from dinoscope import distributed
from dinoscope.cli.command import EXTRACTION, Command, ExtractionOptions, ModelName
from dinoscope.cli.console import Console, emit, progress_bar, say, stdout
from dinoscope.data.finding import find_images
from dinoscope.data.video import VIDEO_EXTENSIONS, Video, open_video
from dinoscope.errors import UserError, lookup
from dinoscope.explain.patch_features import PatchConfig, check_format, write_patches
from dinoscope.export import write
from dinoscope.features import WRITERS
from dinoscope.files import claim_file, replacing
from dinoscope.model_names import SHIPPED, SHIPPED_RELEASE, Model, load_model
from dinoscope.models.backbone import BACKBONES, BackboneConfig, build_backbone
from dinoscope.models.foreign import TimmNetwork
from dinoscope.models.network import require_patches
from dinoscope.models.pretrained import CATALOGUE, Choices, import_file, is_cached
from dinoscope.places import require_local
from dinoscope.tables import Column, Section, TableRow
from dinoscope.tables import Table as TextTable

WIDTH = 125
"""Columns that the table of released weights needs."""

BYTES_PER_PARAMETER = 4

PATCHES = PatchConfig()

LISTED = 10
"""Images that cannot be read which are named on the terminal."""


def models(json: bool = False) -> None:
    """List the models that have a name: the shipped one, and released weights, fetched on first use and kept.

    Any --model takes these names, and also a path, "pixels", "patches" and "manifold" (no network), "random" (the
    network of the first other model, untrained), random:NETWORK or random:MODEL, and timm:NAME.

    The figures are those their authors published for ImageNet, in %: k-NN and linear of frozen features, "own" of the
    classifier that the network was trained with. None was measured here. MB are the file's if its source tells them; ≥
    stands before those of the network's weights, which are in it at least.

    Args:
        json: Print JSON, with sources, addresses and notes.
    """
    rows = [
        {
            "name": name,
            **asdict(release),
            "parameters": _millions(release.architecture, 64 if name == SHIPPED else 224),
            "cached": name == SHIPPED or is_cached(release),
        }
        for name, release in {SHIPPED: SHIPPED_RELEASE, **CATALOGUE}.items()
    ]
    if json:
        emit(rows, (), json=True)
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("name", "network", "method", "M par.", "k-NN", "linear", "own", "licence", "MB", "here"):
        table.add_column(
            title, no_wrap=True, justify="right" if title in ("M par.", "k-NN", "linear", "own", "MB") else "left"
        )
    for row in rows:
        figures = [f"{row[name]:.1f}" if row[name] is not None else "" for name in ("knn", "linear", "own")]
        smallest = row["parameters"] * BYTES_PER_PARAMETER  # files may also hold heads, or a whole training
        megabytes = f"≥ {smallest:.0f}" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        cells = [row["name"], row["architecture"], row["method"], f"{row['parameters']:.1f}"]
        table.add_row(*cells, *figures, row["licence"], megabytes, "yes" if row["cached"] else "")
    console = Console()
    console.width = max(console.width, WIDTH)  # a narrower terminal wraps lines rather than cutting names
    console.print(table, highlight=False)


def backbones(json: bool = False) -> None:
    """List the networks that can be trained, as --backbone takes them, and those of timm by timm:NAME.

    M par. are millions of parameters for RGB images of the size that the network is made for, without any head. A patch
    is the part of an image that one vector stands for. `train` builds the network for the size of its views
    (--views.global-size), which must be made of whole patches of a transformer.

    Args:
        json: Print JSON, with a line about each family.
    """
    rows: list[dict[str, Any]] = []
    with progress_bar("counting parameters") as progress:
        for name, shape in BACKBONES.items():
            own = {"name": name, "family": shape.family, "about": shape.about}
            size = {"parameters": _millions(name, shape.size), "patch": shape.patch, "image_size": shape.size}
            rows.append(own | size)
            progress(len(rows), len(BACKBONES))
    columns = (
        Column("name"),
        Column("family"),
        *(Column(title, "right") for title in ("M par.", "patch px", "image px")),
    )
    keys = ("patch", "image_size")
    cells = [
        (each["name"], each["family"], f"{each['parameters']:.1f}", *(str(each[key]) for key in keys)) for each in rows
    ]
    table = TextTable(columns, (Section(tuple(map(TableRow, cells))),))
    about = {shape.family: shape.about for shape in (*BACKBONES.values(), TimmNetwork)}
    lines = [f"{family}: {text}" for family, text in about.items()]
    emit(rows, [table], [*lines, "Train one: dinoscope train --data FOLDER --backbone NAME --out RUN"], json=json)


class _Undrawn(TorchFunctionMode):
    """Leaves out what only fills weights: on the meta device, too, that takes most of the time of building them."""

    FILLS = frozenset({"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if args and getattr(func, "__name__", "") in self.FILLS else func(*args, **(kwargs or {}))


@functools.cache
def _millions(architecture: str, size: int) -> float:
    """Return the parameters of a network, in millions; no memory is taken for them."""
    with torch.device("meta"), _Undrawn():
        backbone = build_backbone(BackboneConfig(architecture, size))
    return round(sum(parameter.numel() for parameter in backbone.parameters()) / 1e6, 1)


def import_weights(
    file: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    /,
    out: Path | None = None,
    arch: str | None = None,
    part: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    window: tuple[float, ...] | None = None,
    overwrite: bool = False,
) -> None:
    """Recognise a weights file by the names of its tensors, load its network strictly, and write it as a model.

    DINO, DINOv2, DINOv3, iBOT, XCiT, DeiT, MoCo v1 to v3, SwAV, ports of SimCLR and BYOL, solo-learn, lightly,
    timm, torchvision and Hugging Face's ViTs, as .pth, .pt, .bin, .pth.tar, .ckpt or .safetensors. Nothing in a
    file is run. Commands take such files as --model directly too; importing once is quicker, and keeps what is
    decided here.

    Args:
        file: Weights file, or a folder with model.safetensors or pytorch_model.bin, as model hubs have it.
        out: Folder to write; by default nothing is written, and only what was found is printed.
        arch: Name of the network; by default it follows from the shapes of the tensors. If nothing tells how many
            attention heads it has, what is assumed is printed.
        part: Which of several networks in the file: teacher, student, ema or plain. By default the one that the
            method's own evaluations take.
        mean: Mean of each channel (red, green and blue) in [0, 1] that the network was trained with. By default what
            the settings next to the file in a folder of a model hub have, else ImageNet's.
        std: Standard deviation, likewise.
        window: Grey range by which the model is given images of more than 8 bits: LEVEL - WIDTH / 2 becomes black, and
            LEVEL + WIDTH / 2 white; or lung, soft, bone, brain or header, or as many joined by + as the network takes
            channels, as of train. By default each image takes its own. It stays with the model that is written.
        overwrite: Replace a model that is there.
    """
    if std is not None and not all(value > 0 for value in std):
        raise UserError(f"--std must be above 0, not {std}")
    colours = (None if values is None else tuple(values) for values in (mean, std))
    backbone, found = import_file(file, Choices(arch, part, *colours))
    if window is not None:
        backbone.config = replace(backbone.config, window=window)
    stdout(f"{file}: {found.line()}")
    if out is None:
        stdout("loads strictly; nothing was written (--out FOLDER writes it as a model)")
        return
    model = Model(str(file), file.stem, backbone, file, found.provenance())
    lines = write("safetensors", out, model, overwrite=overwrite)
    stdout("\n  ".join([f"{out}: {backbone.config.name}, {backbone.config.image_size} px", *lines]))


def export(
    model: ModelName,
    out: Path,
    format: Literal["safetensors", "timm", "huggingface", "onnx", "torch-export"] = "safetensors",
    overwrite: bool = False,
) -> None:
    """Write a model's backbone for use elsewhere, without head and optimiser; the weights are those that evaluations
    use (DINO: the teacher's).

    safetensors: backbone.safetensors and backbone.json, for dinoscope; weights are named as in timm.

    timm: model.safetensors, which timm's network of that name loads strictly.

    huggingface: config.json, model.safetensors and a model card, in timm's layout for model hubs; nothing is sent.

    torch-export: model.pt2, a program that torch alone runs, for any batch and image size.

    onnx: model.onnx, the same for onnxruntime (pip install 'dinoscope[onnx]').

    Networks with a convolutional stem or a small-image stem (vit_micro_conv8, resnet18_small) are dinoscope's
    alone: timm has none that would load them.

    Args:
        out: Folder to write.
        format: What to write; see above.
        overwrite: Replace a model that is there.
    """
    loaded = load_model(model, progress_bar)
    with Console(stderr=True).status(f"writing {format}"):  # tracing a large network takes a minute
        lines = write(format, out, loaded, overwrite=overwrite)
    config = loaded.backbone.config
    stdout("\n  ".join([f"{out}: {config.name}, {config.image_size} px", *lines]))


def embed(
    model: ModelName,
    data: Path,
    out: Path,
    overwrite: bool = False,
    patches: bool = False,
    format: Literal["npz", "parquet", "zarr"] | None = None,
    of_patches: tyro.conf.OmitArgPrefixes[PatchConfig] = PATCHES,
    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = EXTRACTION,
) -> None:
    """Write the features of all images of a folder, labelled or not; with --patches, of each of their patches.

    csv and parquet have the columns path, label, feature_0, feature_1...; npz has the arrays path [n],
    label [n] (only with labels) and features [n, dim]. Paths are relative to --data; a label is the name of
    the class, empty in csv and null in parquet if there is none. Images that cannot be read are left out.

    With --patches: nothing is cropped, so that the grid of patches covers the whole image; --image-size is its short
    side, and --data may be a video, too. npz and zarr (pip install 'dinoscope[zarr]') have patches [n, rows, columns,
    dim], or an array for each image, patches/000000..., if grids differ; cls [n, dim], and path, size, grid and info.
    parquet has a row for each patch: path, label, frame, height, width, y, x, feature, cls.

    Args:
        data: Folder of images, at any depth. If each lies in a folder of its class, that is its label: CLASS/..., or
            train/CLASS/... and val/CLASS/...
        out: File to write: .npz, .csv or .parquet; with --patches .npz, .parquet or .zarr.
        overwrite: Replace the file if there is one.
        patches: Write the features of every patch, and the class tokens, of images or of the frames of a video.
        format: With --patches: what to write if the name of --out does not tell.
    """
    if patches:
        if distributed.world_size() > 1:
            raise UserError("--patches is written by one process: start it without torchrun")
        _embed_patches(model, data, out, format, of_patches, extraction, overwrite=overwrite)
        return
    if of_patches != PATCHES or format is not None:
        raise UserError("--square, --block, --normalize, --float16 and --format are for --patches")
    write_bank = lookup("file format", out.suffix.lower(), WRITERS)
    claim_file(out, overwrite=overwrite)
    if out.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("parquet needs pyarrow: pip install 'dinoscope[parquet]', or write .npz or .csv")
    folder = find_images(data, splits=True)
    context, loaded = extraction.context(), load_model(model, progress_bar)
    bank = context.features(context.fitted(loaded, data).backbone, folder, "features")
    if not distributed.is_main():
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            write_bank(partial, bank)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}") from error
    labels = f"labels of {len(bank.classes)} classes" if bank.classes else "no labels"
    stdout(f"{out}: {len(bank.features)} images x {bank.features.shape[1]} features, {labels}")


def _embed_patches(
    name: str,
    data: Path,
    out: Path,
    format: str | None,
    config: PatchConfig,
    extraction: ExtractionOptions,
    *,
    overwrite: bool,
) -> None:
    if extraction.crop_fraction is not None:
        raise UserError("--crop-fraction is not for --patches: their grid covers the whole image")
    kind = check_format(out, format, overwrite=overwrite)
    context, is_video = extraction.context(), data.suffix.lower() in VIDEO_EXTENSIONS
    if is_video:
        require_local(data)
    source = open_video(data) if is_video else find_images(data, splits=True)
    loaded = load_model(name, progress_bar)
    require_patches(loaded.backbone, "--patches")
    loaded = context.fitted(loaded, None if is_video else data)
    if isinstance(source, Video):
        source = replace(source, window=loaded.backbone.config.window)
    with progress_bar("features of patches") as progress:
        record = write_patches(out, loaded, source, context.extraction(), config, kind, progress)
    if record.left_out:
        reasons = [f"{key}: {reason}" for key, reason in record.left_out.items()]
        more = [f"and {len(reasons) - LISTED} more, all named in the file"] * (len(reasons) > LISTED)
        say("\n  ".join([f"{len(reasons)} cannot be read and are left out:", *reasons[:LISTED], *more]))
    rows, columns = record.grids[0]
    grid = f"{rows} x {columns} patches" if record.is_uniform else f"patches of {len(record.kinds)} different grids"
    stdout(f"{out}: {len(record.grids)} {'frames' if is_video else 'images'} x {grid} x {record.info['dim']} features")


COMMANDS = {
    "embed": Command(
        "write the features of images, or of their patches, to npz, csv, parquet or zarr", embed, is_shared=True
    ),
    "models": Command("list the released weights that can be named as --model: method, figures, licence, size", models),
    "backbones": Command("list the networks that can be trained: family, parameters, patch, image size", backbones),
    "import": Command(
        "turn a weights file of others (DINO, DeiT, MoCo, SwAV, DINOv2, timm...) into an exported model", import_weights
    ),
    "export": Command("write a model for use elsewhere: safetensors, timm, Hugging Face, ONNX, torch.export", export),
}
