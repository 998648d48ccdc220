"""numba where it is installed; where it is not, the same functions run as they are written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled on its first call and kept on disk; itself without numba."""

    @cache
    def machine() -> Callable[..., Any]:
        try:
            from numba import njit
        except ModuleNotFoundError:
            return function
        return njit(cache=True)(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return machine()(*arguments)

    return call
