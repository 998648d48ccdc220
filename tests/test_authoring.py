"""From text sources to notebooks and exercises."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

from course_lib import authoring
from course_lib.authoring import Header

JUPYTEXT = """\
# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

"""

SOLUTION = """\
# %% [markdown]
# # Exercises: doubling

# %%
import os

from course_lib.checks import Case, Check

judge = Check(
    "double", chapter="start/one", title="twice", level=1, minutes=1, reference=lambda x: 2 * x,
    cases=[Case.of("three", 3)], wrong_answers={}, diagnoses={}, accepted=[], hints=("a", "b", "c"),
    shows="So it grows.",
)
print("strict" if os.environ.get("COURSE_STRICT") == "1" else "learning")

# %% nbgrader={"solution": true, "grade_id": "double"}
def double(x: int) -> int:
    \"\"\"Twice x.\"\"\"
    ### BEGIN SOLUTION
    y = x + x
    return y
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "double_check", "points": 1}
judge(double)
"""

CHAPTER = """\
# %% [markdown]
# # What is it?
# *5 min reading · 1 min exercises · needs nothing but time · CPU, under 60 s*

# %% tags=["hide-output"]
print("a")
print("b")

# %% tags=["nbval-ignore-output"]
import uuid

from IPython.display import display

display({"application/vnd.jupyter.widget-view+json": {"model_id": uuid.uuid4().hex}, "text/plain": "x"}, raw=True)

# %% mystnb={"image": {"alt": "A line."}}
1 + 1
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(JUPYTEXT + text, encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "notebooks" / "start" / "one.py", CHAPTER)
    write(tmp_path / "solutions" / "start" / "one.py", SOLUTION)
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree built and executed once."""
    root = tmp_path_factory.mktemp("built")
    write(root / "notebooks" / "start" / "one.py", CHAPTER)
    write(root / "solutions" / "start" / "one.py", SOLUTION)
    authoring.build(authoring.sources(root), root=root)
    return root


def outputs(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output.get("text") or output.data["text/plain"] for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return shown


def test_solutions_run_strictly_and_exercises_to_their_end(built: Path):
    assert outputs(built / "solutions/start/one.ipynb") == ["strict\n", "double: correct. So it grows.\n"]
    shown = outputs(built / "exercises/start/one.ipynb")
    assert shown == ["learning\n", "double: not attempted (level 1 of 5, about 1 minutes)\n"]


def test_widgets_leave_a_note_and_streams_stay_whole(built: Path):
    assert outputs(built / "notebooks/start/one.ipynb") == ["a\nb\n", authoring.WIDGET_NOTE, "2"]


def test_a_second_build_writes_the_same_bytes(built: Path):
    path = built / "notebooks/start/one.ipynb"
    before = path.read_bytes()
    authoring.build([path.with_suffix(".py")], root=built)
    assert path.read_bytes() == before


def test_building_uses_a_home_of_its_own_the_cpu_and_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_DEVICE", "cuda")
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = ("COURSE_HOME", "COURSE_DEVICE", "OMP_NUM_THREADS", "COURSE_STRICT")
    source = f"import os\nprint(*[os.environ[name] for name in {names}])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    home, *rest = authoring.execute(notebook, folder=tmp_path).cells[0].outputs[0].text.split()
    assert rest == ["cpu", "1", "0"]
    assert home != os.environ["COURSE_HOME"]
    assert not Path(home).exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("import sys; print('oh', file=sys.stderr)", "wrote to stderr"), ("1 / 0", "division by zero")],
)
def test_errors_and_output_on_stderr_are_refused(tmp_path: Path, source: str, message: str):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(RuntimeError, match=message):
        authoring.execute(notebook, folder=tmp_path)


def test_an_exercise_keeps_all_but_the_solution(root: Path):
    solution = authoring.read_source(root / "solutions/start/one.py")
    exercise = authoring.derive(solution)
    stub, check = exercise.cells[2], exercise.cells[3]
    assert stub.source == 'def double(x: int) -> int:\n    """Twice x."""\n    raise NotImplementedError'
    assert "y = x + x" in solution.cells[2].source, "deriving changed the solution"
    assert (stub.metadata.deletable, check.metadata.editable, check.metadata.deletable) == (False, False, False)
    expected = {"grade": True, "grade_id": "double_check", "locked": True, "points": 1}
    expected |= {"schema_version": 3, "solution": False, "task": False}
    assert dict(check.metadata.nbgrader) == expected
    assert "jupytext" not in exercise.metadata


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    ### END SOLUTION\n", "", "no end solution"),
        (' nbgrader={"solution": true, "grade_id": "double"}', "", "within solution cells"),
    ],
)
def test_a_solution_that_would_leak_is_refused(root: Path, old: str, new: str, message: str):
    path = write(root / "solutions/start/one.py", SOLUTION.replace(old, new))
    with pytest.raises(RuntimeError, match=message):
        authoring.derive(authoring.read_source(path))


def test_metadata_of_a_source_is_kept_and_completed(root: Path):
    cells = authoring.read_source(root / "notebooks/start/one.py").cells
    assert dict(cells[1].metadata) == {"tags": ["hide-output"], "jupyter": {"outputs_hidden": True}}
    assert cells[3].metadata.mystnb.image.alt == "A line."


def test_ids_are_unique_and_a_new_cell_changes_no_other(root: Path):
    path = root / "notebooks/start/one.py"
    before = [cell.id for cell in authoring.read_source(path).cells]
    write(path, "# %%\n1 + 1\n\n" + CHAPTER + "\n# %%\nx = 2\n")
    after = [cell.id for cell in authoring.read_source(path).cells]
    assert len(set(after)) == len(after)
    assert set(before) <= set(after)


@pytest.mark.parametrize(
    ("room", "change", "problem"),
    [
        ("notebooks", "edit", "out of step"),
        ("solutions", "edit", "out of step"),
        ("exercises", "edit", "out of step"),
        ("exercises", "retag", "out of step"),
        ("exercises", "delete", "missing"),
        ("notebooks", "orphan", "has no source"),
    ],
)
def test_what_is_stale_is_named(root: Path, room: str, change: str, problem: str):
    authoring.build(authoring.sources(root), root=root, run=False)
    assert authoring.stale(root) == []
    path = root / room / "start" / "one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    if change == "edit":
        notebook.cells[1].source += "\nmore = 1"
    elif change == "retag":
        notebook.cells[1].metadata["tags"] = ["new"]
    elif change == "delete":
        path.unlink()
    else:
        path = path.with_name("two.ipynb")
    if change != "delete":
        nbformat.write(notebook, path)
    (found,) = authoring.stale(root)
    assert found.startswith(path.relative_to(root).as_posix())
    assert problem in found


def test_outputs_ids_and_editor_traces_do_not_make_stale(root: Path):
    authoring.build(authoring.sources(root), root=root, run=False)
    path = root / "exercises/start/one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"other{i}"
        cell.metadata["execution"] = {"iopub.status.busy": "now"}
    nbformat.write(notebook, path)
    assert authoring.stale(root) == []


def test_sources_are_chosen_by_stem(root: Path):
    write(root / "notebooks/instance/two.py", CHAPTER)
    assert len(authoring.sources(root)) == 3
    for stem in ("one", "start/one"):
        rooms = [path.parent.parent.name for path in authoring.sources(root, [stem])]
        assert rooms == ["notebooks", "solutions"]
    with pytest.raises(ValueError, match=r"stem: got 'three', expected one of \['instance/two', 'start/one'\]"):
        authoring.sources(root, ["three"])


LINE = "*70 min reading · 75 min exercises · needs {} · CPU, under 60 s; GPU optional*"


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ("[Measuring](../start/measuring.ipynb)", ("start/measuring",)),
        ("[B](b.ipynb), [A](../start/a.ipynb#gain), algebra", ("instance/b", "start/a")),
        ("nothing but a CNN, softmax, PyTorch tensors", ()),
    ],
)
@pytest.mark.parametrize("suffix", [".py", ".ipynb"])
def test_a_header_is_read_from_source_and_notebook(tmp_path: Path, needs: str, expected: tuple[str, ...], suffix: str):
    path = write(
        tmp_path / "notebooks/instance/c.py",
        f"# %% [markdown]\n# # When is it enough?\n# {LINE.format(needs)}\n#\n# And so on.",
    )
    authoring.build([path], root=tmp_path, run=False)
    header = authoring.chapter_header(path.with_suffix(suffix))
    assert header == Header("When is it enough?", 70, 75, expected)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "# %% [markdown]\n# # A title only",
        "# %% [markdown]\n# # A title and\n#\n# " + LINE.format("time"),
        "# %% [markdown]\n# No title\n# " + LINE.format("time"),
        "# %% [markdown]\n# # A title and\n# " + LINE.format("time").replace("70 min", "long"),
        "# %% [markdown]\n# # A title and\n# " + LINE.format("time").replace(" · CPU, under 60 s; GPU optional", ""),
    ],
)
def test_another_form_of_header_is_refused(tmp_path: Path, text: str):
    path = write(tmp_path / "notebooks/start/a.py", text)
    with pytest.raises(ValueError, match="as its first lines, expected"):
        authoring.chapter_header(path)


ROWS = """\
# %% [markdown]
# | chapter | question | needs | reading | exercises |
# |---|---|---|---|---|
# | [start/a](a.ipynb) | Why is it? | a CNN, softmax | 30 | 45 |
# | [instance/b](../instance/b.ipynb) | When is it? | a, softmax | 40 | 50 |
# | [instance/c](../instance/c.ipynb) | Who is it? | [B](../instance/b.ipynb) | 40 | 50 |
# | spatial/later | What is it? | a | 40 | 50 |
#
# | leaf | the idea |
# |---|---|
# | [Exits](../instance/b.ipynb) | stop |
"""


def test_the_paths_table_is_read_in_order(tmp_path: Path):
    table = authoring.paths_table(write(tmp_path / "notebooks/start/paths.py", ROWS))
    assert list(table.items()) == [
        ("start/a", Header("Why is it?", 30, 45, ())),
        ("instance/b", Header("When is it?", 40, 50, ("start/a",))),
        ("instance/c", Header("Who is it?", 40, 50, ("instance/b",))),
    ]


@pytest.mark.parametrize("text", ["# %% [markdown]\n# no table", ROWS.replace("(../instance/c.ipynb)", "(a.ipynb)")])
def test_a_paths_page_without_a_sound_table_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match="expected each exactly once"):
        authoring.paths_table(write(tmp_path / "notebooks/start/paths.py", text))


def test_the_command_reports_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(authoring, "stale", lambda: ["x.ipynb is missing"])
    assert authoring.main(["--check"]) == 1
    assert capsys.readouterr().out == "x.ipynb is missing\n"
    monkeypatch.setattr(authoring, "stale", list)
    assert authoring.main(["--check"]) == 0
    assert authoring.main(["no_such_stem"]) == 1
    assert "no_such_stem" in capsys.readouterr().err
