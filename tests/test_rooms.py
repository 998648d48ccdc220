"""One stem, six rooms: the tree holds together, notebooks are executed and in step, headers, paths and contents agree.

Each rule is a function from a tree or a notebook to the sentences that say what is wrong; it is applied to this
checkout, and to broken trees and notebooks, so that it is known to notice.
"""

from __future__ import annotations

import copy
import graphlib
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import NotebookNode

from course_lib import authoring, checks

ROOT = Path(__file__).resolve().parents[1]
METHOD_PARTS = ("instance", "spatial", "temporal", "training", "beyond")
TEXT_PARTS = ("start", "outlook")
SHARED_GROUND = {"beyond/clip", "spatial/drnet", "spatial/pixel_masks"}
TEXT_PAGES = {"start/paths"}

PICTURES = ("image/png", "image/svg+xml", "image/jpeg")
FOLDED_ANSWER = re.compile(
    r"^[`:]{3,}\{(dropdown\} Answer|admonition\} Answer[^\n]*\n(:[a-z-]+:[^\n]*\n)*?:class:[^\n]*\bdropdown\b)", re.M
)
WIDGET_CALL = re.compile(r"\b(interact|interactive|interactive_output)\(")


# The tree ------------------------------------------------------------------------------------------------------------


def keys(root: Path, pattern: str, parts: tuple[str, ...], cut: str = "") -> set[str]:
    """ "part/stem" of every file a pattern finds in a part's folder."""
    paths = [path for part in parts for path in (root / part).glob(pattern) if not path.name.startswith("_")]
    return {f"{path.parent.name}/{path.stem.removeprefix(cut)}" for path in paths}


def modules(root: Path) -> set[str]:
    """The methods of the library: modules and packages of the five parts."""
    library = root / "course_lib"
    packages = {f"{path.parent.parent.name}/{path.parent.name}" for path in library.glob("*/*/__init__.py")}
    packages = {key for key in packages if key.split("/")[0] in METHOD_PARTS}
    return (keys(library, "*.py", METHOD_PARTS) | packages) - SHARED_GROUND


def room_faults(root: Path) -> list[str]:
    parts = METHOD_PARTS + TEXT_PARTS
    four = {
        "notebooks/{}/{}.py": keys(root / "notebooks", "*.py", parts),
        "notebooks/{}/{}.ipynb": keys(root / "notebooks", "*.ipynb", parts),
        "solutions/{}/{}.py": keys(root / "solutions", "*.py", parts),
        "solutions/{}/{}.ipynb": keys(root / "solutions", "*.ipynb", parts),
        "exercises/{}/{}.ipynb": keys(root / "exercises", "*.ipynb", parts),
        "course_lib/checks/{}/{}.py": keys(root / "course_lib" / "checks", "*.py", parts),
    }
    tests = keys(root / "tests", "test_*.py", METHOD_PARTS, cut="test_")
    six = {**four, "course_lib/{}/{}.py": modules(root), "tests/{}/test_{}.py": tests}
    stems = modules(root).union(*four.values())
    faults = []
    for key in sorted(stems):
        rooms = six if key.split("/")[0] in METHOD_PARTS else four
        for name, found in rooms.items():
            wanted = key not in TEXT_PAGES or name.startswith("notebooks/")
            if (key in found) != wanted:
                faults.append(f"{key}: {'no' if wanted else 'needless'} {name.format(*key.split('/'))}")
    orphans = [key for key in tests - SHARED_GROUND if not any(key.startswith(stem) for stem in stems | SHARED_GROUND)]
    return faults + [f"{key}: a test without a method" for key in sorted(orphans)]


def chapters(root: Path) -> dict[str, Path]:
    """The text source of every chapter."""
    found = {f"{path.parent.name}/{path.stem}": path for path in sorted((root / "notebooks").glob("*/*.py"))}
    return {key: path for key, path in found.items() if key not in TEXT_PAGES}


def order_faults(root: Path) -> list[str]:
    """Headers, paths page and table of contents tell the same, and nothing needs itself."""
    headers = {key: authoring.chapter_header(path) for key, path in chapters(root).items()}
    table = authoring.paths_table(root / "notebooks" / "start" / "paths.py")
    faults = [f"{key}: not on the paths page" for key in headers.keys() - table.keys()]
    faults += [f"{key}: on the paths page, but no chapter" for key in table.keys() - headers.keys()]
    faults += [
        f"{key}: the header says {headers[key]}, the paths page {table[key]}"
        for key in headers.keys() & table.keys()
        if headers[key] != table[key]
    ]
    listed = contents(yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8")))
    expected = {f"notebooks/{key}" for key in headers.keys() | TEXT_PAGES}
    faults += [f"{entry}: not in the table of contents" for entry in expected - set(listed)]
    faults += [
        f"{entry}: in the table of contents, but no chapter"
        for entry in listed
        if entry not in expected and "notebooks/" in entry
    ]
    try:
        tuple(graphlib.TopologicalSorter({key: header.needs for key, header in headers.items()}).static_order())
    except graphlib.CycleError as error:
        faults.append(f"prerequisites go in a circle: {' needs '.join(error.args[1])}")
    rank = {key: place for place, key in enumerate(table)}
    for key, header in headers.items():
        for need in header.needs:
            if need not in headers:
                faults.append(f"{key}: needs {need}, which is no chapter")
            elif rank.get(need, 0) >= rank.get(key, 0) and key in rank:
                faults.append(f"{key}: stands before {need}, which it needs")
    return sorted(faults)


def contents(node: object) -> list[str]:
    """Every `file` of a table of contents, in order."""
    if isinstance(node, dict):
        return [entry for key, value in node.items() for entry in ([value] if key == "file" else contents(value))]
    return [entry for item in node for entry in contents(item)] if isinstance(node, list) else []


# One notebook --------------------------------------------------------------------------------------------------------


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def has_picture(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and any(kind in out.get("data", {}) for out in cell.outputs for kind in PICTURES)


def is_widget(cell: NotebookNode) -> bool:
    shown = [output.get("data", {}) for output in cell.outputs]
    noted = any(authoring.WIDGET_VIEW in data or data.get("text/plain") == authoring.WIDGET_NOTE for data in shown)
    return noted or bool(WIDGET_CALL.search(cell.source))


def execution_faults(notebook: NotebookNode) -> list[str]:
    """What no executed notebook may have, in any room."""
    faults = []
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        faults.append(f"execution counts are {counts}, not 1 to {len(counts)}")
    if "widgets" in notebook.metadata:
        faults.append("widget state is stored")
    for cell in code(notebook):
        where = f"in the cell starting {cell.source[:40]!r}"
        if not cell.source.strip():
            faults.append("an empty code cell")
        if {"skip-execution", "nbval-skip"} & set(tags(cell)):
            faults.append(f"skipped execution {where}")
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"an error {where}")
            if output.get("name") == "stderr":
                faults.append(f"output on stderr {where}")
            if authoring.WIDGET_VIEW in output.get("data", {}):
                faults.append(f"a widget without its kernel {where}")
            if str(Path.home()) + "/" in str(output.get("text", "")) or str(ROOT) in str(output.get("text", "")):
                faults.append(f"a path of one machine {where}")
    return faults


def chapter_faults(notebook: NotebookNode) -> list[str]:
    """What a chapter must have beside."""
    faults = prediction_faults(notebook)
    for cell in notebook.cells:
        where = f"in the cell starting {cell.source[:40]!r}"
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            faults.append(f"a picture without alternative text {where}")
        if has_picture(cell) and not str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")).strip():
            faults.append(f"a figure without alternative text {where}")
        lines = cell.source.count("\n") + 1
        limit = 40 if re.search(r"^class ", cell.source, re.M) else 25
        if cell.cell_type == "code" and lines > limit:
            faults.append(f"{lines} lines, more than {limit}, {where}")
    cells = code(notebook)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if is_widget(cell):
            if "nbval-ignore-output" not in tags(cell):
                faults.append(f"a widget compared by nbval in the cell starting {cell.source[:40]!r}")
            if following is None or is_widget(following) or not has_picture(following):
                faults.append(f"a widget without a static figure after the cell starting {cell.source[:40]!r}")
    return faults


def prediction_faults(notebook: NotebookNode) -> list[str]:
    """Each question to predict is followed by a folded result and a folded answer; there are three at least."""
    faults = []
    questions = [i for i, c in enumerate(notebook.cells) if c.cell_type == "markdown" and "**Predict" in c.source]
    if len(questions) < 3:
        faults.append(f"{len(questions)} predictions, fewer than 3")
    for i in questions:
        where = f"after the prediction in the cell starting {notebook.cells[i].source[:40]!r}"
        if notebook.cells[i].source.count("**Predict") > 1:
            faults.append(f"two predictions in one cell {where}")
        near = [k for k in (i + 1, i + 2) if k < len(notebook.cells) and "hide-output" in tags(notebook.cells[k])]
        if not near or notebook.cells[near[0]].cell_type != "code":
            faults.append(f"no cell tagged hide-output {where}")
            continue
        if notebook.cells[near[0]].metadata.get("jupyter", {}).get("outputs_hidden") is not True:
            faults.append(f"the result is not folded in JupyterLab {where}")
        answers = notebook.cells[near[0] + 1 : near[0] + 3]
        if not any(cell.cell_type == "markdown" and FOLDED_ANSWER.search(cell.source) for cell in answers):
            faults.append(f"no folded answer {where}")
    return faults


def verdict_faults(notebook: NotebookNode, status: str) -> list[str]:
    """Each check printed `status`, and no id is used twice."""
    marks = [cell.metadata.get("nbgrader", {}) for cell in code(notebook)]
    faults = []
    names = [mark["grade_id"] for mark in marks if mark]
    if len(set(names)) != len(names):
        faults.append(f"a grade_id is used twice: {names}")
    if not any(mark.get("grade") for mark in marks):
        faults.append("no check")
    for cell, mark in zip(code(notebook), marks, strict=True):
        printed = "".join(output.get("text", "") for output in cell.outputs)
        if mark.get("grade") and f": {status}" not in printed:
            faults.append(f"{mark['grade_id']} does not say {status!r}, it says {printed!r}")
    return faults


# This checkout -------------------------------------------------------------------------------------------------------

NOTEBOOKS = sorted(path for room in ("notebooks", "solutions", "exercises") for path in (ROOT / room).glob("*/*.ipynb"))
CHAPTERS = chapters(ROOT)


def short(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def test_every_stem_has_its_rooms():
    assert room_faults(ROOT) == []


def test_headers_paths_and_contents_agree():
    assert order_faults(ROOT) == []


def test_notebooks_are_in_step_with_their_sources():
    assert authoring.stale(ROOT) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=short)
def test_notebook_is_executed_whole(path: Path):
    assert execution_faults(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=short)
def test_chapter_keeps_its_form(path: Path):
    assert chapter_faults(nbformat.read(path.with_suffix(".ipynb"), as_version=4)) == []


@pytest.mark.parametrize("key", CHAPTERS)
def test_checks_are_called_and_fill_the_minutes_of_the_header(key: str):
    tasks = [task for task in checks.tasks() if task.chapter == key]
    assert sum(task.minutes for task in tasks) == authoring.chapter_header(CHAPTERS[key]).exercises
    for room, status in (("solutions", "correct"), ("exercises", "not attempted")):
        notebook = nbformat.read(ROOT / room / f"{key}.ipynb", as_version=4)
        assert verdict_faults(notebook, status) == []
        source = "\n".join(cell.source for cell in code(notebook))
        for task in tasks:
            assert re.search(rf"\b{task.name}\({task.name}\)", source), f"{room}: {task.name} is never checked"


# Broken ones ---------------------------------------------------------------------------------------------------------


def make_tree(root: Path) -> Path:
    """The smallest tree that keeps all rules."""
    header = "# # {}\n# *{} min reading · {} min exercises · needs {} · CPU, 60 s*\n"
    files = {
        "notebooks/start/one.py": "# %% [markdown]\n" + header.format("Why is it so?", 30, 45, "nothing but patience"),
        "notebooks/instance/two.py": "# %% [markdown]\n"
        + header.format("When is it so?", 5, 6, "[One](../start/one.ipynb)"),
        "notebooks/start/paths.py": "# %% [markdown]\n# # Paths\n#\n"
        "# | [start/one](one.ipynb) | Why is it so? | patience | 30 | 45 |\n"
        "# | [instance/two](../instance/two.ipynb) | When is it so? | one | 5 | 6 |\n",
        "book/_toc.yml": "root: book/intro\nparts:\n- chapters:\n  - file: notebooks/start/paths\n"
        "  - file: notebooks/start/one\n    sections:\n    - file: notebooks/instance/two\n",
        "course_lib/instance/__init__.py": "",
        "course_lib/instance/two.py": "",
        "course_lib/beyond/clip.py": "",
        "tests/instance/test_two.py": "",
        "tests/instance/test_two_kernels.py": "",
    }
    for key in ("start/one", "instance/two"):
        files[f"course_lib/checks/{key}.py"] = ""
        files[f"solutions/{key}.py"] = "# %%\nprint(1)\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    authoring.build(authoring.sources(root), root=root, run=False)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


def test_a_whole_tree_has_no_fault(tree: Path):
    assert room_faults(tree) == []
    assert order_faults(tree) == []
    assert authoring.stale(tree) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("course_lib/instance/two.py", "instance/two: no course_lib/instance/two.py"),
        ("tests/instance/test_two.py", "instance/two: no tests/instance/test_two.py"),
        ("exercises/start/one.ipynb", "start/one: no exercises/start/one.ipynb"),
        ("course_lib/checks/start/one.py", "start/one: no course_lib/checks/start/one.py"),
        ("notebooks/start/paths.ipynb", "start/paths: no notebooks/start/paths.ipynb"),
    ],
)
def test_an_empty_room_is_noticed(tree: Path, name: str, fault: str):
    (tree / name).unlink()
    assert fault in room_faults(tree)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("course_lib/spatial/new.py", "spatial/new: no notebooks/spatial/new.py"),
        ("course_lib/beyond/solver/__init__.py", "beyond/solver: no tests/beyond/test_solver.py"),
        ("course_lib/checks/instance/stray.py", "instance/stray: no course_lib/instance/stray.py"),
        ("tests/instance/test_stray.py", "instance/stray: a test without a method"),
        ("exercises/outlook/stray.ipynb", "outlook/stray: no solutions/outlook/stray.py"),
        ("solutions/start/paths.py", "start/paths: needless solutions/start/paths.py"),
    ],
)
def test_an_orphan_is_noticed(tree: Path, name: str, fault: str):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("", encoding="utf-8")
    assert fault in room_faults(tree)


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("notebooks/start/one.py", "*30 min", "*31 min", "start/one: the header says"),
        ("notebooks/start/one.py", "# # Why", "# # Who", "start/one: the header says"),
        ("notebooks/start/paths.py", "| one |", "| |", "instance/two: the header says"),
        ("notebooks/start/paths.py", "(one.ipynb)", "(gone.ipynb)", "start/gone: on the paths page, but no chapter"),
        ("notebooks/start/one.py", "nothing", "[Two](../instance/two.ipynb)", "prerequisites go in a circle"),
        ("notebooks/start/one.py", "nothing", "[X](x.ipynb)", "start/one: needs start/x, which is no chapter"),
        ("notebooks/start/one.py", "nothing", "[Two](../instance/two.ipynb)", "start/one: stands before instance/two"),
        (
            "book/_toc.yml",
            "notebooks/start/one",
            "notebooks/start/won",
            "notebooks/start/won: in the table of contents",
        ),
        ("book/_toc.yml", "notebooks/start/one", "book/x", "notebooks/start/one: not in the table of contents"),
    ],
)
def test_a_disagreement_is_noticed(tree: Path, name: str, old: str, new: str, fault: str):
    text = (tree / name).read_text(encoding="utf-8")
    assert old in text
    (tree / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(found.startswith(fault) for found in order_faults(tree)), order_faults(tree)


def good_chapter() -> NotebookNode:
    """A chapter's notebook that keeps all rules."""
    v4 = nbformat.v4
    fold = {"tags": ["hide-output"], "jupyter": {"outputs_hidden": True}}
    alt = {"mystnb": {"image": {"alt": "Two lines that cross."}}}
    figure = v4.new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})
    note = v4.new_output("display_data", data={"text/plain": authoring.WIDGET_NOTE})
    cells = []
    for letter in "abc":
        cells.append(v4.new_markdown_cell(f"**Predict ({letter}).** How many?"))
        cells.append(
            v4.new_code_cell("print(3)", metadata=copy.deepcopy(fold), outputs=[v4.new_output("stream", text="3\n")])
        )
        cells.append(v4.new_markdown_cell("```{admonition} Answer\n:class: tip, dropdown\nThree.\n```"))
    cells.append(v4.new_code_cell("interact(draw)", metadata={"tags": ["nbval-ignore-output"]}, outputs=[note]))
    cells.append(v4.new_code_cell("draw(1)\nplt.show()", metadata=alt, outputs=[figure]))
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
    return v4.new_notebook(cells=cells)


def test_a_good_chapter_has_no_fault():
    assert execution_faults(good_chapter()) + chapter_faults(good_chapter()) == []


def _stderr(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs[0].name = "stderr"


def _error(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]


BREAKS: list[tuple[str, Callable[[NotebookNode], object]]] = [
    ("execution counts are", lambda nb: nb.cells[1].update(execution_count=None)),
    ("execution counts are", lambda nb: nb.cells[4].update(execution_count=7)),
    ("an empty code cell", lambda nb: nb.cells[1].update(source=" ")),
    ("an error in", _error),
    ("output on stderr", _stderr),
    ("widget state is stored", lambda nb: nb.metadata.update(widgets={})),
    ("a widget without its kernel", lambda nb: nb.cells[9].outputs[0].data.update({authoring.WIDGET_VIEW: {}})),
    ("skipped execution", lambda nb: nb.cells[1].metadata.tags.append("skip-execution")),
    ("a path of one machine", lambda nb: nb.cells[1].outputs[0].update(text=f"{ROOT}/x")),
    ("2 predictions, fewer than 3", lambda nb: nb.cells[0].update(source="Think.")),
    ("no cell tagged hide-output", lambda nb: nb.cells[1].metadata.pop("tags")),
    ("no cell tagged hide-output", lambda nb: nb.cells.__setitem__(slice(1, 1), [nb.cells[2]] * 2)),
    ("the result is not folded", lambda nb: nb.cells[1].metadata.pop("jupyter")),
    ("no folded answer", lambda nb: nb.cells[2].update(source="```{admonition} Answer\nThree.\n```")),
    ("no folded answer", lambda nb: nb.cells[2].update(source="```{admonition} So\n:class: dropdown\nThree.\n```")),
    ("two predictions in one cell", lambda nb: nb.cells[0].update(source="**Predict** x. **Predict** y.")),
    ("a figure without alternative text", lambda nb: nb.cells[10].metadata.pop("mystnb")),
    ("a figure without alternative text", lambda nb: nb.cells[10].metadata.mystnb.image.update(alt=" ")),
    ("a picture without alternative text", lambda nb: nb.cells[0].update(source="**Predict** ![](x.png)")),
    ("a widget compared by nbval", lambda nb: nb.cells[9].metadata.pop("tags")),
    ("a widget without a static figure", lambda nb: nb.cells[10].update(outputs=[])),
    ("a widget without a static figure", lambda nb: nb.cells.pop()),
    ("26 lines, more than 25", lambda nb: nb.cells[1].update(source="x = 1\n" * 25 + "x")),
    ("41 lines, more than 40", lambda nb: nb.cells[1].update(source="class A:\n" + "    x = 1\n" * 39 + "    x = 2")),
]


@pytest.mark.parametrize(("fault", "spoil"), BREAKS, ids=[f"{i}-{fault}" for i, (fault, _) in enumerate(BREAKS)])
def test_a_broken_chapter_is_noticed(fault: str, spoil: Callable[[NotebookNode], object]):
    notebook = good_chapter()
    spoil(notebook)
    found = execution_faults(notebook) + chapter_faults(notebook)
    assert any(fault in text for text in found), found


def test_a_class_may_have_forty_lines():
    notebook = good_chapter()
    notebook.cells[1].source = "class A:\n" + "    x = 1\n" * 38 + "    y = 2"
    assert chapter_faults(notebook) == []


def test_a_wrong_verdict_is_noticed():
    notebook = good_chapter()
    assert verdict_faults(notebook, "correct") == ["no check"]
    notebook.cells[1].metadata["nbgrader"] = {"grade": True, "grade_id": "f_check"}
    notebook.cells[4].metadata["nbgrader"] = {"grade": False, "grade_id": "f_check"}
    notebook.cells[1].outputs[0].text = "f: not yet"
    faults = verdict_faults(notebook, "correct")
    assert len(faults) == 2
    assert "used twice" in faults[0]
    assert "does not say 'correct'" in faults[1]
