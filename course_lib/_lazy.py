"""Packages whose modules are imported when they are first used."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


def attach(package: str, path: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package: `package.module` works without an import statement.

    Args:
        package: its `__name__`.
        path: its `__path__`.
    """

    def getattr_(name: str) -> Any:
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":  # the module exists, something it needs does not
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def dir_() -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))

    return getattr_, dir_
