"""An open course on dynamic neural networks, as a library.

The folders follow the taxonomy of "Dynamic Neural Networks: A Survey" (arXiv 2102.04906): `instance`,
`spatial`, `temporal`, `training`, `beyond`. The ground they stand on is `data`, `measure`, `decision`.

`import course_lib` costs milliseconds: sub-packages, and torch with them, are imported when they are first used.

>>> import course_lib
>>> course_lib.decision.exit_shares(0.5, 2).tolist()
[0.6666666865348816, 0.3333333432674408]
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

from course_lib._lazy import attach

if TYPE_CHECKING:
    import torch

__version__ = "0.1.0"

_module, _modules = attach(__name__, __path__)


def __getattr__(name: str) -> Any:
    return _module(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})


def device() -> torch.device:
    """The device notebooks and commands run on: `COURSE_DEVICE` if set, else a GPU if there is one, else the CPU."""
    import torch

    wanted = os.environ.get("COURSE_DEVICE")
    if wanted:
        try:
            return torch.device(wanted)
        except RuntimeError as error:
            raise ValueError(
                f"COURSE_DEVICE: got {wanted!r}, expected a torch device such as 'cpu' or 'cuda'"
            ) from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> torch.Generator:
    """Seed `random`, numpy and torch; return a CPU generator with the same seed for what takes one explicitly."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 - seeds libraries that still draw from the global state
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
