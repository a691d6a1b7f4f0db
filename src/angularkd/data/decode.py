"""Encoded bytes -> RGB pixels, as a person would see the image.

What is decided here, once for every source:
- EXIF orientation is applied; values that the standard does not know (0, 9, ...) mean upright;
- grey becomes three equal channels, palette images get their colours, CMYK, YCbCr and LAB are converted;
- ICC profiles are not applied, as they are not in torchvision and timm;
- transparency is composited on white;
- 16-bit grey is scaled by 255 / 65535 (never by the image's own range); 32-bit and floating-point images are refused;
- of an animation, the first frame;
- a truncated file is refused: half an image with a grey rest is not the image.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_webp

from angularkd.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION_TAG = 0x0112


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image into RGB.

    Args:
        data: The bytes of the file.
        name: What an error calls the image.

    Raises:
        InputError: The image cannot be decoded or converted.
    """
    pixels = _decode_plain_webp(data)
    if pixels is not None:
        return pixels
    image: Image.Image = _open(data, name)
    try:
        image.load()
        if image.getexif().get(ORIENTATION_TAG) in range(2, 9):
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # a malformed file raises anything: OSError, SyntaxError, struct.error, IndexError, ...
        raise _undecodable(name, error) from error
    return np.array(_to_rgb(image, name))


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone, where formats other than PNG have their EXIF.

    Raises:
        InputError: The header cannot be read; it calls the image `name`.
    """
    image = _open(data, name)
    try:
        sideways = image.getexif().get(ORIENTATION_TAG) in range(5, 9)
    except Exception as error:  # as in decode_image
        raise _undecodable(name, error) from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # as in decode_image
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in a known format"
    return InputError(f"cannot decode {name}: {reason.rstrip('.')}; repair the file or remove it.")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return _scale_16_bit(image, name)
    if image.mode == "F":
        raise InputError(f"cannot use {name}: its pixels are floating-point numbers; convert it to 8 bits a channel.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"cannot use {name}: its pixels are 32-bit integers; convert it to 8 bits a channel.")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _decode_plain_webp(data: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decode a WebP without extended header (no EXIF, no animation) by torchvision: Pillow's pixels in a third of the time.

    Return None for everything else, and for what torchvision cannot decode: Pillow then decodes it, or says why not.
    """
    if data[:4] != b"RIFF" or data[8:16] not in (b"WEBPVP8 ", b"WEBPVP8L"):
        return None
    try:
        pixels = decode_webp(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.UNCHANGED)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).contiguous().numpy() if pixels.shape[0] == 3 else None
