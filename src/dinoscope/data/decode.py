"""One image file to RGB, whatever its format: read right, or refused with a reason for a person.

The content decides, never the name. JPEG goes through torchvision, the faster of the two; everything else up to 8
bits, and the JPEGs that torchvision cannot read (CMYK), through Pillow; 16-bit colour and TIFFs of more than 8 bits,
which Pillow cuts or confuses, through OpenCV.

- `read` gives the values as they stand in the file, and `RawImage.rgb` maps those of more than 8 bits to uint8 by a
  grey range, in one place (`grey_range`). `decode` does both.
- The EXIF orientation is applied, so sizes are those a person sees (of a PNG: the block before the pixels).
- Transparency is composited on white, as a browser or a printed page shows it. A further channel that the file does
  not call transparency is left out.
- Animations give their first frame. TIFFs of several pages are refused: an image can be only one of them.
- Colour profiles are ignored; CMYK is converted by the plain formula.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image
from PIL.ImageFile import ImageFile

from dinoscope.data.grey_range import ValueRange, Window, range_of, to_uint8
from dinoscope.data.image_header import (
    MAX_PIXELS,
    ORIENTATIONS,
    UnreadableImage,
    damage_reported,
    is_deep_grey,
    jpeg_header,
    open_pillow,
    open_tiff,
    opened,
    pillow_header,
    sample_kind,
    sniff,
    tiff_header,
    without_pillow_limit,
)
from dinoscope.data.tiff import Tiff

__all__ = ["MAX_PIXELS", "RawImage", "UnreadableImage", "decode", "read"]

_JPEG_RGB = 3  # torchvision.io.ImageReadMode.RGB

_PILLOW_UNLIMITED = 1 << 26  # pixels, safely below the 89 million at which Pillow begins to warn
_OPAQUE = 65535
_PNG_CRITICAL = (b"IHDR", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True)
class RawImage:
    """Values as they stand in a file, upright.

    values: uint8 [h, w, 3], which is RGB and finished; or of another type, [h, w, 1] grey or [h, w, 3] RGB.
    alpha: uint16 [h, w, 1], 0 where nothing is seen, or None. Of uint8 it is composited already.
    white_is_zero: the largest values are black.
    """

    values: Shaped[ndarray, "h w c"]
    alpha: Shaped[ndarray, "h w 1"] | None = None
    white_is_zero: bool = False

    @property
    def range(self) -> ValueRange | None:
        """Smallest and largest value; None for uint8, which has no grey range, and where no value is finite."""
        return None if self.values.dtype == np.uint8 else range_of(self.values)

    def rgb(self, window: Window | None = None) -> UInt8[ndarray, "h w 3"]:
        """RGB, C-contiguous and writable. window: the grey range; None takes that of this image alone."""
        if self.values.dtype == np.uint8:
            return self.values
        pixels = to_uint8(self.values, window)
        if self.white_is_zero:
            pixels = 255 - pixels
        if self.alpha is not None:
            opacity = self.alpha.astype(np.float32) / _OPAQUE
            pixels = np.rint(pixels * opacity + 255 * (1 - opacity)).astype(np.uint8)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def decode(path: Path, *, window: Window | None = None, max_pixels: int = MAX_PIXELS) -> UInt8[ndarray, "h w 3"]:
    """Return the image as uint8 [height, width, 3] RGB, C-contiguous and writable. Raises as `read` does.

    window: grey range of values of more than 8 bits, the model's where there is one; None takes the image's own.
    """
    return read(path, max_pixels=max_pixels).rgb(window)


def read(path: Path, *, max_pixels: int = MAX_PIXELS) -> RawImage:
    """Return the values of the image as they stand in the file.

    Raises UnreadableImage for anything wrong with the file: missing, not an image, of a kind that is not read,
    damaged, truncated, or more than `max_pixels` by its header (nothing is decoded then). Safe to call from many
    threads.
    """
    with opened(path) as file, damage_reported():
        stream = BytesIO(file.read())
        kind = sniff(stream)
        if kind == "JPEG":
            return RawImage(_decode_jpeg(stream, max_pixels))
        if kind == "TIFF":
            return _read_tiff(stream, max_pixels)
        return _read_pillow(stream, kind, max_pixels)


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [height, width, channels] upright; C-contiguous."""
    swap, flip_rows, flip_columns = ORIENTATIONS[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# JPEG


def _decode_jpeg(stream: BytesIO, max_pixels: int) -> np.ndarray:
    header = jpeg_header(stream, max_pixels)
    pixels = None if header.cmyk else _torchvision_jpeg(stream.getvalue())
    if pixels is None:
        pixels = _rgb(open_pillow(stream, "JPEG"), transparent=False)
    return _orient(pixels, header.orientation)


def _torchvision_jpeg(data: bytes) -> np.ndarray | None:
    """Return the stored pixels [height, width, 3], or None where Pillow is to have the last word.

    The operator is called without its wrapper, deprecated since torchvision 0.29, which warns at every call.
    A torchvision that has dropped it, was built without libjpeg, or refuses the file leaves it to Pillow.
    """
    try:
        planes = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _JPEG_RGB)
    except (AttributeError, RuntimeError):
        return None
    return planes.permute(1, 2, 0).numpy()


# TIFF


def _read_tiff(stream: BytesIO, max_pixels: int) -> RawImage:
    header, tiff = tiff_header(stream, max_pixels)
    if tiff.opencv:
        values = _opencv(_without_orientation(stream, tiff))
        if tiff.sample == "u4":  # OpenCV 4 gives it as signed
            values = values.view(np.uint32)
        if values.dtype != np.dtype(tiff.sample):
            raise ValueError(f"{tiff.sample} was read as {values.dtype}")
        return _upright(values, header.orientation, transparent=tiff.transparent, white_is_zero=tiff.white_is_zero)
    # Pillow turns a TIFF upright while loading it, and no other format.
    image = open_tiff(stream, tiff)
    if tiff.sample == "u1":
        return RawImage(_rgb(image, transparent=tiff.transparent))
    _load(image)
    values = np.asarray(image)[..., None]
    values = values.view(np.int8) if tiff.sample == "i1" else values.astype(np.uint16)
    return RawImage(values, white_is_zero=tiff.white_is_zero)


def _without_orientation(stream: BytesIO, tiff: Tiff) -> bytes | bytearray:
    """The file, upright by its own word: OpenCV applies the orientation in some versions."""
    if tiff.orientation_at is None:
        return stream.getvalue()
    content = bytearray(stream.getvalue())
    content[tiff.orientation_at : tiff.orientation_at + 2] = b"\1\0" if content[:2] == b"II" else b"\0\1"
    return content


def _opencv(content: bytes | bytearray) -> Shaped[ndarray, "h w c"]:
    """The values as stored, RGB or RGBA where there are three or four. Raises ValueError where they cannot be read."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if values is None:
        raise ValueError("its pixels cannot be read")
    values = values if values.ndim == 3 else values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values


def _upright(values: Shaped[ndarray, "h w c"], orientation: int, **traits: bool) -> RawImage:
    """Part transparency, if there is any, from the colours, and leave out any other fourth channel."""
    transparent = traits.pop("transparent")
    values = _orient(values, orientation)
    alpha = values[..., 3:] if transparent else None
    return RawImage(values[..., :3] if values.shape[2] > 3 else values, alpha, **traits)


# Everything else


def _read_pillow(stream: BytesIO, kind: str, max_pixels: int) -> RawImage:
    image = open_pillow(stream, kind)
    header = pillow_header(image, kind, max_pixels)
    if sample_kind(image) == "u1":
        transparent = _load(image).has_transparency_data
        if transparent and kind == "BMP":  # some programs write a fourth channel and leave it at 0
            transparent = image.getchannel("A").getextrema() != (0, 0)
        return RawImage(_orient(_rgb(image, transparent=transparent), header.orientation))
    if kind == "PPM":
        return RawImage(_deep_ppm(image, stream.getvalue()))
    if is_deep_grey(image):
        _load(image)
        values = np.asarray(image).astype(np.uint16)[..., None]
        if (invisible := image.info.get("transparency")) is None:
            return RawImage(_orient(values, header.orientation))
        alpha = np.where(values == invisible, np.uint16(0), np.uint16(_OPAQUE))
        return RawImage(_orient(values, header.orientation), _orient(alpha, header.orientation))
    values = _opencv(_pixels_of_png(stream.getvalue()))
    return _upright(values, header.orientation, transparent=image.has_transparency_data)


def _pixels_of_png(content: bytes) -> bytes:
    """The same file without what are no pixels: libpng prints its remarks about the rest.

    Raises ValueError where a chunk is damaged or missing.
    """
    parts, at, kind = [content[:8]], 8, b""
    while kind != b"IEND":
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if end > len(content) or len(kind) < 4:
            raise ValueError("the file ends within its pixels")
        if kind in _PNG_CRITICAL:
            if zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
                raise ValueError(f"the checksum of {kind.decode()} is wrong")
            parts.append(content[at:end])
        at = end
    return b"".join(parts)


def _deep_ppm(image: ImageFile, content: bytes) -> Shaped[ndarray, "h w c"]:
    """The values of more than 8 bits as they stand: Pillow stretches them to the largest that the header allows."""
    shape = (image.height, image.width, 3 if image.mode == "RGB" else 1)
    coding, _, offset, _ = image.tile[0]
    if coding == "ppm_plain":
        values = np.fromstring(content[offset:], np.int64, sep=" ")
    else:
        values = np.frombuffer(content, ">u2", offset=offset)
    count = np.prod(shape)
    if len(values) < count:
        raise ValueError("the file ends within its pixels")
    return values[:count].reshape(shape).astype(np.uint16)


def _load(image: ImageFile) -> ImageFile:
    if image.height * image.width > _PILLOW_UNLIMITED:
        with without_pillow_limit():
            image.load()
    else:
        image.load()
    return image


def _rgb(image: ImageFile, *, transparent: bool) -> np.ndarray:
    """Load and return the pixels as uint8 [height, width, 3], writable. transparent: it has transparency."""
    _load(image)
    if transparent:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return np.array(page.convert("RGB"))
    return np.array(image.convert("RGB"))
