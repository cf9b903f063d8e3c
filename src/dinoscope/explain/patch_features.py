"""Features of every patch of images and of videos, as files for other programs: .npz, .parquet and .zarr.

An image is resized, never cropped, so that its grid of patches covers it (`attention.prepare`). Features are written
block by block as they are computed: memory holds one block, whatever the number of images. A file appears whole or not
at all. docs/patch-features.md describes the layouts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import operator
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from dinoscope import __version__, checkpoint
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import Batches, workers_for
from dinoscope.data.sources import ImageSource
from dinoscope.data.video import Video
from dinoscope.errors import UserError, lookup
from dinoscope.explain.attention import prepare
from dinoscope.features import ExtractConfig, Progress, evaluation_mode, require_channels
from dinoscope.files import claim, claim_file, replacing, replacing_folder
from dinoscope.model_names import Model
from dinoscope.models.network import Backbone, require_patches, require_transformer
from dinoscope.models.vit import block_index
from dinoscope.types import Tokens

LAYOUT = "dinoscope patch features 1"
"""Raise the number when a reader of the files must change."""

MAX_BLOCK_PATCHES = 2**14
"""Patches that are computed and held at a time, unless one image has more: 25 MB of a ViT-S."""

_CHUNK_BYTES = 2**22  # of zarr, at most, unless one image has more
_COPIED_BYTES = 2**22  # at a time, into a zip


@dataclass(frozen=True)
class PatchConfig:
    """Which features of patches are written. `write_patches` checks the values against the network."""

    square: bool = False
    """With --patches: squash images to squares of --image-size, so that all have one grid. By default their short side
    gets that size, and the aspect is kept."""

    block: int = -1
    """With --patches: block of the transformer after which features are taken, from 0, or from the end with -1 the
    last. The final norm is applied to all of them."""

    normalize: bool = False
    """With --patches: scale each patch's features to length 1, and the class token's."""

    float16: bool = False
    """With --patches: store float16, half the size, instead of float32."""


@dataclass(frozen=True)
class Block:
    """Features of consecutive images of one grid.

    positions: of the images in their source; of a video, the numbers of its frames. sizes: their height and width in
    pixels. cls: the class tokens; None if the network has none.
    """

    positions: list[int]
    sizes: list[tuple[int, int]]
    patches: Float[ndarray, "b rows columns d"]
    cls: Float[ndarray, "b e"] | None


@dataclass
class Record:
    """What a file tells of its features and images, filled in as blocks are written.

    name: of the source. keys: names of its images, None of a video. labels: name of the class of each, or None.
    left_out: name of each image that could not be read -> why. info: how features came about, as plain values.
    positions, sizes, grids: of the images written, in order. kinds: the different grids.
    """

    name: str
    keys: Sequence[str] | None
    labels: Sequence[str] | None
    info: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    positions: list[int] = field(default_factory=list[int])
    sizes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    grids: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    kinds: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    @property
    def is_uniform(self) -> bool:
        """Whether all images have one grid."""
        return len(self.kinds) == 1

    def noting(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Pass blocks on, and note their images. Raises UserError after the last if there was none."""
        for block in blocks:
            self.positions += block.positions
            self.sizes += block.sizes
            grid = block.patches.shape[1], block.patches.shape[2]
            self.grids += [grid] * len(block.positions)
            self.kinds.add(grid)
            self.info["dim"] = block.patches.shape[3]
            yield block
        if not self.positions:
            reasons = "; ".join(f"{key}: {reason}" for key, reason in list(self.left_out.items())[:3])
            raise UserError(f"{self.name}: none of the {len(self.left_out)} images can be read ({reasons})")

    def path(self, position: int) -> str:
        """Return the name of an image, or of the video of a frame."""
        return _portable(self.name if self.keys is None else self.keys[position])

    def label(self, position: int) -> str | None:
        """Return the name of the class of an image; None without labels."""
        return None if self.labels is None else _portable(self.labels[position])

    def arrays(self) -> dict[str, ndarray]:
        """Return what is known of each image written: path, frame (of a video), label (with labels), size and grid."""
        arrays = {"path": np.array([self.path(position) for position in self.positions])}
        if self.keys is None:
            arrays["frame"] = np.array(self.positions, np.int64)
        if self.labels is not None:
            arrays["label"] = np.array([self.label(position) for position in self.positions])
        return arrays | {"size": np.array(self.sizes, np.int32), "grid": np.array(self.grids, np.int32)}

    def summary(self) -> dict[str, Any]:
        """Return `info` with what is known at the end."""
        left_out = {_portable(key): _portable(reason) for key, reason in self.left_out.items()}
        return {**self.info, "source": _portable(self.name), "images": len(self.positions), "left_out": left_out}


def _portable(name: str) -> str:
    # bytes that are not UTF-8, which Linux allows in names, become U+FFFD
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# Images and frames -> blocks


@dataclass(frozen=True)
class _Input:
    position: int
    size: tuple[int, int]
    pixels: UInt8[Tensor, "c s t"]


class _WholeImages(Dataset[_Input | tuple[int, str]]):
    """Item i is the image as the network is given it, or (i, why it is not)."""

    def __init__(self, images: ImageSource, backbone: Backbone, size: int, *, square: bool) -> None:
        self.config, self.patch, self.size, self.square = backbone.config, backbone.patch_size, size, square
        self.images = images.with_slices(self.config.slices)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Input | tuple[int, str]:
        try:
            image = self.images.read(index).pixels(self.config.channels, self.config.window)
            pixels = prepare(image, self.size, self.patch, square=self.square)
        except (UnreadableImage, UserError) as error:
            return index, str(error)
        return _Input(index, image.shape[:2], pixels)


def _of_images(
    images: ImageSource,
    backbone: Backbone,
    extraction: ExtractConfig,
    size: int,
    left_out: dict[str, str],
    progress: Progress,
    *,
    square: bool,
) -> Iterator[_Input]:
    require_channels(backbone, images)
    workers = workers_for(extraction.workers)
    batches = Batches[list[_Input | tuple[int, str]]](
        _WholeImages(images, backbone, size, square=square),
        min(workers, len(images) // extraction.batch_size),
        batch_size=extraction.batch_size,
        collate_fn=list,
        generator=torch.Generator(),
    )
    try:
        done = 0
        for batch in batches:
            for one in batch:
                if isinstance(one, _Input):
                    yield one
                else:
                    left_out[images.keys[one[0]]] = one[1]
            done += len(batch)
            progress(done, len(images))
    finally:
        batches.close()


def _of_video(video: Video, backbone: Backbone, size: int, progress: Progress, *, square: bool) -> Iterator[_Input]:
    for number, frame in enumerate(video):
        yield _Input(number, frame.shape[:2], prepare(frame, size, backbone.patch_size, square=square))
        progress(number + 1, max(number + 1, operator.length_hint(video)))


def _blocks(
    inputs: Iterable[_Input], backbone: Backbone, extraction: ExtractConfig, config: PatchConfig
) -> Iterator[Block]:
    """Describe consecutive inputs of one size together, and hold no more of them than make a block."""
    device = extraction.device or backbone.mean.device
    with evaluation_mode(backbone, device):
        waiting, limit = list[_Input](), 1
        for one in inputs:
            if waiting and (one.pixels.shape != waiting[0].pixels.shape or len(waiting) == limit):
                yield _described(waiting, backbone, device, extraction.dtype, config)
                waiting = []
            if not waiting:
                patches = one.pixels[0].numel() // backbone.patch_size**2
                limit = max(1, min(extraction.batch_size, MAX_BLOCK_PATCHES // patches))
            waiting.append(one)
        if waiting:
            yield _described(waiting, backbone, device, extraction.dtype, config)


def _described(
    inputs: list[_Input], backbone: Backbone, device: torch.device, dtype: torch.dtype, config: PatchConfig
) -> Block:
    exact = dtype == torch.float32
    pixels = torch.stack([one.pixels for one in inputs])
    with torch.inference_mode(), contextlib.nullcontext() if exact else torch.autocast(device.type, dtype):
        tokens = tokens_after(backbone, backbone.normalize(pixels.to(device)), config.block)
    patches = _stored(tokens.patches, config, backbone).unflatten(1, tokens.grid)
    cls = None if tokens.cls is None else _stored(tokens.cls, config, backbone).numpy()
    return Block([one.position for one in inputs], [one.size for one in inputs], patches.numpy(), cls)


def tokens_after(backbone: Backbone, images: Float[Tensor, "b c h w"], block: int) -> Tokens:
    """Return the tokens of normalised images after a block and the final norm; -1 is what the network returns.

    Raises UserError for another block of a network without attention blocks, or one that it does not have.
    """
    if block == -1:
        return backbone(images)
    transformer = require_transformer(backbone, f"--block {block}")
    last = block_index(transformer, block)
    tokens, grid = transformer.embed(images)
    for each in transformer.blocks_on(grid)[: last + 1]:
        tokens = each(tokens)
    tokens = transformer.norm(tokens)
    return Tokens(tokens[:, 0], tokens[:, transformer.prefix :], grid)


def _stored(features: Float[Tensor, "*n d"], config: PatchConfig, backbone: Backbone) -> Float[Tensor, "*n d"]:
    features = features.float().cpu()
    if not features.isfinite().all():
        name = backbone.config.name
        raise UserError(f"the features of {name} are not finite: its weights are broken (did its training diverge?)")
    if config.normalize:
        features = F.normalize(features, dim=-1)
    if not config.float16:
        return features
    if features.abs().max() > torch.finfo(torch.float16).max:
        raise UserError(f"features up to {features.abs().max():.0f} do not fit into float16: leave --float16 out")
    return features.half()


# Blocks -> files


def _shapes(record: Record, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Give the name and shape of the arrays that hold the patches: one, or one for each image."""
    if record.is_uniform:
        yield "patches", (len(record.grids), *record.grids[0], width)
    else:
        yield from ((entry_name(number), (*grid, width)) for number, grid in enumerate(record.grids))


def entry_name(number: int) -> str:
    """Return the name of the patches of an image in a file of different grids."""
    return f"patches/{number:06d}"


def write_npz(path: Path, blocks: Iterable[Block], record: Record) -> None:
    """Write the arrays of `Record.arrays`, cls, info (JSON) and patches, uncompressed; they open without pickle.

    The shape stands before the values in such a file and is known last, so values wait in files next to it: while it
    is written, it takes twice its room.
    """
    with contextlib.ExitStack() as files:
        values, classes = (files.enter_context(path.with_name(path.name + end).open("w+b")) for end in (".a", ".b"))
        width, class_width, dtype = 0, 0, np.dtype(np.float32)
        for block in blocks:
            values.write(np.ascontiguousarray(block.patches).data)
            width, dtype = block.patches.shape[-1], block.patches.dtype
            if block.cls is not None:
                classes.write(np.ascontiguousarray(block.cls).data)
                class_width = block.cls.shape[1]
        small = {**record.arrays(), "info": np.array(json.dumps(record.summary()))}
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in small.items():
                _add_array(archive, name, array.shape, array.dtype, io.BytesIO(array.tobytes()).read)
            if class_width:
                classes.seek(0)
                _add_array(archive, "cls", (len(record.grids), class_width), dtype, classes.read)
            values.seek(0)
            for name, shape in _shapes(record, width):
                _add_array(archive, name, shape, dtype, values.read)


def _add_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[int], bytes]
) -> None:
    """Write an array whose bytes are the next ones that `read` gives."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    left = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:  # ZipInfo: without the time
        np.lib.format.write_array_header_1_0(entry, header)  # pyright: ignore[reportArgumentType] (it only writes)
        while left:
            part = read(min(left, _COPIED_BYTES))
            entry.write(part)
            left -= len(part)


def write_parquet(path: Path, blocks: Iterable[Block], record: Record) -> None:
    """Write a row for each patch: path, label, frame, height, width, y, x, feature, cls; a block is a row group.

    cls, the class token, stands with the patch 0, 0 and is null elsewhere. frame is null of images, label without.
    """
    import pyarrow as pa  # pyright: ignore[reportMissingImports] (an extra)
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    with contextlib.ExitStack() as opened:
        writer: Any = None
        for block in blocks:
            table = _table(block, record)
            if writer is None:
                texts: Any = [name for name in table.column_names if name not in ("feature", "cls")]
                writer = opened.enter_context(pq.ParquetWriter(path, table.schema, use_dictionary=texts))
            writer.write_table(table, row_group_size=len(table))
            del table
        writer.add_key_value_metadata({"dinoscope": json.dumps(record.summary())})
        pa.default_memory_pool().release_unused()


def _table(block: Block, record: Record) -> Any:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    count, rows, columns, width = block.patches.shape
    of_each = rows * columns

    def repeated(values: Sequence[Any], kind: Any) -> Any:
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(count), of_each)))

    labels = [record.label(position) for position in block.positions]
    frames = [position if record.keys is None else None for position in block.positions]
    y, x = (np.tile(values.ravel(), count) for values in np.indices((rows, columns), np.int32))
    table = {
        "path": repeated([record.path(position) for position in block.positions], pa.string()),
        "label": repeated(labels, pa.string()),
        "frame": repeated(frames, pa.int64()),
        "height": repeated([height for height, _ in block.sizes], pa.int32()),
        "width": repeated([width for _, width in block.sizes], pa.int32()),
        "y": pa.array(y),
        "x": pa.array(x),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(block.patches.ravel()), width),
    }
    if block.cls is not None:
        tokens = pa.FixedSizeListArray.from_arrays(pa.array(block.cls.ravel()), block.cls.shape[1])
        places = np.repeat(np.arange(count), of_each)
        table["cls"] = tokens.take(pa.array(places, mask=np.arange(len(places)) % of_each > 0))
    return pa.table(table)


def write_zarr(path: Path, blocks: Iterable[Block], record: Record) -> None:
    """Write a zarr store (format 2), with named dimensions for xarray: the arrays of npz; `info` is its attributes.

    Patches of one grid are one array that grows. If another grid comes, it is taken apart into one for each image.
    """
    import zarr  # pyright: ignore[reportMissingImports] (an extra)

    group: Any = zarr.open_group(path, mode="w", zarr_format=2)

    def create(name: str, shape: tuple[int, ...], dtype: Any, dims: Sequence[str], chunks: tuple[int, ...]) -> Any:
        # what xarray reads; without a fill value, which it would take for missing values
        named: dict[str, Any] = {"_ARRAY_DIMENSIONS": list(dims)}
        if name in ("patches", "cls"):
            named["coordinates"] = " ".join(each for each in record.arrays() if each not in ("size", "grid"))
        options = {"chunks": chunks, "dtype": dtype, "fill_value": None, "compressors": None, "attributes": named}
        return group.create_array(name, shape=shape, **options)

    def grown(name: str, values: ndarray, dims: Sequence[str]) -> None:
        if name not in group:
            length = min(len(values), max(1, _CHUNK_BYTES // values[0].nbytes))
            create(name, (0, *values.shape[1:]), values.dtype, dims, (length, *values.shape[1:]))
        group[name].append(values)

    def single(number: int, values: ndarray) -> None:
        dims = (f"y{number}", f"x{number}", "feature")
        create(entry_name(number), values.shape, values.dtype, dims, values.shape)[:] = values

    written = 0
    for block in blocks:
        width = block.patches.shape[-1]
        if block.cls is not None:
            grown("cls", block.cls, ("image", "feature" if block.cls.shape[1] == width else "cls_feature"))
        if record.is_uniform:
            grown("patches", block.patches, ("image", "y", "x", "feature"))
        else:
            if not _is_group(group["patches"]):
                _take_apart(group, path, written, single)
            for number, values in enumerate(block.patches, start=written):
                single(number, values)
        written += len(block.positions)
    for name, values in record.arrays().items():
        create(name, values.shape, values.dtype, ("image", "side")[: values.ndim], values.shape)[:] = values
    group.attrs.update(record.summary())
    zarr.consolidate_metadata(path, zarr_format=2)


def _is_group(node: Any) -> bool:
    return not hasattr(node, "shape")


def _take_apart(group: Any, path: Path, count: int, single: Callable[[int, ndarray], None]) -> None:
    """Make arrays of single images of the array of all of them."""
    import zarr  # pyright: ignore[reportMissingImports]

    aside = path.with_name(f"{path.name}.aside")
    (path / "patches").rename(aside)
    stored: Any = zarr.open_array(aside, mode="r", zarr_format=2)
    group.require_group("patches")
    for number in range(count):
        single(number, stored[number])


@dataclass(frozen=True)
class Format:
    """How blocks become a file, or a folder.

    package: what it needs, if that is not always installed. extra: installs it. mark: the file by which a folder of
    this format is known; None if it is a single file.
    """

    write: Callable[[Path, Iterable[Block], Record], None]
    package: str | None = None
    extra: str | None = None
    mark: str | None = None


FORMATS: dict[str, Format] = {
    ".npz": Format(write_npz),
    ".parquet": Format(write_parquet, "pyarrow", "parquet"),
    ".zarr": Format(write_zarr, "zarr", "zarr", ".zgroup"),  # zarr's second version, which every reader knows
}
"""Ending of the name -> format."""


def check_format(out: Path, format: str | None, *, overwrite: bool) -> str:
    """Return the format of `out`, a key of `FORMATS`: `format` without its dot, or by default the name's ending.

    Raises UserError, before the work, for another ending, if the package for it is missing, or if `out` is there and
    must not be replaced or cannot be written.
    """
    kind = out.suffix.lower() if format is None else f".{format}"
    own = lookup("file format", kind, FORMATS)
    if own.package and importlib.util.find_spec(own.package) is None:
        raise UserError(f"{kind[1:]} needs {own.package}: pip install 'dinoscope[{own.extra}]', or write .npz")
    if own.mark is None:
        claim_file(out, overwrite=overwrite)
        return kind
    claim(out, [own.mark], overwrite=overwrite)
    if out.is_dir() and not (out / own.mark).exists() and any(out.iterdir()):
        raise UserError(f"{out} is a folder and no {kind[1:]} store; choose another --out")
    return kind


def write_patches(
    out: Path,
    model: Model,
    data: ImageSource | Video,
    extraction: ExtractConfig,
    config: PatchConfig,
    format: str,
    progress: Progress = lambda done, total: None,
) -> Record:
    """Write the features of every patch of images, or of the frames of a video, and return what was written.

    out: the file, or for zarr the folder; one that is there is replaced. format: a key of `FORMATS`.
    extraction: `image_size` is the short side of an image as the network is given it, `batch_size` the images at a
        time, as long as they have no more than `MAX_BLOCK_PATCHES`. `crop_fraction` and `feature` are not used.

    Images that cannot be read are left out (`Record.left_out`). Raises UserError if none can be read, for a network
    without patches, a setting out of range, or if the file cannot be written.
    """
    backbone = model.backbone
    require_patches(backbone, "--patches")
    size = backbone.config.image_size if extraction.image_size is None else extraction.image_size
    if size < backbone.patch_size:
        raise UserError(f"--image-size must be at least one patch of {backbone.patch_size} px, not {size}")
    if extraction.batch_size < 1:
        raise UserError(f"the batch size is {extraction.batch_size}; it must be at least 1")
    if config.block != -1:
        block_index(require_transformer(backbone, f"--block {config.block}"), config.block)
    info = _info(model, size, extraction, config)
    if isinstance(data, Video):
        info["video"] = {"fps": data.fps, "height": data.size[0], "width": data.size[1]}
        record = Record(data.path.name, None, None, info)
        inputs = _of_video(data, backbone, size, progress, square=config.square)
    else:
        labels = None if data.labels is None else [data.classes[label] for label in data.labels]
        record = Record(data.name, data.keys, labels, info)
        inputs = _of_images(data, backbone, extraction, size, record.left_out, progress, square=config.square)
    own = FORMATS[format]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (replacing if own.mark is None else replacing_folder)(out) as partial:
            own.write(partial, record.noting(_blocks(inputs, backbone, extraction, config)), record)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error.strerror or error}") from error
    return record


def _info(model: Model, size: int, extraction: ExtractConfig, config: PatchConfig) -> dict[str, Any]:
    backbone = model.backbone
    return {
        "layout": LAYOUT,
        "dinoscope": __version__,
        "video": None,
        "model": model.label,
        "network": backbone.config.name,
        "weights": checkpoint.weights_hash(backbone),
        "patch_size": backbone.patch_size,
        "block": config.block,
        "preprocessing": {
            "short_side": size,
            "aspect": "square" if config.square else "kept",
            "resize": "whole image, bicubic, antialiased, sides rounded to whole patches",
            "mean": list(backbone.config.mean),
            "std": list(backbone.config.std),
            "window": None if backbone.config.window is None else list(backbone.config.window),
            "slices": backbone.config.slices,
        },
        "precision": str(extraction.dtype).removeprefix("torch."),
        "normalized": config.normalize,
    }


# Files -> arrays


@dataclass(frozen=True)
class StoredPatches(Sequence[Float[ndarray, "rows columns d"]]):
    """What an .npz or .zarr of patches holds. `stored[i]` reads the patches of image i, and nothing before.

    arrays: path, frame (of a video), label (if there are labels), size [n, 2] and grid [n, 2], each as height and
        width, and cls [n, d] (if the network has a class token).
    info: how they came about. patches: [n, rows, columns, d] on disk, of one grid; None of different ones.
    """

    arrays: dict[str, ndarray]
    info: dict[str, Any]
    patches: Any
    read: Callable[[int], Float[ndarray, "rows columns d"]]

    def __len__(self) -> int:
        return len(self.arrays["path"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return np.asarray(self.read(number) if self.patches is None else self.patches[number])


def load_patches(path: Path | str) -> StoredPatches:
    """Open a file that `dinoscope embed --patches` wrote, .npz or .zarr.

    Raises UserError if it is no such file; parquet is for programs that read tables.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.suffix.lower() == ".parquet":
        raise UserError(f"{path}: read parquet as a table, as with pandas.read_parquet; .npz and .zarr are read here")
    try:
        return _from_zarr(path) if path.is_dir() else _from_npz(path)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} does not hold patches as `dinoscope embed --patches` writes them: {error}") from error


def _from_npz(path: Path) -> StoredPatches:
    with np.load(path, allow_pickle=False) as file:
        small = {name: file[name] for name in file.files if not name.startswith("patches")}
        is_uniform = "patches" in file.files
    info = json.loads(str(small.pop("info")))
    whole = _mapped(path, "patches") if is_uniform else None
    return StoredPatches(small, info, whole, lambda number: _mapped(path, entry_name(number)))


def _mapped(path: Path, name: str) -> ndarray:
    """Map an array of an uncompressed .npz into memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as entry:
        if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        np.lib.format.read_magic(entry)
        shape, _, dtype = np.lib.format.read_array_header_1_0(entry)
        before = entry.tell()
    with path.open("rb") as file:
        file.seek(archive.getinfo(f"{name}.npy").header_offset + 26)  # lengths of the name and of the extra field
        lengths = file.read(4)
        start = file.tell() + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    return np.memmap(path, dtype, "r", start + before, shape)


def _from_zarr(path: Path) -> StoredPatches:
    if importlib.util.find_spec("zarr") is None:
        raise UserError("zarr needs zarr: pip install 'dinoscope[zarr]'")
    import zarr  # pyright: ignore[reportMissingImports]

    group: Any = zarr.open_group(path, mode="r", zarr_format=2)
    small = {name: array[:] for name, array in group.arrays() if name != "patches"}
    whole = None if _is_group(group["patches"]) else group["patches"]
    return StoredPatches(small, dict(group.attrs), whole, lambda number: group[entry_name(number)][:])
