"""The page in a real browser: what a reader sees, by pointer and by keyboard, and that nothing of a text runs."""

import os
import shutil
from pathlib import Path

import pytest
from support.pages import HOSTILE, Every, details, explanation, report, training

from evalgpt.views.page.build import build_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]

WIDE, PHONE = (1280, 900), (390, 844)
PROSE = (
    "# One\n\nA notice in the post office asked for a steady person, not tall, to carry an umbrella for a fortnight.\n"
    "\n# Two\n\nI held it until half past six, and no one had ever before offered me money for being short.\n"
) * 6


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # As root, as in CI, Chromium has no sandbox; what it opens here is this test's own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name and path of each page: of hostile text, of one report with details, of two models."""
    folder = tmp_path_factory.mktemp("pages")
    harmful, one, two = (
        report(Every(1)),
        report(Every(4), texts=(PROSE,)),
        report(Every(4), Every(3, 1), texts=(PROSE,)),
    )
    made = {
        "hostile": build_page([harmful], [details(harmful)]),
        "one": build_page([one], [details(one)]),
        "two": build_page([two]),
        "walk": build_page([], explanations=[explanation(), explanation(40, texts=2, logits=False)]),
        "training": build_page([], trainings=[training()]),
        "lean": build_page([report(Every(4), texts=(PROSE,), tokens=False)]),
    }
    for name, data in made.items():
        (folder / f"{name}.html").write_bytes(data)
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def open_page(browser, pages):
    """Open a page; at the end of the test it has asked for nothing and complained of nothing."""
    told, asked, contexts = [], [], []

    def open_(name, size=WIDE, scheme="light", **options):
        width, height = size
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.blockedURI))"
        )
        page.goto(pages[name].as_uri())
        return page

    yield open_
    violations = [v for context in contexts for page in context.pages for v in page.evaluate("violations")]
    for context in contexts:
        context.close()
    assert told == []
    assert violations == []
    assert set(asked) <= {path.as_uri() for path in pages.values()}
    assert len(asked) == len(contexts)


def shoot(page, name):
    folder = os.environ.get("EVALGPT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def panel(page):
    return page.locator(".values").first.inner_text()


def test_pointing_at_a_token_shows_its_values(open_page):
    page = open_page("one")
    cell = page.locator(".chunk > i").nth(12)
    cell.scroll_into_view_if_needed()
    cell.hover()
    shown = panel(page)
    for words in ("loss", "surprisal", "probability", "rank", "entropy", "predicted from", "token id", "likeliest"):
        assert words in shown
    assert page.locator(".values .token").first.inner_text() == cell.inner_text().replace(" ", "␣").replace("\n", "")
    values = page.evaluate("JSON.parse(document.getElementById('v-e1').textContent)")
    assert f"{values['nll'][12]:.4f} nats" in shown
    assert str(values["id"][12]) in shown
    assert "<b>one</b>" in shown
    cell.click()
    page.locator(".chunk > i").nth(3).hover()
    assert panel(page) == shown  # held


def test_the_table_and_the_tokens_are_reached_by_keyboard(open_page):
    page = open_page("one")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-labelledby')"))
        if page.evaluate("document.activeElement.classList.contains('text')"):
            break
    else:
        pytest.fail("the text is not reached by Tab")
    assert "all" in reached
    assert page.evaluate("document.activeElement.getAttribute('role')") == "application"
    index = "[...document.querySelectorAll('.chunk > i')].findIndex(e => e.classList.contains('now'))"
    assert page.evaluate(index) == 0
    seen = [panel(page)]
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", None), ("Home", 0)):
        page.keyboard.press(key)
        last = page.locator(".chunk > i").count() - 1
        assert page.evaluate(index) == (last if expected is None else expected)
        seen.append(panel(page))
    assert len(set(seen)) == 4
    top = page.locator("i.now").bounding_box()["y"]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(index) > 0
    assert page.locator("i.now").bounding_box()["y"] > top
    page.keyboard.press("ArrowUp")
    assert page.evaluate(index) == 0
    page.keyboard.press("n")
    assert "u" in page.locator("i.now").get_attribute("class").split()
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.classList.contains('text')")


def test_hostile_text_is_text(open_page):
    page = open_page("hostile")
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, form, object, link, base").count() == 0
    drawn = "".join(page.locator(".chunk").all_text_contents())
    assert HOSTILE.split("\n")[0] in drawn
    for visible in (
        "␀",
        "⟨U+202E⟩",
        "⟨U+200F⟩",
        "⟨U+2028⟩",
        "{{ 7 * 7 }}",
        "👩\u200d👩\u200d👧",
        "Another <b>heading</b>",
    ):
        assert visible in drawn
    family = page.locator(".chunk > i", has_text="👩").first
    family.scroll_into_view_if_needed()
    family.hover()
    assert "18 tokens share this" in panel(page)
    assert page.locator(".values").first.inner_text().count("bytes") == 18
    assert page.evaluate("getComputedStyle(document.querySelector('.chunk > i')).unicodeBidi") == "isolate"
    for number in range(0, page.locator(".chunk > i").count(), 25):
        page.evaluate(
            "n => document.querySelectorAll('.chunk > i')[n].dispatchEvent(new Event('mouseover', {bubbles: true}))",
            number,
        )
    assert page.evaluate("window.harmed") is None
    assert page.locator("img").count() == 0
    shoot(page, "hostile")


def test_two_models_show_which_is_better_where(open_page):
    page = open_page("two")
    assert page.locator("#d1 h2").inner_text() == "every-3-1 against every-4-0"
    values = page.evaluate("JSON.parse(document.getElementById('v-d1').textContent)")
    for want, best in ((lambda gap: gap < -1, "every-3-1"), (lambda gap: gap > 1, "every-4-0")):
        number = next(i for i, (a, b) in enumerate(zip(values["a"], values["b"], strict=True)) if want(b - a))
        cell = page.locator("#d1 .chunk > i").nth(number)
        cell.scroll_into_view_if_needed()
        cell.hover()
        lines = panel(page).split("\n")
        assert lines[-1] == best
        sign = "−" if best == "every-3-1" else "+"
        assert any(line.startswith(sign) and line.endswith("nats") for line in lines)
    page.locator("#d1 ol.passages a").first.click()
    target = page.locator("#d1 ol.passages a").first.get_attribute("data-cell")
    assert page.evaluate("document.querySelector('i.now').id") == target
    assert page.evaluate("document.activeElement.id") == "d1-text"


@pytest.mark.parametrize("name", ["hostile", "one", "two", "walk", "training", "lean"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_page_fits(open_page, name, scheme, size):
    page = open_page(name, size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(25, 24, 23)") == (scheme == "dark")
    kind = f"{name}-{scheme}-{size[0]}"
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = false")
    shoot(page, f"{kind}-top")
    for part in (".map", ".charts", ".pairs"):
        if page.locator(part).count():
            page.evaluate("part => document.querySelector(part).scrollIntoView()", part)
            if part == ".map":
                page.locator(".chunk > i").nth(9).hover()
            shoot(page, f"{kind}-{part[1:]}")


def test_steps_stand_in_columns_and_their_text_is_text(open_page):
    page = open_page("walk")
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, form, object, link, base").count() == 0
    lefts = "[...document.querySelectorAll('#w1 .step .strip')].map(s => [...s.children].map(c => c.offsetLeft))"
    columns = page.evaluate(lefts)
    assert len(columns) == 4
    assert len(columns[0]) == 5
    assert all(column == columns[0] for column in columns)
    tokens = page.locator("#w1 .strip.tokens .token").all_text_contents()
    assert tokens[:5] == ["<script>window.harmed␣=␣1</script>", "⟨U+202E⟩desrever", "␣", "␀↵", "שלום"]
    full, part = (page.locator("#w1 .positions .bar path.fill-a").nth(n).bounding_box()["width"] for n in (0, 1))
    whole = page.locator("#w1 .positions .bar").first.bounding_box()["width"]
    assert full == pytest.approx(whole / 2, abs=1)
    assert 0 < part < 3
    page.locator("#w1 summary").click()
    assert page.locator("#w1 details tbody tr").count() == 5


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_number_of_a_step_is_cut(open_page, size):
    page = open_page("walk", size)
    figures = "[...document.querySelectorAll('.strip .figure')]"
    assert page.evaluate(f"{figures}.filter(f => f.scrollWidth > f.clientWidth).map(f => f.innerText)") == []
    assert page.evaluate(f"Math.max(...{figures}.map(f => f.offsetHeight))") < 32


def test_a_training_run_is_drawn_with_marks(open_page):
    page = open_page("training")
    assert page.evaluate("window.harmed") is None
    assert "⟨U+202E⟩" in page.locator(".samples").inner_text()
    caps = page.locator("#t1 .chart").first.locator("path[stroke-linecap]")
    drawn = [
        (caps.nth(n).get_attribute("class"), caps.nth(n).get_attribute("d").count("M")) for n in range(caps.count())
    ]
    assert ("stroke-a", 5) in drawn
    assert ("stroke-b", 5) in drawn


def test_without_scripts_the_text_and_the_numbers_are_there(open_page, browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert "steady person" in page.locator(".text").inner_text()
    assert "need JavaScript" in page.locator("noscript").first.inner_text()
    context.close()


def test_it_prints(open_page, tmp_path):
    page = open_page("two")
    page.emulate_media(media="print")
    assert not page.locator(".values").first.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.chunk')).contentVisibility") == "visible"
    page.pdf(path=str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
