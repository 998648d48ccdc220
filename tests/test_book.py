"""The book without a browser: its menu, its links, and that a page needs nothing from a network."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[1]
HTML = ROOT / "book/_out/_build/html"
PAGES = sorted(parse_toc_yaml(ROOT / "book/_toc.yml"))
START_PAGE = "notebooks/start/paths"
MARKDOWN_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def soup():
    """The parsed page of the built book, by its name in the table of contents."""
    if not HTML.is_dir():
        pytest.skip("the book is not built: run `make book`")
    return lambda page: BeautifulSoup((HTML / f"{page}.html").read_text(), "html.parser")


def notebooks(room: str) -> set[str]:
    found = (ROOT / room).rglob("*.ipynb")
    return {str(path.relative_to(ROOT).with_suffix("")) for path in found if ".ipynb_checkpoints" not in path.parts}


def start_page_text() -> str:
    cells = json.loads((ROOT / f"{START_PAGE}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def local_links(markdown: str, base: Path) -> list[Path]:
    """The files a text links to, addresses and anchors left out."""
    targets = [unquote(urlsplit(link).path) for link in MARKDOWN_LINK.findall(markdown) if not urlsplit(link).scheme]
    return [(base / target).resolve() for target in targets if target]


def test_menu_lists_every_exercise_under_its_chapter():
    """That it lists every chapter is a rule of test_rooms.py."""
    site = parse_toc_yaml(ROOT / "book/_toc.yml")
    listed = {page: list(site[page].child_files()) for page in site if page.startswith("notebooks/")}
    below = {page.replace("notebooks/", "exercises/"): files for page, files in listed.items() if files}
    assert below == {page: [page] for page in notebooks("exercises")}


def test_links_of_the_map_lead_to_files():
    links = local_links(start_page_text(), ROOT / Path(START_PAGE).parent)
    assert len(links) >= 10
    assert [str(path) for path in links if not path.is_file()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_front_page_lead_to_files(name):
    links = local_links((ROOT / name).read_text(), ROOT)
    assert [str(path) for path in links if not path.exists()] == []


def test_glossary_is_a_glossary():
    terms = re.findall(r"^(\S.*)\n  \S", (ROOT / "book/glossary.md").read_text(), re.M)
    assert len(terms) >= 35
    assert terms == sorted(terms, key=str.casefold)
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize("page", PAGES)
def test_page_loads_nothing_from_a_network(soup, page):
    loaded = [
        (tag.name, address)
        for tag in soup(page).find_all(["script", "link", "img", "iframe", "source", "video", "audio", "object"])
        for attribute in ("src", "href", "srcset", "data", "poster")
        if (address := tag.get(attribute))
    ]
    assert [(name, address) for name, address in loaded if urlsplit(address).netloc] == []
    inline = [tag.get_text() for tag in soup(page).find_all("script")]
    assert [text[:200] for text in inline if re.search(r"https?://", text)] == []


def test_style_sheets_and_scripts_load_nothing_from_a_network(soup):
    soup("book/intro")
    loading = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^"')\s]+""")
    sheets = list(HTML.rglob("*.css"))
    assert sheets
    assert {path.name: found for path in sheets if (found := loading.findall(path.read_text(errors="ignore")))} == {}


@pytest.mark.parametrize("page", PAGES)
def test_page_has_only_pictures_that_exist_and_are_described(soup, page):
    images = soup(page).find("article").find_all("img")
    assert [image["src"] for image in images if not (image.get("alt") or "").strip()] == []
    embedded = [image["src"] for image in images if not image["src"].startswith("data:")]
    assert [src for src in embedded if not (HTML / page).parent.joinpath(unquote(src)).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_links_to_pages_and_places_that_exist(soup, page):
    document = soup(page)
    names = {tag.get("id") for tag in document.find_all(id=True)}
    broken = []
    for anchor in document.find("article").find_all("a", href=True):
        address = urlsplit(anchor["href"])
        if address.scheme or address.netloc:
            continue
        if not address.path:
            if address.fragment and unquote(address.fragment) not in names:
                broken.append(anchor["href"])
        elif not (HTML / page).parent.joinpath(unquote(address.path)).resolve().is_file():
            broken.append(anchor["href"])
    assert broken == []


def test_every_link_of_the_map_is_followed_in_the_book(soup):
    """Each linked leaf leads to the built chapter, not to a file to download."""
    anchors = soup(START_PAGE).find("article").select("td a[href]")
    targets = [(HTML / START_PAGE).parent.joinpath(urlsplit(a["href"]).path).resolve() for a in anchors]
    built = {(HTML / f"{page}.html").resolve() for page in PAGES}
    assert len(targets) >= 10
    assert [str(target) for target in targets if target not in built] == []
