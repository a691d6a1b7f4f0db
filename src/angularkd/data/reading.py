"""The bytes of an image file: of a regular file alone, since a pipe never ends to be read, nor does /dev/zero."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from angularkd.data.decode import check_bytes
from angularkd.errors import InputError


def read_image_file(path: str | Path, name: str) -> bytes:
    """Read a file whole.

    Args:
        path: The file.
        name: What an error calls it.

    Raises:
        InputError: It cannot be read, is no regular file, or is too large for any image that is decoded.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"cannot read {name}: it is no file, but a folder, a pipe or a device; remove it.")
        check_bytes(status.st_size, name)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}.") from error
