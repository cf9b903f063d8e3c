"""AVIF, read by Pillow if it was built with libavif, and HEIC, read by pillow-heif if that is installed.

Both are containers of the HEIF kind (ISO/IEC 23008-12). More than 8 bits a channel become 8; of a sequence the first
picture is read.
"""

from __future__ import annotations

import re
from io import BytesIO

from PIL import features

from dinoscope.data import pillow, reader
from dinoscope.data.reader import Header, RawImage, Reader, Stream, UnreadableImage, not_supported


def _read_avif_header(stream: Stream, max_pixels: int) -> Header:
    image, orientation = _opened_avif(BytesIO(stream.read()), max_pixels)
    return Header(
        "AVIF",
        *reader.oriented_size(image.height, image.width, orientation),
        orientation,
        alpha=image.has_transparency_data,
        animated=getattr(image, "n_frames", 1) > 1,
    )


def _read_avif(content: BytesIO, max_pixels: int) -> RawImage:
    image, orientation = _opened_avif(content, max_pixels)
    with reader.turn(image.height * image.width):
        return RawImage(reader.orient(pillow.rgb(image, transparent=image.has_transparency_data), orientation))


def _opened_avif(content: BytesIO, max_pixels: int) -> tuple:
    """Return the image, not decoded, and its orientation, which Pillow takes from the container too."""
    if not features.check("avif"):
        raise not_supported("AVIF by this Pillow, save it as PNG or JPEG")
    image = pillow.open_image(content, "AVIF")
    orientation = reader.valid_orientation(image.info.get("exif"))
    _check_size(*reader.oriented_size(image.height, image.width, orientation), max_pixels)
    return image, orientation


def _read_heic_header(stream: Stream, max_pixels: int) -> Header:
    image = _opened_heic(BytesIO(stream.read()), max_pixels)
    return Header("HEIC", image.size[1], image.size[0], alpha=image.has_alpha)


def _read_heic(content: BytesIO, max_pixels: int) -> RawImage:
    image = _opened_heic(content, max_pixels)
    with reader.turn(image.size[0] * image.size[1]):
        return RawImage(pillow.rgb(image.to_pillow(), transparent=image.has_alpha))


def _opened_heic(content: BytesIO, max_pixels: int):
    """Return the image, not decoded. libheif turns it upright."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports] (not in `dev`)
    except ImportError as error:
        raise reader.needs("pillow-heif", "heic") from error
    image = pillow_heif.open_heif(content)
    _check_size(image.size[1], image.size[0], max_pixels)
    return image


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise reader.too_large(height, width, max_pixels)


def _recognises(brands: bytes):
    return re.compile(rb".{4}ftyp" + brands, re.DOTALL).match


READERS = {
    "AVIF": Reader((".avif",), _recognises(b"avi[fs]"), _read_avif_header, _read_avif),
    "HEIC": Reader(
        (".heic", ".heif", ".hif"), _recognises(b"(hei[cxms]|hevc|mif1|msf1)"), _read_heic_header, _read_heic
    ),
}
