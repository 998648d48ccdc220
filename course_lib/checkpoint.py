"""Files that outlive an interruption, and the checkpoints of `course_lib.train`, which are such files."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

FORMAT = "course_lib.train/1"

_ENTRIES: dict[str, type] = {
    "plan": dict,
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "generators": list,
    "order": Tensor,
    "epoch": int,
    "batch": int,
    "losses": Tensor,
    "seconds": float,
}


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Let `write(file)` fill a new file that then takes the place of `path` in one step.

    Whatever interrupts it, `path` holds either its old content or the new one, whole. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write what `load_checkpoint` gives, atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with `weights_only`: a file from a stranger can run no code.

    Entries: `model` (its state dict), `plan` (the settings of the run), `epoch`, `batch` (batches done of that
    epoch), `losses` (steps,), `seconds`, and the states of optimiser, gradient scaler and generators.
    `FileNotFoundError` where there is none; `ValueError`, naming the path, for a corrupt or foreign file.
    """
    expected = f"expected a checkpoint written by course_lib.train ({FORMAT})"
    content = io.BytesIO(Path(path).read_bytes())
    try:
        # torch does not look at the checksums it writes: a damaged weight would be loaded as it is.
        with zipfile.ZipFile(content) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds, by where the damage sits
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"checkpoint {path}: got an unreadable file ({reason}), {expected}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = (
            state.get("format", f"a dict with {sorted(map(str, state))[:5]}")
            if isinstance(state, dict)
            else type(state)
        )
        raise ValueError(f"checkpoint {path}: got {got}, {expected}")
    for name, kind in _ENTRIES.items():
        if not isinstance(state.get(name), kind):
            got = type(state.get(name)).__name__
            raise ValueError(f"checkpoint {path}: got {got} as {name!r}, expected {kind.__name__}")
    return state


def require_same(state: dict[str, Any], weights: dict[str, Tensor], plan: dict[str, Any], path: Path) -> None:
    """`ValueError` unless a checkpoint is of the model with these weights (by name and shape) and of this plan."""
    got = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    expected = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if got != expected:
        name = next(name for name in [*expected, *got] if got.get(name) != expected.get(name))
        pair = f"{got.get(name, 'no tensor')} as {name!r}, expected {expected.get(name, 'no tensor')}"
        raise ValueError(f"checkpoint {path} belongs to another model: got {pair}")
    for name, value in plan.items():
        if state["plan"].get(name) != value:
            pair = f"got {name}={state['plan'].get(name)!r} in the file, expected {value!r}"
            raise ValueError(f"checkpoint {path} belongs to other settings: {pair}; name another file or resume=False")


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of the global generators that training on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put them back; a run begun on another kind of device leaves this one's as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
