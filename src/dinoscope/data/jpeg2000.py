"""JPEG 2000 (ITU-T T.800), read by Pillow if it was built with OpenJPEG: grey of up to 16 bits, colour of 8."""

from __future__ import annotations

import re
from io import BytesIO

import numpy as np
from PIL import features
from PIL.ImageFile import ImageFile

from dinoscope.data import jpeg, pillow, reader
from dinoscope.data.reader import Header, RawImage, Reader, Stream, UnreadableImage, not_supported

_PRECISION = 42  # place in a codestream of the bits of the first channel, less 1; the highest bit is set if signed


def read_header(stream: Stream, max_pixels: int) -> Header:
    """Return what the codestream tells."""
    image, bits = _opened(BytesIO(stream.read()), max_pixels)
    return Header(
        "JPEG 2000",
        image.height,
        image.width,
        grey=len(image.getbands()) < 3,
        alpha=image.has_transparency_data,
        sample="u1" if bits <= 8 else "u2",
    )


def read(content: BytesIO, max_pixels: int) -> RawImage:
    """Decode the pixels."""
    image, bits = _opened(content, max_pixels)
    with reader.turn(image.height * image.width):
        if bits <= 8:
            return RawImage(pillow.rgb(image, transparent=image.has_transparency_data))
        values = np.asarray(pillow.load(image)).astype(np.uint16)
        return RawImage((values >> 16 - bits)[..., None])  # Pillow fills 16 bits (Jpeg2KDecode.c, j2ku_gray_i)


READER = Reader(
    (".jp2", ".j2k", ".jpx", ".j2c"),
    re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", re.DOTALL).match,
    read_header,
    read,
)


def _opened(content: BytesIO, max_pixels: int) -> tuple[ImageFile, int]:
    """Return the image, not decoded, and its bits a channel."""
    if not features.check("jpg_2000"):
        raise not_supported("JPEG 2000 by this Pillow, save it as PNG")
    start = jpeg.codestream(frame := content.getvalue())
    shape = jpeg.coded_shape(frame)
    if shape is None:
        raise UnreadableImage("damaged: a JPEG 2000 without a codestream")
    height, width, channels = shape
    if min(shape) < 1:
        raise UnreadableImage("damaged: the header says zero pixels")
    if height * width > max_pixels:
        raise reader.too_large(height, width, max_pixels)
    precision = frame[start + _PRECISION]
    bits, is_signed = (precision & 0x7F) + 1, precision > 0x7F
    if channels > 4 or bits > (16 if channels == 1 else 8) or is_signed:
        signed = "signed " if is_signed else ""
        raise not_supported(f"a JPEG 2000 of {channels} channels of {signed}{bits} bits, save it as PNG")
    image = pillow.open_image(content, "JPEG2000")
    if (image.height, image.width) != (height, width):
        raise UnreadableImage("damaged: a JPEG 2000 of two sizes")
    return image, bits
