"""The raters' page in a real headless Chromium, served by the real recipe in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the annotation page requires pip install -e '.[annotate]'")
pytest.importorskip("playwright", reason="browser tests require pip install -e '.[dev]'")

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.data_builders.annotation.attacks import ATTACKS, AWAY

ROOT = Path(__file__).parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: make system-packages")

expect.set_options(timeout=30_000)  # the machine may be busy

SCREENSHOT = os.environ.get("SCREENSHOT")
"""Where `-k picture` keeps the page's picture: SCREENSHOT=docs/annotation.png."""


class Rating:
    """`recipes/annotate.py` in a process of its own; it may be killed and started again."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.database = folder / "ratings.sqlite"
        self.config = folder / "annotate.yaml"
        server = {"port": self.port} | config.get("server", {})
        self.config.write_text(json.dumps(config | {"database": str(self.database), "server": server}))
        self.log = folder / "log.txt"
        self.address = ""

    def start(self) -> Rating:
        command = [sys.executable, "recipes/annotate.py", str(self.config)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"annotation page +(\S+)", line):
                self.address = found[1]
                return self
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def rows(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.database) as db:
            return db.execute(query).fetchall()

    def said(self) -> list[tuple]:
        """(rater, question, grade of left over right) of each judgement that holds, in the order of saying."""
        return self.rows(
            "SELECT rater, name, CASE first_is_left WHEN 1 THEN grade ELSE -grade END FROM judgement "
            "JOIN turn ON turn.id = judgement.turn JOIN task ON task.id = turn.task "
            "WHERE judgement.withdrawn IS NULL ORDER BY place"
        )


def pairs(folder: Path, *records: dict[str, Any]) -> dict[str, Any]:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"pairs": [str(path)]}


def plain(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"q{number}", "prompt": f"Question {number}?", "responses": [f"one {number}", f"two {number}"]}
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context()
    found.set_default_timeout(15_000)
    yield found
    found.close()


@pytest.fixture
def rating(tmp_path: Path) -> Iterator[Callable[..., Rating]]:
    started: list[Rating] = []

    def make(tasks: dict[str, Any], **config: Any) -> Rating:
        started.append(Rating(tmp_path, {"tasks": tasks} | config))
        return started[-1].start()

    yield make
    for one in started:
        one.kill()


def enter(context: BrowserContext, rating: Rating, name: str) -> Page:
    """A page on which a rater has typed a name, and sees the first thing there is."""
    page = context.new_page()
    page.goto(rating.address)
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("judged")
    return page


def judge(page: Page, key: str) -> None:
    """Give a grade by its key, and wait until the page says that it is kept."""
    question = page.locator("#dialog").inner_text()
    page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text("Saved.")
    expect(page.locator("#dialog")).not_to_have_text(question, use_inner_text=True)


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]) -> None:
    page = enter(context, running := rating(pairs(tmp_path, *plain(9))), "ann")
    for number in range(9):
        expect(page.locator("#dialog .text")).to_have_text(f"Question {number}?")
        expect(page.locator("#submit")).to_be_disabled()
        judge(page, str(number + 1))
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#progress")).to_have_text("9 judged · all raters: 9 of 9")
    assert running.said() == [("ann", f"q{number}", 4 - number) for number in range(9)]
    exported = tmp_path / "ratings.jsonl"
    command = [sys.executable, "recipes/annotate.py", str(running.config), f"export={exported}"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)  # the page is running
    assert len(exported.read_text().splitlines()) == 9


@pytest.mark.slow
def test_tab_walks_the_page_from_top_to_bottom(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    page = enter(context, rating(pairs(tmp_path, *plain(2))), "ann")
    judge(page, "1")
    page.keyboard.press("9")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.locator("h1").click()  # from where Tab begins at the top
    walked = []
    for _ in range(7):
        page.keyboard.press("Tab")
        walked.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert walked == ["who", "undo", "plain", "right is significantly better", "edited", "edit", "submit"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#scale input:checked")).to_have_attribute("aria-label", "right is better")
    expect(page.locator("#right")).to_have_class("better")


@pytest.mark.slow
def test_an_edit_is_kept_and_undo_brings_it_back(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    page = enter(context, running := rating(pairs(tmp_path, *plain(2))), "ann")
    better = page.locator("#right .text").inner_text()
    page.keyboard.press("8")
    page.keyboard.press("e")
    expect(page.locator("#edited")).to_have_value(better)
    page.keyboard.press("Control+A")
    page.keyboard.type("Edited, 1 u e n 5: keys are letters here.\nAnd a second line.")
    page.reload()
    expect(page.locator("#edited")).to_have_value("Edited, 1 u e n 5: keys are letters here.\nAnd a second line.")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text("Saved.")
    page.keyboard.press("u")
    expect(page.locator("#dialog .text")).to_have_text("Question 0?")
    expect(page.locator("#edited")).to_have_value("Edited, 1 u e n 5: keys are letters here.\nAnd a second line.")
    expect(page.locator("#scale input:checked")).to_have_attribute("aria-label", "right is better")
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" Done.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#dialog .text")).to_have_text("Question 1?")
    assert running.said() == [("ann", "q0", -3)]
    kept = running.rows("SELECT edited, withdrawn IS NULL FROM judgement ORDER BY place")
    texts = [(json.loads(edited)[0]["content"].split("\n")[1], holds) for edited, holds in kept]
    assert texts == [("And a second line.", 0), ("And a second line. Done.", 1)]


@pytest.mark.slow
def test_what_models_and_raters_write_stays_text(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    bad = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'><b>bold</b> </textarea> &lt;"
    record = {"prompt": f"prompt {bad}", "responses": [f"one {bad}", f"two {bad}"], "models": [bad, "b"]}
    running = rating(pairs(tmp_path, record))
    page = enter(context, running, "<i>ann</i>")
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    expect(page.locator("#dialog .text")).to_have_text(f"prompt {bad}")
    assert {page.locator(f"#{side} .text").inner_text() for side in ("left", "right")} == {f"one {bad}", f"two {bad}"}
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.type(f"{bad} mine")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#done")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    expect(page.locator("#edited")).to_be_visible()
    expect(page.locator("#who")).to_have_text("<i>ann</i>")
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main b, main i, main script").count() == 0
    assert broken == []
    assert running.rows("SELECT DISTINCT rater FROM assignment") == [("<i>ann</i>",)]


def traces(page: Page) -> tuple[list[str], list[str]]:
    """Two lists that grow: addresses that the page asks for, and errors of its scripts."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    return asked, errors


def provoke(page: Page) -> None:
    """Click on everything that was made of a text, and give what loads or starts late some time."""
    page.evaluate("document.querySelectorAll('.rich *').forEach((found) => found.click?.())")
    page.wait_for_timeout(300)


@pytest.mark.slow
def test_attacks_in_formatted_texts_run_nothing_and_fetch_nothing(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    """The same texts act in a page without the sanitizer and the policy, so that their silence says something."""
    unsafe = context.new_page()
    context.route(f"{AWAY}/**", lambda route: route.abort())
    asked, _ = traces(unsafe)
    for attack in ATTACKS[:8]:
        unsafe.set_content(f"<div class=rich>{attack}</div>")
    provoke(unsafe)
    assert any(url.startswith(AWAY) for url in asked)
    unsafe.set_content("<div class=rich><img src=x onerror=window.broken=4></div>")
    unsafe.wait_for_function("window.broken === 4")
    unsafe.close()

    dialog = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": text} for place, text in enumerate(ATTACKS)
    ]
    dialog.append({"role": "user", "content": "**Well?** $x^2$"})
    responses = ["\n\n".join(ATTACKS[:30]), "\n\n".join(reversed(ATTACKS[30:]))]
    running = rating(pairs(tmp_path, {"prompt": dialog, "responses": responses, "models": ["a", "b"]}))
    page = context.new_page()
    asked, errors = traces(page)
    page.goto(f"{running.address}?rater=ann")
    expect(page.locator("#dialog .rich strong")).to_have_text("Well?")
    expect(page.locator("#dialog math msup")).to_have_count(1)
    assert page.locator("#dialog .rich").count() == len(dialog), "all of them are formatted"
    provoke(page)
    assert page.evaluate("window.broken") is None
    assert errors == []
    assert [url for url in asked if not url.startswith((running.address, "data:,"))] == []
    acting = "script, img, svg, a, iframe, object, embed, form, input, button, video, audio, style, link, meta, base"
    assert page.locator(", ".join(f".rich {name}" for name in acting.split(", "))).count() == 0
    assert page.locator(".rich [style], .rich [class], .rich [id], .rich [href]").count() == 0
    # Were the sanitizer to miss something, the page's policy would still run no script of it.
    page.evaluate("(found) => document.querySelector('.rich').innerHTML = found", "".join(ATTACKS[:22]))
    provoke(page)
    assert page.evaluate("window.broken") is None


@pytest.mark.slow
def test_a_text_can_be_shown_as_it_is_written(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    record = {"prompt": "**Why?**", "responses": ["`a` $x$", "b"], "models": ["a", "b"]}
    page = enter(context, rating(pairs(tmp_path, record)), "ann")
    expect(page.locator("#dialog strong")).to_have_text("Why?")
    page.keyboard.press("t")
    expect(page.locator("#dialog .text")).to_have_text("**Why?**")
    assert {page.inner_text(f"#{side} .text") for side in ("left", "right")} == {"`a` $x$", "b"}
    page.reload()
    expect(page.locator("#plain")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#dialog .text")).to_have_text("**Why?**")
    page.locator("#plain").click()
    expect(page.locator("#dialog strong")).to_have_text("Why?")


@pytest.mark.slow
@pytest.mark.parametrize("raters_per_pair", [1, 2])
def test_two_raters_at_once_are_never_mixed(
    tmp_path: Path, browser: Browser, rating: Callable[..., Rating], raters_per_pair: int
) -> None:
    running = rating(pairs(tmp_path, *plain(6)), rating={"raters_per_pair": raters_per_pair})
    contexts = [browser.new_context() for _ in range(2)]
    ann, bob = (enter(context, running, name) for context, name in zip(contexts, ("ann", "bob"), strict=True))
    for _ in range(6 * raters_per_pair // 2):
        ann.keyboard.press("2")
        judge(bob, "7")
        expect(ann.locator("#scale input:checked")).to_have_attribute("aria-label", "left is better")
        judge(ann, "2")
    for page in (ann, bob):
        expect(page.locator("#done")).to_be_visible()
    said = running.said()
    assert {(rater, grade) for rater, _, grade in said} == {("ann", 3), ("bob", -2)}
    seen = [{name for rater, name, _ in said if rater == who} for who in ("ann", "bob")]
    assert (seen[0] | seen[1]) == {f"q{number}" for number in range(6)}
    assert (seen[0] & seen[1]) == (set() if raters_per_pair == 1 else seen[0])
    assert len(said) == 6 * raters_per_pair
    for context in contexts:
        context.close()


@pytest.mark.slow
def test_one_rater_in_two_tabs_judges_a_pair_once(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    running = rating(pairs(tmp_path, *plain(3)))
    first, second = (enter(context, running, "ann") for _ in range(2))
    expect(second.locator("#dialog .text")).to_have_text("Question 0?")
    judge(first, "1")
    second.keyboard.press("9")
    second.keyboard.press("Enter")
    expect(second.locator("#message")).to_have_text(
        "judgement: was already given in another tab. Undo it there to change it."
    )
    expect(second.locator("#dialog .text")).to_have_text("Question 1?")
    assert running.said() == [("ann", "q0", 4)]


@pytest.mark.slow
def test_killed_while_rating_nothing_is_lost_and_the_page_goes_on(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    page = enter(context, running := rating(pairs(tmp_path, *plain(4))), "ann")
    judge(page, "1")
    judge(page, "2")
    running.kill()
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text("Not saved yet: the server does not answer. Retrying.")
    assert [grade for _, _, grade in running.said()] == [4, 3], "what was saved is there, what was not is not"
    running.start()
    expect(page.locator("#message")).to_have_text("Saved.")
    judge(page, "9")
    assert [grade for _, _, grade in running.said()] == [4, 3, 2, -4]
    assert running.rows("PRAGMA integrity_check") == [("ok",)]
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(15) == 0, "Ctrl-C is how a person ends it"
    assert "Traceback" not in running.log.read_text()


@pytest.mark.slow
def test_a_token_in_the_link_opens_the_page_and_leaves_the_address(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    running = rating(pairs(tmp_path, *plain(1)), server={"host": "0.0.0.0"})
    token = running.address.partition("?token=")[2]
    assert len(token) >= 32
    page = context.new_page()
    plain_address = f"http://127.0.0.1:{running.port}/"
    refused = page.goto(plain_address)
    assert refused is not None
    assert (refused.status, page.inner_text("body")) == (
        401,
        "Open the link with ?token=... that you received from the operator.",
    )
    running.address = f"{plain_address}?token={token}"
    page = enter(context, running, "ann")
    assert page.url == f"{plain_address}?rater=ann"
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    expect(page.locator("#done")).to_be_visible()
    assert running.said() == [("ann", "q0", 0)]
    assert token not in running.log.read_text()


def ending_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with a likely end of turn: answers that reach the length limit are never shown."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    # The other logits are near 0. This one is of size 3, with a sign that changes from token to token.
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] *= 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_dialog_goes_on_with_models_that_answer_and_refine(
    tmp_path: Path, tiny_checkpoint: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"id": f"p{number}", "prompt": f"Well, {number}?"}) + "\n" for number in (1, 2))
    )
    model = ending_checkpoint(tiny_checkpoint, tmp_path / "model")
    running = rating(
        {"prompts": [str(prompts)]},
        models={name: {"path": str(model)} for name in ("secret-one", "secret-two")},
        sampling={"max_completion_tokens": 200, "dtype": "float32"},
    )
    page = enter(context, running, "ann")
    expect(page.locator("#rating")).to_be_visible()
    left = page.evaluate("state.last_text.left")
    assert left != page.evaluate("state.last_text.right"), "two draws"
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.press("Tab")
    page.keyboard.type("shorter")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text("Rewritten. Edit it further, or submit.")
    assert page.input_value("#edited") != left
    page.keyboard.press("Control+A")
    page.keyboard.type("A good answer.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#go-on")).to_be_visible()
    page.keyboard.press("m")
    page.keyboard.type("And more?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#rating")).to_be_visible()
    expect(page.locator("#dialog .text")).to_have_text(["Well, 1?", "A good answer.", "And more?"])
    page.keyboard.press("6")
    page.keyboard.press("Enter")
    expect(page.locator("#go-on")).to_be_visible()
    page.keyboard.press("n")
    expect(page.locator("#rating")).to_be_visible()
    expect(page.locator("#dialog .text")).to_have_text("Well, 2?")
    expect(page.locator("#progress")).to_have_text("1 judged · all raters: 1 of 2 · 1 further turns")
    assert running.said() == [("ann", "p1", 4), ("ann", "p1", -1)]
    models = [set(json.loads(models)) for (models,) in running.rows("SELECT models FROM turn")]
    assert models == [{"secret-one", "secret-two"}] * 3
    assert "secret" not in page.content()


@pytest.mark.slow
def test_the_calls_of_an_answer_can_be_edited(
    tmp_path: Path, context: BrowserContext, rating: Callable[..., Rating]
) -> None:
    tools = [{"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {}}}]
    calling = [{"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"for": "x"}}]}]
    record = {"prompt": "Well?", "responses": [calling, "No."], "models": ["a", "b"], "tools": tools}
    running = rating(pairs(tmp_path, record))
    page = enter(context, running, "ann")
    left_calls = "look" in page.inner_text("#left")
    page.keyboard.press("1" if left_calls else "9")
    page.keyboard.press("e")
    expect(page.locator("#edited-calls")).to_have_value(
        '[\n {\n  "name": "look",\n  "arguments": {\n   "for": "x"\n  }\n }\n]'
    )
    page.locator("#edited-calls").fill('[{"name": "lok", "arguments": {}}]')
    page.locator("#submit").click()
    expect(page.locator("#message")).to_have_text("calls: name lok, which is not offered. Offered are: look.")
    page.reload()
    page.locator("#edited-calls").fill('[{"name": "look", "arguments": {"for": "y"}}]')
    page.locator("#submit").click()
    expect(page.locator("#done")).to_be_visible()
    [(edited,)] = running.rows("SELECT edited FROM judgement")
    assert json.loads(edited)[0]["tool_calls"] == [{"name": "look", "arguments": '{"for": "y"}'}]
    page.keyboard.press("u")
    expect(page.locator("#edited-calls")).to_have_value(re.compile('"for": "y"'))


PICTURED = {
    "id": "boiling",
    "prompt": "Why does water boil at a lower temperature on a mountain?",
    "responses": [
        "Water boils when its vapor pressure equals the pressure of the air around it. On a mountain there is less air "
        "above you, so the pressure is lower, and water reaches it at a lower temperature: about 90 °C at 3,000 m.\n\n"
        "That is why pasta takes longer up there, although the water boils sooner.",
        "It boils earlier because there is less oxygen on a mountain. The fire burns hotter in thin air, so the water "
        "needs less time to boil.",
    ],
    "models": ["a", "b"],
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_of_the_page_shows_all_of_it(
    tmp_path: Path, browser: Browser, rating: Callable[..., Rating], scheme: Any
) -> None:
    running = rating(pairs(tmp_path, *plain(6), PICTURED), rating={"seed": 3})
    with browser.new_context(viewport={"width": 1180, "height": 880}, color_scheme=scheme) as context:
        page = enter(context, running, "Ann")
        for _ in range(6):
            judge(page, "5")
        side = "left" if "vapor" in page.inner_text("#left") else "right"
        page.keyboard.press("2" if side == "left" else "8")
        page.keyboard.press("e")
        page.keyboard.press("Control+End")
        target = tmp_path / "page.png"
        page.screenshot(path=target)
        assert 20_000 < target.stat().st_size < 150_000
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nor on a telephone"
        if SCREENSHOT and scheme == "light":
            shutil.copyfile(target, ROOT / SCREENSHOT)
