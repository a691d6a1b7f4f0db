"""Encoded bytes -> RGB pixels, as a person would see the image.

What is decided here, once for every source and for every way to open an image (`open_image`):
- only FORMATS are read, whatever the name says: no others, of which some start programs;
- at most MAX_PIXELS pixels are decoded, and the size is read before anything is;
- EXIF orientation is applied; values that the standard does not know (0, 9, ...) or that cannot be read mean upright;
- grey becomes three equal channels, palette images get their colours, CMYK, YCbCr and LAB are converted;
- ICC profiles are not applied, as they are not in torchvision and timm;
- transparency is composited on white;
- 16-bit grey is scaled by 255 / 65535 (never by the image's own range); 32-bit and floating-point images are refused,
  since no format says which of their values is white;
- of an animation, the first frame;
- a truncated file is refused: half an image with a grey rest is not the image;
- Pillow's warnings are silenced: they are about metadata that is not used, and sizes that the limit is for.
"""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_webp

from angularkd.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What Pillow calls the formats of these names."""
MAX_PIXELS = 178_956_970
"""Largest number of pixels of an image, half a GiB as RGB: where Pillow's own limit lies for most formats."""
MAX_BYTES = 8 * MAX_PIXELS
"""Largest size of an encoded image: that of so many pixels with four channels of 16 bits, uncompressed."""
ORIENTATION_TAG = 0x0112


class _PillowWarnings:
    """Silences the warnings of Pillow's modules inside, also while several threads decode at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._outside = ExitStack()

    def __enter__(self) -> None:
        # The filters belong to the process: the first to come sets them, the last to leave restores them.
        with self._lock:
            if self._inside == 0:
                self._outside.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._outside.close()


PILLOW_SILENT = _PillowWarnings()


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image into RGB.

    Args:
        data: The bytes of the file.
        name: What an error calls the image.

    Raises:
        InputError: The image cannot be decoded or converted, or is too large.
    """
    pixels = _decode_plain_webp(data, name)
    if pixels is not None:
        return pixels
    with PILLOW_SILENT:
        return to_rgb(open_image(data, name), name)


def to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels of one of Pillow's images as those of a file are read: upright, in RGB.

    Args:
        image: The image.
        name: What an error calls it.

    Raises:
        InputError: It cannot be decoded or converted.
    """
    with PILLOW_SILENT:
        try:
            image.load()
            _check_range(image, name)
            if image.getexif().get(ORIENTATION_TAG) in range(2, 9):
                image = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(image))
        except InputError:
            raise
        except Exception as error:  # a malformed file raises anything: SyntaxError, struct.error, IndexError, ...
            raise _undecodable(name, error) from error


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone, where formats other than PNG have their EXIF.

    Raises:
        InputError: The header cannot be read, or the image is too large; it calls the image `name`.
    """
    with PILLOW_SILENT:
        image = open_image(data, name)
        try:
            sideways = image.getexif().get(ORIENTATION_TAG) in range(5, 9)
        except Exception as error:  # as in decode_image
            raise _undecodable(name, error) from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def open_image(data: bytes, name: str) -> Image.Image:
    """Open an image, of which the header is read and no pixel decoded. To be called where PILLOW_SILENT.

    Raises:
        InputError: It is in none of FORMATS, its header cannot be read, or it has more than MAX_PIXELS.
    """
    _check_webp(data, name)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(f"cannot decode {name}: {_too_many('it has')}") from error
    except Exception as error:  # as in decode_image
        raise _undecodable(name, error) from error
    _check_pixels(image.height, image.width, name)
    return image


def check_bytes(size: int, name: str) -> None:
    """Raise InputError where encoded images of so many bytes are too large."""
    if size > MAX_BYTES:
        raise InputError(
            f"cannot decode {name}: it has {size:,} bytes, more than the {MAX_BYTES:,} that an image may have; make it smaller "
            "or remove it."
        )


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(f"cannot decode {name}: {_too_many(f'{height} x {width} (height x width) is')}")


def _too_many(what: str) -> str:
    return f"{what} more than the {MAX_PIXELS:,} pixels that an image may have; make it smaller or remove it."


def _undecodable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)"
    return InputError(f"cannot decode {name}: {reason.rstrip('.')}; repair the file or remove it.")


def _check_range(image: Image.Image, name: str) -> None:
    """Raise InputError for pixels whose white nothing tells. Pillow's mode I holds 16 bits where the format is PNG or PPM."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise InputError(
            f"cannot use {name}: its pixels are {kind}, and no format says which is white; convert all such images by one rule "
            "to 8 bits a channel (0 to 255) or 16 (0 to 65535)."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _scale_16_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    scaled = (values // 257).astype(np.uint8) + (values % 257 > 128)  # (values + 128) // 257 in 16 bits
    if isinstance(image.info.get("transparency"), int):
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled).convert("RGB")


def _check_webp(data: bytes, name: str) -> None:
    """Check the size that a WebP states, since its decoders make room for all of it before they tell the size."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    kind = data[12:16]
    if kind == b"VP8X":
        _check_pixels(1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little"), name)
    elif kind == b"VP8L" and data[20:21] == b"\x2f":
        bits = int.from_bytes(data[21:25], "little")
        _check_pixels(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), name)
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[start : start + 2], "little") & 0x3FFF for start in (26, 28))
        _check_pixels(height, width, name)


def _decode_plain_webp(data: bytes, name: str) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decode a WebP without extended header (no EXIF, no animation) by torchvision: Pillow's pixels in a third of the time.

    Return None for everything else, and for what torchvision cannot decode: Pillow then decodes it, or says why not.
    """
    if data[:4] != b"RIFF" or data[8:16] not in (b"WEBPVP8 ", b"WEBPVP8L"):
        return None
    _check_webp(data, name)
    try:
        pixels = decode_webp(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.UNCHANGED)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy() if pixels.shape[0] == 3 else None
