"""The studio in a real browser: chats, tokens, branches, columns, runs, exports, and nothing that can run."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from glassbox.studio.building import SOURCE, page_folder
from support.studio import make_studio, serving
from support.tiny_chat import tiny_tokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
MOST_COMPRESSED_BYTES = 400_000


@pytest.fixture(scope="module")
def page_files() -> Path:
    return page_folder()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


class Tab:
    """A page of the browser that takes note of every error and of every request to elsewhere."""

    def __init__(self, browser: Any, base: str, **options: Any) -> None:
        self.base = base
        self.faults: list[str] = []
        self.foreign: list[str] = []
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 800},
            locale="en-US",
            accept_downloads=True,
            **options,
        )
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._look)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _look(self, request: Any) -> None:
        if not request.url.startswith((self.base, "blob:", "data:", "file:")):
            self.foreign.append(request.url)

    def ask(self, text: str) -> None:
        self.page.fill(".composer textarea", text)
        self.page.keyboard.press("Enter")

    def grown(self, count: int, status: str = "running") -> None:
        """Wait until an answer of this status shows so many tokens."""
        self.until(
            "([count, status]) => document.querySelectorAll(`[data-status=${status}] .t`).length >= count",
            [count, status],
        )

    def settle(self, count: int = 1) -> None:
        """Wait until so many answers are done and none is under way."""
        self.until(
            "count => document.querySelectorAll('.message.assistant[data-status=done]').length >= count"
            " && !document.querySelector('[data-status=running]')",
            count,
        )

    def until(self, script: str, argument: Any = None) -> None:
        """Wait until a script of the page is true; the browser's own way of polling meets the CSP."""
        deadline = time.monotonic() + 60
        while not self.page.evaluate(script, argument):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(20)

    def answered(self) -> None:
        """Ask until an answer has a token: what is sampled may end at once."""
        for count in range(1, 9):
            self.ask("Where is the ball?")
            self.settle(count)
            if self.page.query_selector(".message.assistant [data-k='0']"):
                return
        raise AssertionError("eight answers without a token")


@contextmanager
def tab(browser: Any, base: str, *, faults: bool = False, **options: Any) -> Iterator[Tab]:
    """A tab; afterwards, no error in its console (unless `faults`) and no request to elsewhere."""
    opened = Tab(browser, base, **options)
    try:
        yield opened
        assert faults or not opened.faults
        assert not opened.foreign
    finally:
        opened.context.close()


def test_a_chat_from_its_first_word_to_its_branches(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    studio = make_studio(tmp_path / "data", slow=0.1)
    with serving(studio, page_files) as base, tab(browser, base) as it:
        page = it.page
        page.goto(base)
        page.click("button[aria-label='Settings']")
        page.fill("input[type=number][aria-label='Temperature']", "0")
        page.fill("input[type=number][aria-label='Most tokens']", "40")
        page.keyboard.press("Tab")
        page.click("button[aria-label='Settings']")
        it.ask("Where is the ball?")
        page.wait_for_selector("[data-status=running] .t")  # it streams
        it.settle()
        assert "/chat/" in page.url

        # the alternatives are the API's log-probabilities, as numbers and as words
        page.click(".message.assistant [data-k='2']")
        page.wait_for_selector(".panel")
        (chat,) = studio.store.chats()
        answer = studio.store.messages(chat["id"])[-1]
        shown = page.eval_on_selector_all(
            ".alternatives li[data-token]",
            "items => items.map(li => [Number(li.dataset.token), Number(li.dataset.logprob)])",
        )
        assert shown == [[token, value] for token, _, value in answer["tokens"][2]["a"]]
        probability = math.exp(answer["tokens"][2]["l"])
        figure = page.inner_text("[data-figure=probability]")
        assert float(figure.rstrip("%")) == pytest.approx(100 * probability, rel=0.01)

        # another token instead makes a branch, and both versions can be gone back to
        page.click(".alternatives li:not(.taken) button >> nth=1")
        page.wait_for_selector(".versions")
        it.settle()
        branched = studio.store.messages(chat["id"])[-1]
        kept = [token["i"] for token in answer["tokens"][:2]]
        assert [token["i"] for token in branched["tokens"][:2]] == kept
        assert branched["tokens"][2]["i"] != answer["tokens"][2]["i"]
        assert page.inner_text(".message.assistant .versions") == "2/2"
        page.click("[aria-label='Previous version']")
        page.wait_for_selector(f"[data-id='{answer['id']}']")

        # an edited question forks before it; the address alone brings any of it back
        page.click(".message.user [aria-label='Edit']")
        page.fill(".message.user textarea", "Who has it?")
        page.click(".message.user button[type=submit]")
        it.until("document.querySelectorAll('.message.user .versions').length === 1")
        it.settle()
        page.goto(f"{base}/chat/{chat['id']}?m={answer['id']}&t=3")
        page.wait_for_selector(f"[data-id='{answer['id']}'] .chosen[data-k='3']")

        # keyboard: along the tokens, and away
        page.focus(f"[data-id='{answer['id']}'] .tokens")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"[data-id='{answer['id']}'] .chosen[data-k='4']")
        page.keyboard.press("Escape")
        page.wait_for_selector(".panel", state="detached")


def test_a_reload_and_a_restart_in_mid_answer_lose_nothing(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    studio = make_studio(tmp_path / "data", slow=0.05)
    with serving(studio, page_files) as base, tab(browser, base) as it:
        it.page.goto(base)
        it.ask("Tell me a story")
        it.grown(2)
        it.page.reload()
        it.grown(4)
        (chat,) = studio.store.chats()
        it.grown(8)
        url = it.page.url
    port = int(base.rpartition(":")[2])
    again = make_studio(tmp_path / "data")
    with serving(again, page_files, port=port) as base, tab(browser, base) as it:
        it.page.goto(url)
        it.grown(5, "interrupted")
        answer = again.store.messages(chat["id"])[-1]
        text = it.page.inner_text(".message.assistant .text")
        assert text.strip() == answer["content"].strip()
        assert it.page.inner_text(".chat-list").startswith("Tell me a story")


def test_two_models_side_by_side_and_a_text_that_stays_text(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    evil = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"
    studio = make_studio(tmp_path / "data")
    with serving(studio, page_files) as base, tab(browser, base) as it:
        page = it.page
        page.goto(f"{base}/chat?model=alpha&model=beta")
        page.wait_for_selector(".columns[data-count='2']")
        it.ask(evil)
        it.settle(2)
        models = page.eval_on_selector_all(
            ".message.assistant .who", "all => all.map(e => e.innerText)"
        )
        assert models == ["alpha", "beta"]
        # a model that writes markup
        (chat,) = studio.store.chats()
        _, one, _ = studio.store.messages(chat["id"])
        ids = tiny_tokenizer().encode(evil)
        tokens = [{"i": token, "t": tiny_tokenizer().decode([token]), "l": -1.0, "h": 1.0, "m": 1.0,
                   "a": [[token, evil, -1.0]]} for token in ids]  # fmt: skip
        studio.store.save_answer(one["id"], content=evil, status="done", prompt=[1], tokens=tokens)
        page.goto(f"{base}/chat/{chat['id']}?m={one['id']}&t=0")
        page.wait_for_selector(".panel")
        assert page.inner_text(f"[data-id='{one['id']}'] .text").replace("◼", "") == evil
        assert page.inner_text(".message.user .text >> nth=0") == evil
        assert evil.replace(" ", "␣") in page.inner_text(".alternatives")
        assert page.locator("main img, main b").count() == 0
        assert "broken" not in page.title()
        # as a file on disk
        with page.expect_download() as download:
            page.click(f"[data-id='{one['id']}'] [aria-label='Export as HTML page']")
        saved = tmp_path / "export.html"
        download.value.save_as(saved)
        page.goto(saved.as_uri())
        assert page.inner_text(".text >> nth=1") == evil
        assert page.locator("img, b").count() == 0
        assert page.title() != "broken"


def test_inside_a_token_heads_rows_sum_to_one_and_a_head_is_switched_off(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    studio = make_studio(tmp_path / "data", slow=0.001)
    with serving(studio, page_files) as base, tab(browser, base) as it:
        page = it.page
        page.goto(base)
        it.ask("Where is the ball?")
        it.settle()
        (chat,) = studio.store.chats()
        answer = studio.store.messages(chat["id"])[-1]
        page.goto(f"{base}/chat/{chat['id']}?m={answer['id']}&t=3&view=inside&layer=1&head=0")
        page.wait_for_selector("[data-attention='1']")
        total = page.get_attribute("[data-attention='1']", "data-sum")
        assert float(total) == pytest.approx(1, abs=2e-3)
        own = page.inner_text("table.lens tbody tr:last-child td:nth-child(2)")
        assert float(own.strip("<>%")) == pytest.approx(
            100 * math.exp(answer["tokens"][3]["l"]), rel=0.02
        )
        page.click("text=Matrix")
        page.wait_for_selector("canvas.matrix")
        page.click("button:text('Compute')")
        page.wait_for_selector("[role=group][aria-label='Influence of earlier tokens']")
        page.click("[aria-label='Layer 0, head 1 off']")
        page.click("button:text('Answer again with these changes')")
        page.wait_for_selector("text=without 0.1")
        it.settle()
        changed = studio.store.messages(chat["id"])[-1]
        assert changed["request"]["changes"]["heads"] == [[0, 1]]
        page.click("[aria-label='Previous version']")
        page.wait_for_selector(f"[data-id='{answer['id']}']")


def test_curves_grow_and_every_view_is_drawn_in_both_languages(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "growing"
    run.mkdir(parents=True)

    def write(first: int, last: int) -> None:
        with (run / "metrics.jsonl").open("a") as stream:
            for step in range(first, last):
                stream.write(json.dumps({"step": step, "loss": 5 / (step + 1), "lr": 0.01}) + "\n")

    write(0, 4)
    studio = make_studio(tmp_path / "data", runs=[tmp_path / "runs"])
    with serving(studio, page_files) as base, tab(browser, base) as it:
        page = it.page
        page.goto(f"{base}/runs")
        page.wait_for_selector("[data-metric=loss][data-points='4']")
        write(4, 9)
        page.wait_for_selector("[data-metric=loss][data-points='9']")
        assert page.locator("[data-metric=lr] canvas").count() == 1
        page.goto(f"{base}/tokenizer?text=The+fox")
        page.wait_for_selector(".pieces .piece")
        text = page.inner_text(".pieces").replace("␣", " ").replace("\n", "")
        assert text == "The fox"
        page.goto(f"{base}/tokenizer?as=chat")
        page.wait_for_selector(".pieces .learned")
        page.goto(f"{base}/engine")
        page.wait_for_selector(".engine dl")
        page.select_option("select >> nth=0", "zh")
        it.until("document.documentElement.lang === 'zh-CN'")
        assert "推理引擎" in page.inner_text(".sidebar")
        page.reload()
        it.until("document.documentElement.lang === 'zh-CN'")


def test_a_recipe_is_started_and_stopped_from_its_form(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text("The fox found a red ball under the old tree. " * 400)
    out = tmp_path / "out"
    values = {
        "data.path": str(tmp_path / "book.txt"), "out": str(out), "train.steps": "100000",
        "train.log_every": "1", "train.checkpoint_every": "0", "tokenizer.vocab_size": "300",
        "model.hidden_size": "32", "model.ffn_size": "32", "model.num_layers": "1",
        "data.row_length": "32", "model.context_length": "32", "evaluation.every": "0",
    }  # fmt: skip
    studio = make_studio(tmp_path / "data")
    with serving(studio, page_files) as base, tab(browser, base) as it:
        page = it.page
        page.goto(f"{base}/train?recipe=pretrain/pretrain.yaml")
        for key, value in values.items():
            page.fill(f"[data-field='{key}'] input", value)
        page.keyboard.press("Tab")
        page.click(".toolbar .primary")
        page.wait_for_selector("[data-launch=running]")
        page.click("button:text('Curves')")
        page.wait_for_selector("[data-metric=loss][data-points]")
        it.until("Number(document.querySelector('[data-metric=loss]').dataset.points) > 5")
        page.goto(f"{base}/train")
        page.click("button:text('Save and stop')")
        page.wait_for_selector("[data-launch=interrupted]")
    assert any((out / "checkpoints").glob("step-*/COMPLETE"))


def test_no_serious_fault_of_accessibility_light_dark_and_on_a_phone(
    browser: Any, page_files: Path, tmp_path: Path
) -> None:
    axe = SOURCE / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: python studio/check.py brings it")
    studio = make_studio(tmp_path / "data")
    with serving(studio, page_files) as base:
        found = {}
        for scheme, size in (("light", (1280, 800)), ("dark", (390, 844))):
            options = {"color_scheme": scheme, "bypass_csp": True}
            with tab(browser, base, **options) as it:
                it.page.set_viewport_size({"width": size[0], "height": size[1]})
                it.page.goto(base)
                it.answered()
                it.page.click(".message.assistant [data-k='0']")
                it.page.wait_for_selector(".panel")
                views = [
                    it.page.url,
                    f"{it.page.url}&view=inside",
                    f"{base}/tokenizer?as=chat",
                    f"{base}/engine",
                    f"{base}/runs",
                    f"{base}/train",
                ]
                for view in views:
                    it.page.goto(view)
                    it.page.wait_for_selector("main > *")
                    it.page.wait_for_timeout(600)
                    it.page.add_script_tag(path=str(axe))
                    told = it.page.evaluate("axe.run()")
                    wide = it.page.evaluate(
                        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                    )
                    assert wide <= 0, (view, scheme)
                    found |= {
                        (scheme, view, fault["id"]): [
                            node["html"][:200] for node in fault["nodes"][:3]
                        ]
                        for fault in told["violations"]
                        if fault["impact"] in ("serious", "critical")
                    }
        assert not found, found


def test_the_page_is_small_and_whole(page_files: Path) -> None:
    import gzip

    files = [path for path in page_files.rglob("*") if path.is_file()]
    total = sum(len(gzip.compress(path.read_bytes())) for path in files)
    assert total < MOST_COMPRESSED_BYTES
    text = (page_files / "index.html").read_text(encoding="utf-8")
    assert "<style" not in text
    assert "://" not in text  # nothing from elsewhere
    assert all(part.strip().startswith("type=") for part in text.split("<script")[1:])
