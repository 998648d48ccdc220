"""What a check sees of an answer: observations in one plain form, compared and printed.

Types are treated generously: a list, a numpy array and a tensor with the same numbers are the same observation. A check
that is about a type returns the type's name from its case.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch

_NUMERIC = "biufc"
_LONGEST_ITERATOR = 10_000


@dataclasses.dataclass(frozen=True)
class Raised:
    """The observation "it raised": the exception's class, its text and the line of the answer where it happened."""

    kind: type[BaseException]
    text: str = ""
    line: str = ""


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Something without a comparable value, known by its type only."""

    type_name: str


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first place where two observations differ: its path ("" for the whole), both parts, and why."""

    path: str
    expected: Any
    got: Any
    reason: str = ""


def plain(value: Any) -> Any:
    """Bring any value into a form that can be compared: arrays, strings, None, lists, dicts, `Raised`, `Opaque`.

    Numbers, tensors and rectangular lists of numbers all become numpy arrays (copies); dataclasses become dicts.

    >>> plain([torch.zeros(2), torch.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    if value is None or isinstance(value, (str, bytes, Raised, Opaque)):
        return value
    if isinstance(value, torch.Tensor):
        return _from_tensor(value)
    if isinstance(value, (bool, int, float, complex, np.generic, np.ndarray)):
        return _from_array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Set):
        value = sorted(value, key=repr)
    elif isinstance(value, Iterator):
        value = list(itertools.islice(value, _LONGEST_ITERATOR))
    if isinstance(value, (list, tuple, range)):
        return _from_sequence([plain(item) for item in value])
    if hasattr(value, "__array__") and not isinstance(value, type):
        return _from_array(np.asarray(value))
    return Opaque(type(value).__name__)


def _from_tensor(value: torch.Tensor) -> np.ndarray:
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    return value.cpu().resolve_conj().resolve_neg().numpy().copy()


def _from_array(value: Any) -> Any:
    array = np.array(value)
    if array.dtype.kind in _NUMERIC:
        return array
    if isinstance(value, int):  # beyond 64 bits
        return np.array(float(value))
    listed = array.tolist()
    return plain(listed) if isinstance(listed, (list, str)) else Opaque(type(listed).__name__)


def _from_sequence(items: list[Any]) -> Any:
    if not items:
        return np.zeros(0)
    arrays = all(isinstance(item, np.ndarray) for item in items)
    return np.stack(items) if arrays and len({item.shape for item in items}) == 1 else items


def difference(expected: Any, got: Any, tolerance: float, path: str = "") -> Difference | None:
    """The first difference between two plain values, or None.

    Whole numbers are compared exactly, others within `tolerance`, absolute plus relative; NaN equals NaN. An exception
    equals one of the same class or a subclass of it, whatever its text.
    """
    if isinstance(expected, Raised) and isinstance(got, Raised):
        return None if issubclass(got.kind, expected.kind) else Difference(path, expected, got)
    if isinstance(expected, np.ndarray) and isinstance(got, np.ndarray):
        return _array_difference(expected, got, tolerance, path)
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        pairs = [(f"{path}.{key}" if path else str(key), expected[key], got[key]) for key in expected]
    elif isinstance(expected, list) and _length(got) == len(expected):
        pairs = [(f"{path}[{i}]", a, plain(b)) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    elif isinstance(got, list) and _length(expected) == len(got):
        pairs = [(f"{path}[{i}]", plain(a), b) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    else:
        same = type(expected) is type(got) and not isinstance(expected, (dict, list)) and expected == got
        return None if same else Difference(path, expected, got)
    return next((found for p, a, b in pairs if (found := difference(a, b, tolerance, p))), None)


def _length(value: Any) -> int | None:
    if isinstance(value, list):
        return len(value)
    return len(value) if isinstance(value, np.ndarray) and value.ndim else None


def _array_difference(expected: np.ndarray, got: np.ndarray, tolerance: float, path: str) -> Difference | None:
    if expected.shape != got.shape:
        return Difference(path, expected, got, "The shapes differ.")
    if expected.dtype.kind in "biu" and got.dtype.kind in "biu":
        close = expected == got
    else:
        close = np.isclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    if close.all():
        return None
    reason = ""
    if not _small(expected):
        where = tuple(int(i) for i in np.argwhere(~close)[0])
        place = ", ".join(map(str, where))
        reason = f"First difference at [{place}]: expected {_number(expected[where])}, got {_number(got[where])}."
    elif compact(expected) == compact(got):
        gap = np.nanmax(np.abs(expected.astype(complex) - got.astype(complex)))
        reason = f"They differ by at most {gap:.1e}."
    return Difference(path, expected, got, reason)


def _small(array: np.ndarray) -> bool:
    return array.ndim <= 2 and array.size <= 36 and all(side <= 12 for side in array.shape)


def _number(value: Any) -> str:
    if np.asarray(value).dtype.kind != "f":
        return str(value)
    value = float(value)
    if not np.isfinite(value) or (value != 0 and not 1e-3 <= abs(value) < 1e6):
        return f"{value:.4g}"
    text = f"{value:.3f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def compact(value: Any) -> str:
    """A plain value in one short line: small arrays in full and rounded to 3 decimals, larger ones by their shape.

    >>> compact(plain(torch.tensor([0.25, 1 / 3])))
    '[0.25, 0.333]'
    >>> compact(plain(torch.zeros(8, 3, 16, 16)))
    'shape (8, 3, 16, 16), values from 0.0 to 0.0'
    """
    if isinstance(value, np.ndarray):
        return _compact_array(value)
    if isinstance(value, Raised):
        return f"{value.kind.__name__}: {value.text}" if value.text else f"raises {value.kind.__name__}"
    if isinstance(value, Opaque):
        return f"a value of type {value.type_name}"
    if isinstance(value, dict):
        return _shorten("{" + ", ".join(f"{key}: {compact(item)}" for key, item in value.items()) + "}")
    if isinstance(value, list):
        return _shorten("[" + ", ".join(compact(item) for item in value) + "]")
    return _shorten(repr(value))


def _compact_array(array: np.ndarray) -> str:
    if array.ndim == 0:
        return _number(array[()])
    if array.size == 0:
        return f"empty, shape {array.shape}"
    if not _small(array):
        spread = f", values from {_number(array.min())} to {_number(array.max())}" if array.dtype.kind != "c" else ""
        return f"shape {array.shape}{spread}"
    if array.ndim == 1:
        return "[" + ", ".join(_number(item) for item in array) + "]"
    return "[" + ", ".join(_compact_array(row) for row in array) + "]"


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
