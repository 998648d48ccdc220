"""What a bench works out for minutes before it times anything: done side by side, and kept as soon as it is done.

It lies in `bench-results/trained/`, so that an interrupted run goes on from there. Whoever changed the code that made
it deletes the folder; every result names the commit it was made at.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from course_lib.bench import core
from course_lib.checkpoint import write_atomically

T = TypeVar("T")


def kept(name: str, plan: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What an earlier run made under the same plan, or what `make` gives now, written down before it is returned.

    Args:
        name: of the file, without its ending; one for each thing made, and for each kind of device.
        plan: the settings that decide what is made; plain numbers, texts and lists of them.
        make: gives tensors, numbers, texts, and lists and dictionaries of them, under names other than "plan" and
            "commit".

    Returns:
        What `make` gave, with the plan and the commit it was made at under "plan" and "commit".
    """
    file = (core.checkout() or Path.cwd()) / "bench-results" / "trained" / f"{name}.pt"
    if file.is_file():
        found = torch.load(file, weights_only=True)
        if found["plan"] == dict(plan):
            return found
    state = {**make(), "plan": dict(plan), "commit": core.commit()}
    write_atomically(file, lambda opened: torch.save(state, opened))
    return state


def side_by_side(work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], device: str) -> Iterator[T]:
    """`work(*job)` for every job, in their order: on the CPU in as many processes as there are cores, else in turn."""
    if device != "cpu":
        yield from (work(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1), mp_context=context) as pool:
        running = [pool.submit(work, *job) for job in jobs]
        for job in running:
            yield job.result()


def discard(prefix: str) -> None:
    """Delete what is kept under names that begin so, for the next run to work out anew: of times, at the end."""
    for file in ((core.checkout() or Path.cwd()) / "bench-results" / "trained").glob(f"{prefix}*.pt"):
        file.unlink()
