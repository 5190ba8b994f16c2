"""The page of a report: its texts, what keeps text of models from acting, and the page in a real headless Chromium."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from align.rounds.ledger import Ledger
from eval.reports.page import Live, page
from eval.reports.quality import MOST_REASONS, QualityCard, funnel
from eval.reports.rounds import Report, read_report
from eval.reports.text import markdown

VOID = ("meta", "input")


class Page(HTMLParser):
    """Every tag, attribute and text of a page, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are closed in order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def policy(self) -> str:
        return next(value or "" for name, value in self.attributes if value and value.startswith("default-src"))

    @property
    def plots(self) -> dict[str, list[dict[str, Any]]]:
        """The specifications of each section."""
        return json.loads(self.scripts[0])["plots"]


@pytest.fixture(scope="module")
def parsed(shown: str) -> Page:
    return Page(shown)


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return spec["data"]["values"]


def test_the_page_is_whole_and_nothing_that_a_model_wrote_is_markup(parsed: Page, evil: str) -> None:
    assert parsed.open == []
    assert not {"img", "link", "iframe", "object", "base"} & set(parsed.tags)
    names = {name for name, _ in parsed.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "srcset", "action"})
    assert all((value or "").startswith("#") for name, value in parsed.attributes if name == "href")
    assert parsed.text.count(evil) > 8, "the text itself is there, as text"
    assert "<" not in parsed.scripts[0], "in the data of plots it is escaped"
    assert evil in json.dumps(parsed.plots, ensure_ascii=False).replace('\\"', '"')


def test_the_policy_allows_the_two_scripts_of_the_page_and_no_request(parsed: Page) -> None:
    assert len(parsed.scripts) == 3, "the data, the library, and the page's own"
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in parsed.scripts[1:]]
    policy = dict(part.strip().split(" ", 1) for part in parsed.policy.split(";"))
    assert policy["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    assert policy["default-src"] == "'none'"
    assert "connect-src" not in policy


def test_the_page_has_scores_changes_drops_times_command_and_versions(parsed: Page, shown: str) -> None:
    found = (
        "19% (14-25)",
        "-49 (-56 to -41)",
        "sft: loss",
        "512",
        "duplicate",
        "1 min 0 s",
        "python recipes/rounds.py",
    )
    for result in (*found, "torch", "22 / 56 / 22 (n 9)", "alpha of sides", "effective training time 75%"):
        assert result in parsed.text, result
    assert "sft: accuracy: no finite value" in parsed.text
    assert "factuality: wrong among answered, by propensity" in parsed.text
    assert "prefers-color-scheme: dark" in shown
    assert "overflow-x: auto" in shown
    assert len(shown) < 2_000_000


def test_each_section_has_its_plots(parsed: Page) -> None:
    assert {name: len(found) for name, found in parsed.plots.items()} == {
        "scores": 2,
        "training": 2,
        "curves": 1,
        "knowledge": 1,
        "quality": 2,
        "times": 1,
    }
    (loss, accuracy) = parsed.plots["training"]
    assert accuracy == {}, "a metric without finite values is reported as text"
    assert {value["line"] for value in values(loss)} == {"round 1", "round 2", "round 2, held out"}
    (bars,) = parsed.plots["knowledge"]
    abstained = [value for value in values(bars) if value["part"] == "abstained"]
    assert len(abstained) == 2 * 2, "one question in round 1 and 2, in the topic and in its kind of fact"
    wrong = [value for value in values(parsed.plots["scores"][0]) if value["line"] == "wrong"]
    assert [(value["label"], value["value"]) for value in wrong] == [
        ("before", 0.68),
        ("round 1", 0.31),
        ("round 2", 0.19),
    ]


def test_the_funnel_and_the_data_card_of_each_round_are_shown(parsed: Page, report: Report, evil: str) -> None:
    first, _ = parsed.plots["quality"]
    left = {value["bar"]: value["end"] for value in values(first) if value["part"] == "left"}
    reasons = ["rules: empty answer", f"rules: {evil}", "decontamination: overlaps an evaluation prompt"]
    assert left == {"rows in": 100, **dict(zip(reasons, (80, 76, 75), strict=True)), "rows kept": 75}
    for text in ("Data card: quality, round 1, 75 of 100 rows kept", "1 of 76 rows repeat an example of: held out 2"):
        assert text in parsed.text
    assert f"Dropped by rules, empty answer: {evil}: loud ({evil})" in parsed.text
    assert "## Data card: quality, round 2\n\n75 of 100 rows were kept." in markdown(report)


def test_rare_reasons_of_a_gate_are_one_bar_of_the_funnel() -> None:
    gate = {"gate": "balance", "in": 100, "dropped": {f"phrase {n}": n for n in range(1, 11)}, "out": 45}
    left = [v for v in values(funnel(QualityCard("quality", "round 1", {"gates": [gate]}))) if v["part"] == "left"]
    assert len(left) == 1 + MOST_REASONS + 1
    assert (left[-2]["bar"], left[-2]["rows"], left[-2]["end"]) == ("balance: 3 other reasons", 6, 45)


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin_run("python recipes/rounds.py")
    ledger.close()
    assert "No stage has written metrics." in Page(page(read_report(tmp_path, samples=3))).text


def test_a_live_page_may_ask_its_own_server_only(report: Report) -> None:
    policy = Page(page(report, Live("now", 5))).policy
    assert "connect-src 'self'" in policy
    assert "default-src 'none'" in policy


@pytest.fixture(scope="module")
def opened(shown: str, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str], list[str]]:
    """(the page in a browser that is as narrow as a phone, its requests, what went wrong)."""
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(shown, encoding="utf-8")
    requests: list[str] = []
    wrong: list[str] = []
    tab = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    tab.set_default_timeout(120_000)  # the machine may be busy
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.goto(path.as_uri())
    return tab, requests, wrong


@pytest.mark.slow
def test_in_a_browser_the_plots_are_drawn_offline_and_nothing_runs_that_a_model_wrote(opened: Any) -> None:
    tab, requests, wrong = opened
    for section in ("scores", "knowledge", "selection", "training", "quality", "times"):
        figure = tab.locator(f"#{section} figure[data-plot]").first
        figure.scroll_into_view_if_needed()
        figure.locator("svg .mark-group").first.wait_for()
    assert len(requests) == 1, "the file itself"
    assert wrong == []
    assert tab.evaluate("document.documentElement.scrollWidth") == 400, "no section is wider than a phone"
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(20, 23, 26)"


@pytest.mark.slow
def test_in_a_browser_a_plot_can_be_enlarged_and_zoomed_and_answers_be_filtered(opened: Any) -> None:
    tab, _, wrong = opened
    plot = tab.locator("#training figure.zoomable .plot").first
    plot.scroll_into_view_if_needed()
    plot.locator("svg").wait_for()
    plot.click()
    labels = tab.locator("dialog .role-axis-label")
    labels.first.wait_for()
    labels_before = labels.first.text_content()
    tab.locator("dialog svg").hover()
    tab.mouse.wheel(0, -600)
    has_changed = "before => document.querySelector('dialog .role-axis-label').textContent !== before"
    tab.wait_for_function(has_changed, arg=labels_before)
    tab.keyboard.press("Escape")
    visible = tab.locator(".sample:visible")
    assert visible.count() == 4
    tab.locator("#filter [name=changed]").check()
    assert visible.count() == 1
    assert "q3" in visible.inner_text()
    tab.locator("#filter [name=changed]").uncheck()
    tab.locator("#filter [name=verdict]").select_option("wrong")
    assert visible.count() == 3
    assert wrong == []
