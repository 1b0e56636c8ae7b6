"""Named arrays <-> bytes: the format on the wire and on disk (safetensors, never pickle)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

SCHEMA = 1
MAX_BYTES = 64 * 1024 * 1024
MIN_SCALE = 1e-6  # networks divide by `scale`; the inverse of a smaller one may be infinite


class WireError(ValueError):
    """Bytes that are not a well-formed message."""


def pack(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], kind: str) -> bytes:
    """Serialise arrays and metadata (JSON types); ``kind`` is the type, such as ``policy``."""
    header = {'schema': SCHEMA, 'kind': kind, **meta}
    # not np.ascontiguousarray, which makes a 0-d array 1-d
    contiguous = {name: np.asarray(array, order='C') for name, array in arrays.items()}
    return _save(contiguous, {'mbarl': json.dumps(header)})


def unpack(
    data: bytes, kind: str, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parse a message of :func:`pack` into arrays and metadata.

    :raises WireError: too large, not safetensors, another schema, or another kind.
    """
    if len(data) > max_bytes:
        raise WireError(f'{kind}: {len(data)} bytes exceed the limit of {max_bytes}')
    if len(data) < 8:
        raise WireError(f'{kind}: {len(data)} bytes are not a safetensors message')
    length = int.from_bytes(data[:8], 'little')
    if length > len(data) - 8:
        raise WireError(f'{kind}: header of {length} bytes in a message of {len(data)}')
    try:
        header = json.loads(data[8 : 8 + length])
        meta = json.loads(header['__metadata__']['mbarl'])
        arrays = _load(bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f'{kind}: not a safetensors message of mbarl_ros: {error!r}') from error
    if not isinstance(meta, dict) or meta.get('schema') != SCHEMA:
        raise WireError(f'{kind}: schema is not {SCHEMA}; both sides need the same mbarl_ros')
    if meta.get('kind') != kind:
        raise WireError(f"expected a message of kind '{kind}', got '{meta.get('kind')}'")
    return arrays, meta


def require(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | None, ...]], kind: str
) -> None:
    """Check names and shapes of arrays, and that floating-point ones are finite.

    ``None`` as the first size of a shape means any number of rows, the same in all arrays.

    :raises WireError: a missing, surplus, misshapen or non-finite array.
    """
    missing = sorted(set(shapes) - set(arrays))
    surplus = sorted(set(arrays) - set(shapes))
    if missing or surplus:
        raise WireError(f'{kind}: missing arrays {missing}, unexpected arrays {surplus}')
    rows = None
    for name, shape in shapes.items():
        array = arrays[name]
        if shape and shape[0] is None:
            rows = array.shape[:1] if rows is None else rows
            expected = (*rows, *shape[1:])
        else:
            expected = shape
        if array.shape != expected:
            raise WireError(f"{kind}: array '{name}' has shape {array.shape}, not {expected}")
        if array.dtype.kind in 'fc' and not np.isfinite(array).all():
            raise WireError(f"{kind}: array '{name}' has values that are not finite")


def check_floats(arrays: Mapping[str, np.ndarray], kind: str) -> None:
    """Check that network arrays are float32, and that ``scale`` is at least ``MIN_SCALE``.

    :raises WireError: naming the array at fault.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise WireError(f"{kind}: array '{name}' is {array.dtype}, not float32")
    if (arrays['scale'] < MIN_SCALE).any():
        raise WireError(f"{kind}: array 'scale' must be {MIN_SCALE:g} or more")


def whole_number(value: Any) -> TypeGuard[int]:
    """Whether a value of a message is a valid count: an integer from 0 to 2**52 - 1."""
    return type(value) is int and 0 <= value < 2**52
