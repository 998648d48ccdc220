"""A real browser for the tests in this folder, and a record of everything that goes wrong in it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOOPBACK = ("127.0.0.1", "localhost")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: `make install`")
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no Chromium on this machine: run .ci/system-packages, or install Chromium or Chrome")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()


def watch(page, troubles: list[str]) -> None:
    """Write down every error on the console, every request that failed and every one that leaves this machine."""

    def on_request(request):
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in LOOPBACK:
            troubles.append(f"asked the network for {request.url}")

    def on_console(message):
        if message.type == "error":
            troubles.append(f"console: {message.text} ({message.location.get('url', '')})")

    def on_failure(request):
        if request.failure != "net::ERR_ABORTED":  # the page was left while something was loading
            troubles.append(f"failed: {request.url}: {request.failure}")

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: troubles.append(f"script: {error}"))
    page.on("requestfailed", on_failure)
    page.on("response", lambda r: troubles.append(f"{r.status}: {r.url}") if r.status >= 400 else None)


@pytest.fixture
def tab(browser):
    """`with tab(width=390, dark=True) as (page, troubles)`: a fresh tab that remembers nothing."""

    @contextmanager
    def opened(*, width: int = 1280, dark: bool = False) -> Iterator[tuple]:
        context = browser.new_context(viewport={"width": width, "height": 900})
        theme = "dark" if dark else "light"
        context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        troubles: list[str] = []
        page = context.new_page()
        watch(page, troubles)
        try:
            yield page, troubles
        finally:
            context.close()

    return opened


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="session")
def book():
    """The address of the built book, served on loopback (search needs http)."""
    html = ROOT / "book/_out/_build/html"
    if not html.is_dir():
        pytest.skip("the book is not built: run `make book`")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
