"""JupyterLab for real: started by `make lab`, on a copy of the notebooks, driven as a learner would in a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHAPTER = "notebooks/instance/msdnet.ipynb"
EXERCISE = "exercises/instance/msdnet.ipynb"
START_PAGE = "notebooks/start/paths.ipynb"
TOKEN = "browser-test"
MINUTE = 60_000  # Playwright counts in milliseconds

# JupyterLab's own cell toolbar measures a cell that has just been replaced, and complains on the console.
JUPYTERLABS_OWN = "reading 'node'"


def unexpected(troubles: list[str]) -> list[str]:
    """The troubles that are not JupyterLab's own."""
    return [trouble for trouble in troubles if JUPYTERLABS_OWN not in trouble]


# What a learner types for the first task: without the division, and then with it.
WRONG = """\
def exit_shares(rho, exits):
    return [rho**k for k in range(exits)]
"""
RIGHT = """\
def exit_shares(rho, exits):
    weights = [rho**k for k in range(exits)]
    return [weight / sum(weights) for weight in weights]
"""


class Lab:
    """A running JupyterLab: its address, the folder it serves and the learner's home."""

    def __init__(self, folder: Path, home: Path, port: int) -> None:
        self.folder, self.home, self.port = folder, home, port

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}?token={TOKEN}"

    def environment(self) -> dict[str, str]:
        """Everything Jupyter and the course write goes into the learner's home."""
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
        places |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        places |= {"IPYTHONDIR": "ipython", "COURSE_HOME": "course"}
        return os.environ | {name: str(self.home / place) for name, place in places.items()}

    def progress(self) -> int:
        """How many tasks `course progress` calls correct."""
        command = [str(Path(sys.prefix) / "bin" / "course"), "progress"]
        shown = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=True).stdout
        return int(re.search(r"(\d+) of \d+ correct", shown)[1])

    def solved(self) -> list[str]:
        record = self.home / "course" / "progress.json"
        tasks = json.loads(record.read_text())["tasks"] if record.exists() else {}
        return [name for name, entry in tasks.items() if entry["status"] == "correct"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if shutil.which("make") is None:
        pytest.skip("there is no make here, and this test starts JupyterLab by `make lab`")
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    for room in ("notebooks", "exercises"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("*.py", ".ipynb_checkpoints"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Lab(folder, home, port)
    # JupyterLab keeps only the cells in view on the page; the tests read all of them.
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    options = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    # The environment this test runs in is the one to use, whether or not `make install` made it: -o says so.
    command = ["make", "-C", str(ROOT), "-o", f"{sys.prefix}/.installed", "lab"]
    command += [f"VENV={sys.prefix}", f"LAB_ROOT={folder}", f"LAB_ARGS={options}"]
    log = (home / "log").open("w")
    process = subprocess.Popen(
        command, env=running.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_until_up(running, process, home / "log")
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()


def wait_until_up(running: Lab, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(running.url("/api/status"), timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"`make lab` brought no JupyterLab up:\n{log.read_text()[-2000:]}")


def open_notebook(page, lab: Lab, path: str) -> None:
    """Open it in a workspace of its own, so that nothing an earlier test left open is restored."""
    workspace = path.removesuffix(".ipynb").replace("/", "-")
    page.goto(lab.url(f"/lab/workspaces/{workspace}/tree/{path}"))
    visible_notebook(page).locator(".jp-Cell").first.wait_for(timeout=MINUTE)


def visible_notebook(page):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")


def choose(page, menu: str, item: str) -> None:
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{menu}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()


def run_all(page) -> None:
    """Run all cells by the menu and wait until every one has its count; what was stored is cleared before."""
    choose(page, "Edit", "Clear Outputs of All Cells")
    choose(page, "Run", "Run All Cells")
    page.wait_for_function(
        """() => {
            const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
            const prompts = [...panel.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent);
            return prompts.length && prompts.every(text => /\\[\\d+\\]/.test(text));
        }""",
        timeout=4 * MINUTE,
    )


def outputs(page) -> str:
    """All text under the cells, with single blanks."""
    texts = visible_notebook(page).locator(".jp-OutputArea-output").all_inner_texts()
    return " ".join(" ".join(texts).split())


def retype(page, old: str, new: str) -> None:
    """Replace what stands in the cell that contains `old`, by keyboard."""
    cell = visible_notebook(page).locator(".jp-CodeCell", has_text=old).first
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(new)


def test_lab_opens_at_the_start_page(tab, lab):
    with tab() as (page, troubles):
        page.goto(lab.url())
        page.locator(".jp-RenderedMarkdown h1, .jp-MarkdownCell h1").first.wait_for(timeout=MINUTE)
        assert page.locator(".lm-TabBar-tab.lm-mod-current .lm-TabBar-tabLabel", has_text="paths.ipynb").count() == 1
        assert page.locator(".jp-MarkdownCell h1").first.inner_text().strip().startswith("Start here")
        assert unexpected(troubles) == []


def test_every_link_of_the_start_page_opens_its_notebook(tab, lab):
    text = "\n".join("".join(cell["source"]) for cell in json.loads((lab.folder / START_PAGE).read_text())["cells"])
    here = (lab.folder / START_PAGE).parent
    links = set(re.findall(r"\]\(([^)]+\.ipynb)\)", text))
    targets = sorted({os.path.relpath((here / link).resolve(), lab.folder.resolve()) for link in links})
    assert CHAPTER in targets
    with tab() as (page, troubles):
        page.set_viewport_size({"width": 200 * (len(targets) + 2), "height": 900})  # in narrow tabs a click closes
        open_notebook(page, lab, START_PAGE)
        for target in targets:
            visible_notebook(page).locator(f".jp-MarkdownCell a[href*='/files/{target}']").first.click()
            page.wait_for_url(f"**/tree/{target}*", timeout=MINUTE)
            visible_notebook(page).locator(".jp-Cell").first.wait_for(timeout=MINUTE)
            page.locator(".lm-TabBar-tabLabel", has_text=re.compile("^paths.ipynb$")).click()
        assert unexpected(troubles) == []


@pytest.mark.parametrize("chapter", [CHAPTER, "notebooks/beyond/dapl.ipynb"])
def test_chapter_runs_and_its_slider_moves_the_figure(tab, lab, chapter):
    with tab() as (page, troubles):
        open_notebook(page, lab, chapter)
        run_all(page)
        assert visible_notebook(page).locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        widget = visible_notebook(page).locator(".jp-CodeCell", has=page.locator(".noUi-handle")).first
        figure = widget.locator(".jp-OutputArea img").first
        figure.wait_for(timeout=MINUTE)
        before = figure.get_attribute("src")
        handle = widget.locator(".noUi-handle").first
        handle.focus()
        for _ in range(3):
            handle.press("ArrowRight")
        page.wait_for_function(
            """before => {
                const cell = [...document.querySelectorAll('.jp-CodeCell')].find(c => c.querySelector('.noUi-handle'));
                const image = cell.querySelector('.jp-OutputArea img');
                return image && image.complete && image.naturalWidth && image.src !== before;
            }""",
            arg=before,
            timeout=MINUTE,
        )
        assert unexpected(troubles) == []


def test_exercise_answers_a_learner(tab, lab):
    from course_lib.checks.instance.msdnet import exit_shares

    with tab() as (page, troubles):
        open_notebook(page, lab, EXERCISE)
        run_all(page)
        assert "not attempted" in outputs(page)
        assert lab.progress() == 0

        retype(page, "def exit_shares", WRONG)
        run_all(page)
        seen = outputs(page)
        assert "not yet" in seen
        assert " ".join(exit_shares.diagnoses["unnormalised"].split()) in seen
        assert lab.solved() == []

        retype(page, "def exit_shares", RIGHT)
        run_all(page)
        seen = outputs(page)
        assert "correct" in seen
        assert " ".join(exit_shares.shows.split()) in seen
        assert lab.solved() == ["instance/msdnet/exit_shares"]
        assert lab.progress() == 1
        assert unexpected(troubles) == []
