"""How notebooks come from their text sources, and exercises from their solutions.

A chapter is written in `notebooks/<part>/<stem>.py`, its solution in `solutions/<part>/<stem>.py` (py:percent).
`python -m course_lib.authoring [STEM ...]` makes and executes the notebooks beside them and derives
`exercises/<part>/<stem>.ipynb` by nbgrader's preprocessors. `--check` only says which of them are out of step.

Sources may abbreviate: `nbgrader={"solution": true, "grade_id": "f"}` and `nbgrader={"grade": true, "grade_id":
"f_check", "points": 1}` are filled up to nbgrader's full metadata, and a cell tagged `hide-output` is folded in
JupyterLab, too. An unchanged chapter, built again, gives the same file but for its pictures and timings.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT_S = 300
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "Controls appear here when the cell is run in JupyterLab; the next figure shows some of their positions."

_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
_NBGRADER = {"grade": False, "locked": False, "schema_version": 3, "solution": False, "task": False}
_PASSING_METADATA = ("collapsed", "execution", "scrolled", "trusted", "lines_to_next_cell")
_STEM_LINE = re.compile(r"^\*(\d+) min reading · (\d+) min exercises · needs (.+?) · [^·]+\*$")
_NOTEBOOK_LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)\.ipynb[^)]*\)")


@dataclass(frozen=True)
class Header:
    """What a chapter's first lines say, and its row on the paths page: minutes, and the chapters it needs."""

    title: str
    reading: int
    exercises: int
    needs: tuple[str, ...]


def sources(root: Path = ROOT, stems: Iterable[str] = ()) -> list[Path]:
    """The text sources of chapters and solutions, all of them or those of `stems` ("msdnet" or "instance/msdnet").

    Raises:
        ValueError: a stem has no source.
    """
    found = [path for room in ("notebooks", "solutions") for path in sorted((root / room).glob("*/*.py"))]
    chosen: list[Path] = []
    for stem in stems:
        matching = [path for path in found if stem in (path.stem, f"{path.parent.name}/{path.stem}")]
        if not matching:
            known = sorted({f"{path.parent.name}/{path.stem}" for path in found})
            raise ValueError(f"stem: got {stem!r}, expected one of {known}")
        chosen += [path for path in matching if path not in chosen]
    return chosen or found


def read_source(path: Path) -> NotebookNode:
    """The notebook a text source stands for, with full metadata and without outputs."""
    notebook = _read(path)
    for cell in notebook.cells:
        metadata = cell.metadata
        for key in _PASSING_METADATA:
            metadata.pop(key, None)
        if "nbgrader" in metadata:
            given = metadata["nbgrader"]
            metadata["nbgrader"] = {**_NBGRADER, "locked": bool(given.get("grade")), **given}
        if "hide-output" in metadata.get("tags", []):
            metadata["jupyter"] = {**metadata.get("jupyter", {}), "outputs_hidden": True}
    notebook.metadata = NotebookNode(jupytext={"formats": "ipynb,py:percent"})
    return _tidy(notebook)


def _read(path: Path) -> NotebookNode:
    return jupytext.read(path, fmt="py:percent" if path.suffix == ".py" else "ipynb")


def derive(solution: NotebookNode) -> NotebookNode:
    """The learner's notebook of a solution: `raise NotImplementedError` where the solutions stood, no outputs."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions, LockCells

    notebook = copy.deepcopy(solution)
    resources: dict[str, Any] = {}
    stub = {"python": "raise NotImplementedError"}
    for step in (LockCells(), ClearSolutions(code_stub=stub), ClearOutput(), ClearHiddenTests()):
        notebook, resources = step.preprocess(notebook, resources)
    notebook.metadata.pop("jupytext", None)  # an exercise has no text pair
    return _tidy(notebook)


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """Give the notebook stable ids and the same metadata on every machine."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata["kernelspec"] = dict(_KERNEL)
    notebook.metadata["language_info"] = dict(_LANGUAGE)
    notebook.metadata.pop("widgets", None)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        # From the content, so that a new cell changes no other cell's id.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def execute(notebook: NotebookNode, *, folder: Path, strict: bool = False) -> NotebookNode:
    """Run all cells in `folder` with the given environment and tidy the outputs; progress is not recorded.

    Raises:
        RuntimeError: a cell fails or writes to stderr.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    # nbclient would act out Output widgets; a message it sends for one can swallow the wake-up for the kernel's answer,
    # and it then waits for ever. What a widget shows is replaced by a note anyway.
    client.comm_open_handlers.clear()
    with tempfile.TemporaryDirectory() as home:
        # One thread and the CPU: what is committed must be what any machine gets.
        environment = {**os.environ, "COURSE_HOME": home, "OMP_NUM_THREADS": "1", "COURSE_DEVICE": "cpu"}
        environment.pop("MPLBACKEND", None)
        environment["COURSE_STRICT"] = "1" if strict else "0"
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise RuntimeError(str(error)) from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _tidy_outputs(cell)
    return _tidy(notebook)


def _tidy_outputs(cell: NotebookNode) -> None:
    cell.metadata.pop("execution", None)
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            raise RuntimeError(f"a cell wrote to stderr:\n{cell.source}\n---\n{output.text}")
    if any(WIDGET_VIEW in output.get("data", {}) for output in cell.outputs):
        # A widget's output is a reference to a kernel that is gone; the note stands for it in the book.
        note = {"text/plain": WIDGET_NOTE, "text/markdown": f"*{WIDGET_NOTE}*"}
        cell.outputs = [nbformat.v4.new_output("display_data", data=note)]


def build(paths: Iterable[Path], *, root: Path = ROOT, run: bool = True) -> list[Path]:
    """Make the notebooks of some text sources, and the exercises of those that are solutions; return what was written.

    Args:
        paths: sources, as `sources` gives them.
        root: the checkout.
        run: whether to execute; a notebook that was not is refused by the tests.
    """
    written: list[Path] = []
    for path in paths:
        solution = path.parent.parent.name == "solutions"
        made = {path.with_suffix(".ipynb"): read_source(path)}
        if solution:
            made[_exercise_path(path, root)] = derive(read_source(path))
        for target, notebook in made.items():
            print(target.relative_to(root).as_posix(), flush=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if run:
                execute(notebook, folder=target.parent, strict=target.parent.parent.name == "solutions")
            nbformat.write(notebook, target)
            written.append(target)
    return written


def _exercise_path(solution: Path, root: Path) -> Path:
    return root / "exercises" / solution.parent.name / f"{solution.stem}.ipynb"


def stale(root: Path = ROOT) -> list[str]:
    """One sentence for each notebook that does not equal what its source gives, outputs and cell ids left aside."""
    expected: dict[Path, NotebookNode] = {}
    for path in sources(root):
        expected[path.with_suffix(".ipynb")] = read_source(path)
        if path.parent.parent.name == "solutions":
            expected[_exercise_path(path, root)] = derive(read_source(path))
    found = [path for room in ("notebooks", "solutions", "exercises") for path in (root / room).glob("*/*.ipynb")]
    problems = []
    for path in sorted({*expected, *found}):
        name = path.relative_to(root).as_posix()
        if path not in expected:
            problems.append(f"{name} has no source")
        elif path not in found:
            problems.append(f"{name} is missing")
        elif comparable(expected[path]) != comparable(nbformat.read(path, as_version=4)):
            problems.append(f"{name} is out of step with its source")
    return problems


def comparable(notebook: NotebookNode) -> list[tuple[str, str, str]]:
    """Type, source and metadata of each cell: what must be equal between a source and its notebook."""
    return [
        (
            cell.cell_type,
            cell.source.strip(),
            json.dumps({k: v for k, v in cell.metadata.items() if k not in _PASSING_METADATA}, sort_keys=True),
        )
        for cell in notebook.cells
    ]


def chapter_header(path: Path) -> Header:
    """Title and header line of a chapter (text source or notebook): the first two lines of its first markdown cell.

    The line reads `*70 min reading · 70 min exercises · needs [Measuring](../start/measuring.ipynb) · CPU, 60 s*`;
    what is needed beside chapters stands there as plain words.

    Raises:
        ValueError: the lines have another form.
    """
    cells = [cell for cell in _read(path).cells if cell.cell_type == "markdown"]
    lines = cells[0].source.splitlines() if cells else []
    match = _STEM_LINE.match(lines[1]) if len(lines) > 1 and lines[0].startswith("# ") else None
    if match is None:
        expected = "'# title' and '*N min reading · N min exercises · needs ... · device*'"
        raise ValueError(f"{path}: got {lines[:2]} as its first lines, expected {expected}")
    return Header(lines[0][2:].strip(), int(match[1]), int(match[2]), _linked_chapters(match[3], path))


def _linked_chapters(text: str, page: Path) -> tuple[str, ...]:
    targets = [Path(os.path.normpath(page.absolute().parent / target)) for target in _NOTEBOOK_LINK.findall(text)]
    return tuple(sorted(f"{target.parent.name}/{target.name}" for target in targets))


def paths_table(path: Path) -> dict[str, Header]:
    """The chapters on the paths page: rows `| [name](link) | title | needs | reading | exercises |`, in their order.

    What a chapter needs is named by a link, or by the stem of another row.

    Raises:
        ValueError: the page has no such row, or a chapter has two.
    """
    text = "\n".join(cell.source for cell in _read(path).cells if cell.cell_type == "markdown")
    rows = [[part.strip() for part in line.strip().strip("|").split("|")] for line in text.splitlines()]
    rows = [row for row in rows if len(row) == 5 and _NOTEBOOK_LINK.match(row[0]) and row[3].isdigit()]
    chapters = [_linked_chapters(row[0], path)[0] for row in rows]
    if not rows or len(set(chapters)) != len(chapters):
        raise ValueError(f"{path}: got the chapters {chapters} in its table, expected each exactly once")
    by_stem = {chapter.split("/")[1]: chapter for chapter in chapters}
    table = {}
    for chapter, (_, title, needs, reading, exercises) in zip(chapters, rows, strict=True):
        plain = [by_stem[word.strip()] for word in needs.split(",") if word.strip() in by_stem]
        linked = tuple(sorted({*_linked_chapters(needs, path), *plain}))
        table[chapter] = Header(title, int(reading), int(exercises), linked)
    return table


def main(argv: list[str] | None = None) -> int:
    """Build all notebooks or those of some stems; with `--check` say what is out of step (1 if anything is)."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.authoring", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stems", nargs="*", metavar="STEM", help="such as msdnet or instance/msdnet; all by default")
    parser.add_argument("--check", action="store_true", help="change nothing, list what is out of step")
    options = parser.parse_args(argv)
    if options.check:
        problems = stale()
        print("\n".join(problems) if problems else "Every notebook is in step with its source.")
        return 1 if problems else 0
    try:
        build(sources(stems=options.stems))
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
