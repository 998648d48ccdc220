"""Every page of the built book in a real browser."""

from pathlib import Path

import pytest
from sphinx_external_toc.parsing import parse_toc_yaml

PAGES = sorted(parse_toc_yaml(Path(__file__).parents[2] / "book/_toc.yml"))

MATHS_IS_DONE = "async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }"

UNRENDERED = """() => {
  const article = document.querySelector('article');
  const bare = [...article.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'));
  const wrong = [...article.querySelectorAll('mjx-merror, [data-mjx-error], merror')];
  return [...bare, ...wrong].map(e => e.textContent.slice(0, 80));
}"""

BAD_IMAGES = """() => [...document.querySelectorAll('article img')]
  .filter(i => !i.complete || !i.naturalWidth || !i.naturalHeight || !(i.alt || '').trim())
  .map(i => `${i.src.slice(0, 120)} alt=${i.alt}`)"""

EMPTY_OUTPUTS = """() => [...document.querySelectorAll('article .cell_output .output, article .cell_output')]
  .filter(e => !e.textContent.trim() && !e.querySelector('img, svg, canvas, video, table'))
  .map(e => e.outerHTML.slice(0, 200))"""

# Everything that makes a page wider than the window, except what scrolls in a box of its own.
TOO_WIDE = """() => {
  const limit = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth <= limit) return [];
  const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > limit + 1);
  const shown = wide.slice(0, 8).map(e => e.outerHTML.slice(0, 120));
  return [`page is ${document.scrollingElement.scrollWidth} wide`, ...shown];
}"""

# Text whose colour is too close to what lies behind it (WCAG 2: 4.5 to 1; 3 to 1 for large text).
PALE_TEXT = """() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3] > 250) return c;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const text = 'p, li, td, th, dt, dd, h1, h2, h3, a, summary, pre, figcaption';
  for (const e of document.querySelectorAll(`article :is(${text})`)) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const [a, b] = [luminance(rgba(style.color)), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < wanted) found.push(`${ratio.toFixed(1)}: ${e.outerHTML.slice(0, 120)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("page_name", PAGES)
def test_page_is_sound(tab, book, page_name):
    with tab() as (page, troubles):
        page.goto(f"{book}/{page_name}.html")
        page.evaluate(MATHS_IS_DONE)
        assert page.locator("article h1").first.inner_text().strip()
        assert page.evaluate(UNRENDERED) == []
        assert page.evaluate(BAD_IMAGES) == []
        assert page.evaluate(EMPTY_OUTPUTS) == []
        assert troubles == []


@pytest.mark.parametrize("page_name", PAGES)
def test_page_on_a_phone_in_the_dark(tab, book, page_name):
    with tab(width=390, dark=True) as (page, troubles):
        page.goto(f"{book}/{page_name}.html")
        page.evaluate(MATHS_IS_DONE)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate(TOO_WIDE) == []
        assert page.evaluate(PALE_TEXT) == []
        assert troubles == []


@pytest.mark.parametrize("page_name", [name for name in PAGES if name.startswith("notebooks/") or "how_to_use" in name])
def test_folded_answers_open_on_click(tab, book, page_name):
    with tab() as (page, _):
        page.goto(f"{book}/{page_name}.html")
        folds = page.locator("article details, article .admonition.dropdown")
        if page_name != "notebooks/start/paths":
            assert folds.count() > 0
        for fold in folds.all():
            heading = fold.locator(":scope > summary, :scope > .admonition-title").first
            content = fold.locator(":scope > :not(summary, .admonition-title, button)").first
            assert not content.is_visible()
            heading.click()
            assert content.is_visible()


def test_search_answers(tab, book):
    with tab() as (page, troubles):
        page.goto(f"{book}/search.html?q=calibration")
        page.locator("#search-results li a").first.wait_for()
        assert page.locator("#search-results a[href*='book/glossary.html']").count() > 0
        assert troubles == []


def test_search_starts_from_any_page(tab, book):
    with tab() as (page, _):
        page.goto(f"{book}/book/notation.html")
        page.keyboard.press("Control+k")
        page.locator("input[name='q']:visible").first.fill("roofline")
        page.keyboard.press("Enter")
        page.locator("#search-results li a").first.wait_for()
        assert "search.html" in page.url


def test_menu_reaches_every_page(tab, book):
    with tab() as (page, troubles):
        page.goto(f"{book}/book/intro.html")
        menu = page.locator("nav.bd-links a.reference")
        addresses = {address.split("#")[0] for address in menu.evaluate_all("links => links.map(a => a.href)")}
        wanted = {f"{book}/{name}.html" for name in PAGES if name != "book/intro"}
        assert wanted - addresses == set()
        for name in (name for name in PAGES if name.startswith("notebooks/")):
            page.goto(f"{book}/book/intro.html")
            page.locator(f"nav.bd-links a[href$='{name}.html']").click()
            page.wait_for_url(f"**/{name}.html")
            assert page.locator("article h1").first.is_visible()
        assert troubles == []


def test_pages_open_from_disk(tab):
    html = Path(__file__).parents[2] / "book/_out/_build/html"
    if not html.is_dir():
        pytest.skip("the book is not built: run `make book`")
    with tab() as (page, troubles):
        page.goto((html / "book/notation.html").as_uri())
        page.evaluate(MATHS_IS_DONE)
        assert page.evaluate(UNRENDERED) == []
        assert page.locator("article mjx-container").count() > 0
        assert troubles == []
