"""The page to ask at in a real browser: by keyboard alone, on a phone, with text that would like to be a script."""

import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from answers_to_show import HOSTILE, LONG, PASSAGE, QUOTE, FakeAsker, evidence, many, several

from cellgap.report._answers_page import write_answers
from cellgap.report._ask_server import AskServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
QUESTION = "Does vorinostat induce apoptosis?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_api.sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


class Visit:
    """A page, what it asked the network for, and what it complained of."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | context))
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("console", lambda one: self.complaints.append(one.text))
        self.page.on("pageerror", lambda one: self.complaints.append(str(one)))
        self.page.on("dialog", lambda one: (self.complaints.append(f"dialog {one.message}"), one.dismiss()))
        self.page.goto(url)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def ask(self, question: str) -> None:
        self.page.fill("#question", question)
        self.page.focus("#question")
        self.press("Enter")
        self.page.wait_for_function(
            "t => document.activeElement.id === 'results-title' && document.activeElement.textContent === t",
            arg=question,
        )

    def focused(self, what: str = "id") -> str:
        return self.page.evaluate(f"document.activeElement.{what}")


@pytest.fixture(scope="module")
def asker() -> FakeAsker:
    return FakeAsker()


@pytest.fixture(scope="module")
def url(asker: FakeAsker) -> Iterator[str]:
    server = AskServer(asker)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def visit(browser, url) -> Iterator[Any]:
    made: list[Visit] = []

    def go(path: str = "", complains: bool = False, **context) -> Visit:
        made.append(Visit(browser, url + path, **context))
        made[-1].complains = complains
        return made[-1]

    yield go
    for one in made:
        one.context.close()
        assert one.complains or one.complaints == []
        assert all(asked.startswith((url, "data:,")) for asked in one.requests), one.requests


def test_asking_by_keyboard_alone(visit):
    one = visit()
    page = one.page
    assert one.focused() == "question", "one can type at once"
    page.keyboard.type(QUESTION)
    one.press("Enter")
    page.wait_for_selector(".card")
    assert page.locator(".card").count() == 4 and page.url.endswith("#q=Does%20vorinostat%20induce%20apoptosis%3F")
    assert one.focused() == "results-title" and one.focused("textContent") == QUESTION
    assert page.text_content("#live") == "4 answers, each under its own condition."
    assert page.get_attribute("#live", "aria-live") == "polite" and page.title().startswith(QUESTION)
    # From the heading, tabs lead through the table to the sources of the first card.
    for _ in range(12):
        one.press("Tab")
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", "one sees where one is"
        if one.focused("tagName") == "SUMMARY":
            break
    one.press("Enter")
    opened = page.locator("details.cite[open]")
    assert opened.count() == 1 and "1.34" in opened.inner_text() and "vorinostat at 1 uM" in opened.inner_text()
    one.press("Tab", "Enter")
    assert opened.count() == 2 and page.locator("details.cite[open] mark").inner_text() == QUOTE
    assert PASSAGE.text in opened.nth(1).locator("blockquote").inner_text()
    one.press("Escape")
    assert opened.count() == 1 and one.focused("tagName") == "SUMMARY", "the one in focus closes and keeps the focus"
    one.press("Shift+Tab", "Escape")
    assert opened.count() == 0


def test_the_rows_of_a_table_open_and_close_by_keyboard(visit):
    one = visit()
    one.ask("What of many genes?")
    page = one.page
    opened = page.locator("details.rows[open]")
    assert page.locator("details.cite").count() == 2, "twelve rows each"
    page.locator("details.rows summary").first.focus()
    one.press("Enter")
    assert opened.count() == 1 and opened.locator("tbody tr").count() == 12
    assert opened.locator("code").nth(5).get_attribute("title").startswith("l5, SHA-256 ")
    one.press("Tab")
    assert one.focused("getAttribute('role')") == "region", "a wide table can be scrolled by keyboard"
    assert one.focused("getAttribute('aria-label')") == "12 rows of screen, 1 of them changed since"
    one.press("Escape")
    assert opened.count() == 0 and one.focused("tagName") == "SUMMARY"


def test_hostile_text_stays_text(visit, asker):
    one = visit()
    one.ask(f"Why {HOSTILE}")
    page = one.page
    assert asker.asked[-1] == f"Why {HOSTILE}"
    assert page.text_content("#results-title") == f"Why {HOSTILE}"
    assert HOSTILE in page.locator(".card").nth(3).text_content() and HOSTILE in page.text_content(".notices")
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    # Were something inserted as HTML, the browser would refuse it.
    refused = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return '' } catch (e) { return e.name } })()"
    )
    assert refused == "TypeError"
    one.complaints.clear()


def test_answers_that_are_none_and_errors(visit):
    one = visit(complains=True)
    page = one.page
    one.press("Enter")
    assert (
        page.inner_text("#hint") == "Type a question first."
        and page.get_attribute("#question", "aria-invalid") == "true"
    )
    one.ask("nothing is known")
    assert "Not answered" in page.inner_text(".unanswered") and "No passage is about this" in page.text_content("#live")
    one.ask("a wrong setting")
    assert "k_max has to be 1 or more, not 0." in page.inner_text(".unanswered.failed")
    one.ask("broken inside")
    assert "the terminal of the server says what" in page.inner_text(".unanswered.failed")
    assert "secret" not in page.content()
    page.route("**/ask", lambda route: route.abort())
    one.ask("and without a server?")
    assert "Is cellgap ask serve still running" in page.inner_text(".unanswered.failed")
    page.unroute("**/ask")
    one.ask(QUESTION)
    assert page.locator(".card").count() == 4
    assert all("Failed to load resource" in text for text in one.complaints)


def test_bookmarks_history_and_examples(visit, asker):
    one = visit("#q=nothing%20yet")
    page = one.page
    page.wait_for_selector(".unanswered")
    assert page.input_value("#question") == "nothing yet"
    page.get_by_role("button", name=QUESTION).click()
    page.wait_for_selector(".card")
    asked = len(asker.asked)
    page.go_back()
    page.wait_for_selector(".unanswered")
    assert page.text_content("#results-title") == "nothing yet"
    buttons = page.locator("#asked-list button")
    assert buttons.all_text_contents() == [QUESTION, "nothing yet"]
    assert [buttons.nth(i).get_attribute("aria-current") for i in range(2)] == ["false", "true"]
    buttons.nth(0).click()
    page.wait_for_selector(".card")
    assert len(asker.asked) == asked, "what was answered in this visit is not asked again"
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0 and page.evaluate("document.cookie") == ""


def test_a_link_of_another_page_waits(visit, asker, url):
    one = visit()
    before = len(asker.asked)
    one.page.route(
        "http://elsewhere.test/",
        lambda route: route.fulfill(body=f"<a href='{url}#q=spend'>go</a>", content_type="text/html"),
    )
    one.page.goto("http://elsewhere.test/")
    one.page.click("a")
    one.page.wait_for_selector("#hint")
    assert one.page.input_value("#question") == "spend" and "Enter asks it" in one.page.inner_text("#hint")
    assert len(asker.asked) == before
    one.press("Enter")
    one.page.wait_for_selector(".card")
    assert asker.asked[-1] == "spend"
    one.requests[:] = [asked for asked in one.requests if "elsewhere" not in asked]


def test_a_new_question_overtakes_the_one_before(visit, asker):
    one = visit()
    page = one.page
    page.keyboard.type("slow")
    one.press("Enter")
    page.wait_for_selector("[aria-busy=true] .working")
    assert page.text_content("#live") == "Looking for evidence."
    page.fill("#question", "fast")
    one.press("Enter")
    asker.gate.set()
    page.wait_for_selector(".card")
    assert page.text_content("#results-title") == "fast" and page.is_hidden("#asked")
    assert page.locator("#asked-list button").all_text_contents() == ["fast"], "the slow one was given up"
    assert asker.asked[-2:] == ["slow", "fast"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(visit, scheme):
    one = visit(viewport={"width": 360, "height": 700}, color_scheme=scheme, reduced_motion="reduce")
    one.ask(f"What of {LONG}?")
    page = one.page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .away') && "
        "e.getBoundingClientRect().right > 360.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    # Words are told from what is behind them: at least 4.5 to 1 (WCAG 2.2, 1.4.3).
    for selector in (
        ".card .text",
        ".card .under",
        ".said",
        ".chip b",
        ".cite .meta dd",
        ".ask .hint",
        ".submit",
        *QUIET,
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


QUIET = (".remarks .note", ".cite .from", ".lines .id code", ".lines .changed")
CONTRAST = """selector => {
  const channels = color => {
    const pad = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    pad.fillStyle = color; pad.fillRect(0, 0, 1, 1);
    return [...pad.getImageData(0, 0, 1, 1).data];
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const element = document.querySelector(selector);
  let behind = element;
  while (channels(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const two = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(channels).map(light);
  return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
}"""


@pytest.mark.parametrize("made", [several, many])
def test_the_page_and_the_file_show_the_same(visit, tmp_path, made):
    one = visit()
    question = made().question
    one.ask(question)
    outline = """root => [...document.querySelector(root).querySelectorAll('*')].filter(e => e.tagName !== 'DIV')
      .map(e => e.tagName + '.' + e.className + '|' + (e.children.length ? '' : e.textContent))"""
    live = one.page.evaluate(outline, "#answers")
    path = write_answers(made(question), tmp_path / "page.html", evidence=evidence)
    two = Visit(one.context.browser, path.as_uri())
    filed = two.page.evaluate(outline, "main section")
    assert two.complaints == [] and two.requests == [path.as_uri()]
    two.context.close()
    assert len(live) > 100 and [re.sub(r"\s+", " ", line) for line in live] == [
        re.sub(r"\s+", " ", line) for line in filed
    ]
