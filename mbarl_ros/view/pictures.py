"""Pictures of cameras as JPEG."""

from __future__ import annotations

import io
from array import array

from PIL import Image

LONGEST_SIDE = 640
"""Pixels of a JPEG; larger pictures are made smaller."""
_QUALITY = 80
_MODES = {  # encoding -> mode of the picture, order of its bytes, bytes of a pixel
    'rgb8': ('RGB', 'RGB', 3),
    'bgr8': ('RGB', 'BGR', 3),
    'rgba8': ('RGB', 'RGBX', 4),
    'bgra8': ('RGB', 'BGRX', 4),
    'mono8': ('L', 'L', 1),
    '8UC1': ('L', 'L', 1),
    '8UC3': ('RGB', 'BGR', 3),
}


class PictureError(ValueError):
    """A picture that cannot be shown; the message says why."""


def jpeg(data: bytes | array[int], size: tuple[int, int], step: int, encoding: str) -> bytes:
    """The picture of a ``sensor_msgs/Image`` as JPEG.

    :param data: rows of ``step`` bytes, the first at the top
    :param size: width and height in pixels
    :raises PictureError: an encoding that is not known, or too few bytes.
    """
    if encoding not in _MODES:
        raise PictureError(
            f"encoding '{encoding[:40]}' cannot be shown; known: {', '.join(_MODES)}"
        )
    mode, order, width = _MODES[encoding]
    view = memoryview(data).cast('B')
    if min(size) < 1 or step < width * size[0] or len(view) < step * size[1]:
        raise PictureError(
            f'{len(view)} bytes, {step} a row, are too few for {size[0]} x {size[1]}'
        )
    picture = Image.frombytes(mode, size, view, 'raw', order, step)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    picture.save(out, 'JPEG', quality=_QUALITY)
    return out.getvalue()
