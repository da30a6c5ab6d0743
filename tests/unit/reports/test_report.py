"""The report: one page that says what there is, fetches nothing, and escapes what a model wrote."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from glassbox.core.errors import UserError
from glassbox.reports.figures import MAX_POINTS, Chart, Line, series, smooth, thin
from glassbox.reports.report import comparison_table, render_report, write_report
from glassbox.reports.run_data import read_run
from glassbox.reports.table import COLUMNS, Estimate, read_estimate, tabulate

STORY = (
    "Once upon a time, a young shepherd named June lived near the island. Nothing was dearer to "
    "her than her book.\n\nOne pleasant Sunday, June went to the orchard. “Look in the tall "
    "grass,” said Lena the sailor.\n\nSo June got the book back."
)
QUESTION = (
    "Long ago there lived a friendly cobbler by the name of Zoe.\n\nWho has the scarf at the end?"
)
PROBLEM = (
    "Clara had 5 bags with 6 tulips in each. After that she sold 14. How many had she at last?"
)
ATTACK = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>&amp;</pre>\u202e\x00\x1b[31m"


def figure(value: float, error: float | None, n: int = 200, **more: Any) -> dict[str, Any]:
    return {"value": value, "standard_error": error, "n": n, **more}


def evaluation(loss: float, questions: float, preferences: float, sums: float) -> dict[str, Any]:
    def share(p: float, kinds: dict[str, float]) -> dict[str, Any]:
        error = math.sqrt(p * (1 - p) / 200)
        return {
            "accuracy": figure(p, error, interval=[max(0, p - 2 * error), min(1, p + 2 * error)]),
            "kinds": {k: figure(q, 0.05, 60, interval=[0, 1]) for k, q in kinds.items()},
        }

    def text(value: float, entropy: float) -> dict[str, Any]:
        return {
            "loss_nats": figure(value, 0.0053, 120),
            "perplexity": figure(math.exp(value), 0.0083, 120),
            "bits_per_byte": figure(value / 2.7, 0.002, 120),
            "entropy_nats": figure(entropy, 0.0036, 120),
            "excess_nats": figure(value - entropy, 0.0021, 120),
            "num_tokens": 18348,
            "num_bytes": 74091,
            "unit": "document",
            "kinds": {},
        }

    return {
        "heldout": text(loss, 0.3701),
        "unseen": text(loss + 0.031, 0.3722),
        "questions": share(questions, {"has": questions, "where_now": min(1, questions + 0.05)}),
        "preferences": share(preferences, {"truth": preferences, "topic": 0.93}),
        "arithmetic": share(sums, {"2 steps": min(1, sums + 0.1), "3 steps": max(0, sums - 0.2)}),
    }


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )


def write_stage(
    folder: Path, name: str, steps: int, curves: dict[str, Any], evaluations: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(len(name))
    lines = []
    for step in range(10, steps + 1, 10):
        t = step / steps
        record = {"step": step, **{key: curve(t, rng) for key, curve in curves.items()}}
        record |= {
            "grad_norm": 0.4 + 1.5 * math.exp(-6 * t) + 0.1 * rng.random(),
            "lr": 0.02 * min(1, 20 * t) * (0.05 + 0.95 * (1 + math.cos(math.pi * t)) / 2),
            "tokens_per_second": 11800 + 500 * rng.normal(),
            "tokens": step * 2048,
            "seconds": step * 0.174,
            "peak_memory_bytes": 512 * 2**20,
        }
        lines.append(record)
    write_lines(
        folder / name / "metrics.jsonl", sorted(lines + evaluations, key=lambda r: r["step"])
    )
    (folder / name / "recipe.yaml").write_text(
        f"stage: {name}\nseed: 0\ntrain:\n  steps: {steps}\n  lr: 0.02\n", encoding="utf-8"
    )
    (folder / name / "DONE.json").write_text('{"status": "finished"}')


def make_quickstart(folder: Path) -> Path:
    """A folder as a finished quickstart leaves it, with figures such as real ones."""

    def decay(start: float, end: float, speed: float = 9, noise: float = 0.02) -> Any:
        return lambda t, rng: end + (start - end) * math.exp(-speed * t) + noise * rng.normal()

    heldout = [
        {
            "step": step,
            "event": "evaluation",
            "heldout_loss": 0.44 + 7.1 * math.exp(-10 * step / 900),
            "heldout_loss_error": 0.02,
            "sample_0": f"Once upon a time, after {step} steps there was a fox.",
        }
        for step in range(0, 901, 150)
    ]
    write_stage(folder, "pretrain", 900, {"loss": decay(7.6, 0.43)}, heldout)
    chats = [
        {"step": s, "event": "evaluation", "heldout_loss": 0.14 + math.exp(-s / 60)}
        for s in range(0, 301, 50)
    ]
    write_stage(folder, "sft", 300, {"loss": decay(1.4, 0.12)}, chats)
    write_stage(
        folder,
        "dpo",
        120,
        {
            "loss": decay(0.69, 0.11, 5, 0.01),
            "reward_margin": decay(0.0, 4.2, 4, 0.1),
            "reward_accuracy": lambda t, rng: min(1.0, decay(0.5, 0.96, 6, 0.015)(t, rng)),
        },
        [],
    )
    write_stage(
        folder,
        "grpo",
        80,
        {
            "loss": lambda t, rng: 0.01 * rng.normal(),
            "reward": decay(0.42, 0.71, 3, 0.02),
            "reward_std": decay(0.3, 0.2),
            "silent_groups": lambda t, rng: 0.3 + 0.3 * t + 0.03 * rng.normal(),
            "answer_tokens": decay(38, 41, 3, 0.4),
        },
        [],
    )
    (folder / "pretrain" / "data.json").write_text(
        json.dumps(
            {
                "documents": 13120,
                "tokens": 2014330,
                "rows": 7912,
                "row_length": 256,
                "fill_rate": 0.9944,
                "parameters": 1468032,
            }
        )
    )
    evaluations = {
        "pretrain": evaluation(0.4352, 0.0, 0.545, 0.0),
        "sft": evaluation(0.4611, 0.885, 0.79, 0.43),
        "dpo": evaluation(0.4702, 0.87, 0.935, 0.415),
        "grpo": evaluation(0.4731, 0.875, 0.93, 0.665),
    }
    stories = {"pretrain": STORY, "sft": STORY, "dpo": STORY, "grpo": ATTACK}
    answers = {
        "pretrain": "\n\nWho has the hat?",
        "sft": "Leo has the scarf.",
        "dpo": "",
        "grpo": "",
    }
    solution = "First, 5 * 6 = 30. Then, 30 - 14 = 16.\nAnswer: 16"
    samples = {
        name: [
            {"prompt": "", "text": stories[name]},
            {"prompt": QUESTION, "text": answers[name] or "Zoe has the scarf."},
            {"prompt": PROBLEM, "text": solution if name != "pretrain" else "She sold 4. " * 12},
        ]
        for name in evaluations
    }
    titles = {
        "corpus": ("Story world", 14.2),
        "tokenizer": ("Tokenizer", 3.1),
        "pretrain": ("Pre-training", 171.0),
        "sft": ("Supervised fine-tuning", 62.5),
        "dpo": ("Preference alignment (DPO)", 31.0),
        "grpo": ("Verifiable rewards (GRPO)", 55.9),
        "report": ("Report", 1.8),
    }
    journal = [
        {"name": n, "title": t, "seconds": s, "status": "finished", "summary": {}}
        for n, (t, s) in titles.items()
    ]
    files = {
        "train.jsonl": {"count": 13120, "text_bytes": 8000412, "total_nats": 743001.5},
        "heldout.jsonl": {"count": 800, "text_bytes": 495000, "total_nats": 45990.2},
        "chats.train.jsonl": {"count": 8000},
    }
    environment = {
        "python": "3.12.4",
        "platform": "Linux-6.1-x86_64",
        "processor": "AMD EPYC 7B13",
        "threads": 2,
        "packages": {"torch": "2.9.0", "numpy": "2.3.1"},
        "accelerator": None,
        "command": ["glassbox", "quickstart"],
    }
    (folder / "corpus").mkdir()
    for name, content in {
        "evaluations.json": evaluations,
        "samples.json": samples,
        "quickstart.json": journal,
        "corpus/manifest.json": {"format": 1, "files": files},
        "environment.json": environment,
        "DONE.json": {},
    }.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "recipe.yaml").write_text("stage: quickstart\nseed: 0\n", encoding="utf-8")
    return folder


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, their text; and whether tags balance."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quickstart(make_folder(tmp_path_factory.mktemp("runs") / "quick start"))


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def html(quickstart: Path) -> str:
    path = write_report(quickstart)
    assert path == quickstart / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_whole_and_fetches_nothing(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>")
    for forbidden in ("script", "link", "iframe", "object", "embed", "img", "base", "form"):
        assert page.count(forbidden) == 0
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        for reference in re.findall(
            r"url\(([^)]*)\)", " ".join(v or "" for v in attributes.values())
        ):
            assert reference.startswith("#")
    (style,) = [text for text in page.texts["style"] if "@media" in text]
    assert "url(" not in style
    assert "@import" not in style
    policy = [a for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    # the one address in it is text that the model wrote
    assert [
        line for line in html.splitlines() if "://" in line and "evil.example" not in line
    ] == []


def test_what_a_model_wrote_is_escaped_and_printable(html: str, page: Page) -> None:
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert any("<script>alert(1)</script><img src=" in text for text in page.texts["pre"])
    assert "\x00" not in html
    assert "\x1b" not in html


def test_page_holds_every_section(page: Page) -> None:
    headings = page.texts["h2"]
    assert headings == [
        "Evaluation, stage by stage",
        "Pre-training",
        "Supervised fine-tuning",
        "Preference alignment (DPO)",
        "Verifiable rewards (GRPO)",
        "What it writes",
        "Where the time went",
        "The data",
        "The recipe",
        "What it ran on",
        "Go on with",
    ]
    text = page.texts["body"][0]
    assert "1,468,032 parameters" in text
    assert "5m40s" in text
    assert "entropy 0.370" in text  # the floor, drawn into the loss
    assert "stage: quickstart" in text
    assert "AMD EPYC 7B13" in text
    assert "Once upon a time, after 450 steps" in text
    captions = page.texts["figcaption"]
    assert any(caption.startswith("Reward margin") for caption in captions)
    assert any(caption.startswith("Reward ") for caption in captions)
    assert len(captions) == sum("aria-label" in a and tag == "svg" for tag, a in page.tags)
    assert captions.count("Learning rate") == 4


def test_contents_name_the_sections_in_their_order_and_lead_to_them(page: Page) -> None:
    places = [a["href"][1:] for tag, a in page.tags if tag == "a" and a.get("href")]
    sections = [a["id"] for tag, a in page.tags if tag == "section" and "id" in a]
    assert places == sections
    assert len(set(places)) == len(places) == 11
    titles = [text for text in page.texts["a"] if text]
    assert titles[:2] == ["Evaluation", "Pre-training"]
    assert titles[-1] == "Go on with"


def test_answers_that_are_equal_stand_once_under_all_their_stages(page: Page) -> None:
    titles = [text for text in page.texts["h4"] if not text.startswith("Step")]
    trained = ["Supervised fine-tuning", "Preference alignment (DPO)", "Verifiable rewards (GRPO)"]
    assert (
        titles
        == [
            " · ".join(["Pre-training", *trained[:2]]),  # the story
            trained[2],
            "Pre-training",  # the question
            trained[0],
            " · ".join(trained[1:]),
            "Pre-training",  # the sum
            " · ".join(trained),
        ]
    )


def test_a_logarithmic_axis_is_named_and_a_linear_one_is_not(page: Page) -> None:
    captions = page.texts["figcaption"]
    losses = [caption for caption in captions if caption.startswith("Loss ")]
    assert losses[0] == "Loss nats a token, log scale"
    assert all("log" not in caption for caption in captions if caption not in losses)
    steps = np.arange(3.0)

    def chart(values: list[float], **options: Any) -> Chart:
        return Chart("Loss", "nats", [Line("", steps, np.array(values))], log=True, **options)

    assert chart([8.0, 4.0, 1.0]).caption == "nats, log scale"
    assert chart([8.0, 4.0, 2.0]).caption == "nats"
    assert chart([8.0, 4.0, 0.0]).caption == "nats"
    assert chart([8.0, 4.0, 2.0], levels={"entropy": 0.5}).caption == "nats, log scale"
    # the drawing follows: of 1 to 8 a logarithmic axis marks 1, 2, 5
    marks = re.findall(r"<text[^>]*>([\d.]+)</text>", chart([8.0, 4.0, 1.0]).to_svg())
    assert {"1", "2", "5"} <= set(marks)


def test_a_single_step_stands_at_the_end_of_an_axis_from_zero() -> None:
    svg = Chart("Loss", "", [Line("", np.array([6.0]), np.array([0.7]))]).to_svg()
    labels = re.findall(r"<text[^>]*>([\d.]+)</text>", svg)
    assert {"0", "6"} <= set(labels)
    assert "7" not in labels


def test_chinese_stories_are_marked_as_such_and_tables_say_that_they_scroll(
    quickstart: Path, html: str, tmp_path: Path
) -> None:
    assert 'lang="zh' not in html
    folder = tmp_path / "run"
    shutil.copytree(quickstart, folder)
    recipe = "stage: quickstart\nseed: 0\nworld: {language: zh}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    page = Page(render_report(folder))
    marked = [a for tag, a in page.tags if tag == "pre" and a.get("lang") == "zh-CN"]
    others = [a for tag, a in page.tags if tag == "pre" and "lang" not in a]
    assert len(marked) > 5
    assert all(a.get("class") == "code" for a in others)  # recipes
    assert "swipe it" in page.texts["body"][0]


def test_tiles_say_where_it_came_from(html: str) -> None:
    tiles = re.findall(
        r'<p class="label">(.*?)</p><p class="value">(.*?)</p><p class="detail">(.*?)</p>', html
    )
    assert tiles == [
        ("Loss above entropy", "0.065", "nats a token, after pre-training"),
        ("Questions right", "87.5%", "from 0.0% after pre-training"),
        ("Preferences right", "93.0%", "from 54.5% after pre-training"),
        ("Sums right", "66.5%", "from 0.0% after pre-training"),
        ("Time", "5m40s", "7 steps"),
    ]


def test_best_of_each_column_is_marked_once(html: str) -> None:
    best = re.findall(r'<td class="best"[^>]*>([^<]*)<', html)
    assert best == ["0.435", "0.065", "0.094", "88.5%", "93.5%", "66.5%"]


def test_samples_of_all_stages_stand_side_by_side(page: Page) -> None:
    articles = page.texts["article"]
    assert len(articles) == 3
    for article in articles:
        for title in ("Pre-training", "Supervised fine-tuning", "(DPO)", "(GRPO)"):
            assert title in article
    assert "Leo has the scarf." in articles[1]
    assert "Zoe has the scarf." in articles[1]


def test_drawings_use_the_pages_colours_and_text(html: str, page: Page) -> None:
    drawings = re.findall(r"<svg role=.*?</svg>", html, flags=re.S)
    assert len(drawings) == len(page.texts["figcaption"])
    for drawing in drawings:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            "none",
            *(f"var(--{n})" for n in ("ink", "faint", "grid", "series-1", "series-2", "series-3")),
        }
        assert "<text" in drawing  # text is text, to be read and searched
    ids = [a["id"] for tag, a in page.tags if tag == "g" and "id" in a]
    assert ids == []
    assert len(html) < 200_000


def test_the_same_run_gives_the_same_page(quickstart: Path, html: str) -> None:
    assert render_report(quickstart) == html


def test_names_with_spaces_are_quoted_in_commands(quickstart: Path, html: str) -> None:
    assert f"glassbox chat &#39;{quickstart}&#39;" in html


def test_a_single_run_makes_a_page(quickstart: Path) -> None:
    page = Page(render_report(quickstart / "pretrain"))
    assert page.texts["h1"] == ["Pre-training of pretrain"]
    text = page.texts["body"][0]
    assert "Held-out loss" in text
    assert "glassbox chat" not in text  # a model of text alone has not learned to
    assert "No environment.json" in text
    assert "Evaluation, stage by stage" not in text


def test_the_lead_counts_what_was_trained_and_the_commands_can_be_run(
    quickstart: Path, tmp_path: Path
) -> None:
    """An adapter of a large model, on a few of its tokens; `eval` needs a text where there is no world."""
    folder = tmp_path / "lora"
    shutil.copytree(quickstart / "pretrain", folder)
    facts = {"parameters": 134515008, "documents": 100, "tokens": 12700}
    (folder / "data.json").write_text(json.dumps(facts))
    (folder / "DONE.json").write_text(json.dumps({"trained_parameters": 4884480, "tokens": 384}))
    text = Page(render_report(folder)).texts["body"][0]
    assert (
        "A model of 134,515,008 parameters of which 4,884,480 were trained on 384 tokens of 100"
        in text
    )
    assert f"glassbox eval {folder} --text FILE" in text
    assert "--text FILE" not in Page(render_report(quickstart)).texts["body"][0]


def test_an_interrupted_quickstart_says_so(quickstart: Path, tmp_path: Path) -> None:
    folder = make_quickstart(make_folder(tmp_path / "run"))
    for name in ("DONE.json", "evaluations.json", "samples.json", "environment.json"):
        (folder / name).unlink()
    (folder / "corpus" / "manifest.json").unlink()
    (folder / "sft" / "metrics.jsonl").write_text("")
    text = Page(render_report(folder)).texts["body"][0]
    assert "The run has not finished" in text
    assert "Supervised fine-tuning: no line of metrics yet." in text
    assert "No evaluations.json" in text
    assert "No samples.json" in text
    assert "The data" not in text


def test_damage_is_counted_not_fatal(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")
    lines = [
        '{"step": 1, "loss": 2.0, "lr": 0.1}',
        '{"step": 2, "loss": null}',
        '{"step": 3, "loss": 1.5, "note": "a\u2028b\u0085c"}',  # no line ends, though like them
        "not json",
        "[1, 2]",
        '{"no": "step"}',
        '{"step": 4, "event": "skipped", "reason": "NaN"}',
        '{"step": 5, "lo',
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "DONE.json").write_text("{half")
    (folder / "recipe.yaml").write_bytes(b"stage: [\xff")
    run = read_run(folder)
    assert run is not None
    assert [record["step"] for record in run.stages[0].metrics] == [1, 2, 3, 4]
    assert "metrics.jsonl: 4 damaged lines skipped." in run.notes
    assert "DONE.json is damaged and was left out." in run.notes
    assert "run: 1 step skipped by the guard." in run.notes
    Page(render_report(folder))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluations.json", '{"sft": {"heldout": {"loss_nats": {"value": "x"}}, "questions": 3}}'),
        ("evaluations.json", '{"sft": {"questions": {"kinds": {"a": 1, "b": {}}}}}'),
        ("evaluations.json", "[1]"),
        ("samples.json", '{"sft": [3, {"prompt": null, "text": "\\ud800 half"}], "dpo": 1}'),
        ("quickstart.json", '[{"title": "A", "seconds": "long"}, 4, {}]'),
        ("environment.json", '{"packages": ["a", 1], "threads": "?", "nested": {"a": {}}}'),
        ("corpus/manifest.json", '{"files": {"a": 1, "b": {"count": 1, "text_bytes": "x"}}}'),
    ],
)
def test_files_of_another_shape_are_borne(tmp_path: Path, name: str, content: str) -> None:
    write_lines(tmp_path / "sft" / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    (tmp_path / "corpus").mkdir()
    (tmp_path / name).write_text(content)
    assert write_report(tmp_path).exists()
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def printed(evaluations: dict[str, Any], width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(comparison_table(evaluations))
    return stream.getvalue()


def test_terminal_table_has_every_figure_with_its_error() -> None:
    text = printed(
        {"before": evaluation(0.6, 0.0, 0.5, 0.1), "after": evaluation(0.5, 0.9, 0.9, 0.2)}
    )
    after = next(line for line in text.splitlines() if line.startswith("after"))
    assert "*0.500 ±0.005" in after
    assert "*0.130 ±0.002" in after
    assert "*90.0% ±2.1" in after
    before = next(line for line in text.splitlines() if line.startswith("before"))
    assert "*" not in before
    assert "Perplexity" not in text  # the excess says more
    narrow = printed({"a": evaluation(0.6, 0.0, 0.5, 0.1)}, width=80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "±0.005" in narrow
    assert "Preferences" in narrow


def test_table_of_plain_text_and_of_nothing() -> None:
    plain = {
        "heldout": {
            k: figure(v, None, 1)
            for k, v in {"loss_nats": 2.0, "perplexity": 7.389, "bits_per_byte": 1.1}.items()
        }
    }
    text = printed({"[bold]a": plain, "b": {}})
    assert "Perplexity" in text
    assert "7.39" in text
    assert "[bold]a" in text  # a name is no markup
    assert "±0" not in text
    assert printed({}).strip() == ""


def test_all_that_tie_are_best_unless_that_is_all() -> None:
    three = {
        "a": evaluation(0.5, 0.5, 0.5, 0.5),
        "b": evaluation(0.5, 0.5, 0.5, 0.4),
        "c": evaluation(0.6, 0.4, 0.5, 0.3),
    }

    def marks(names: str) -> list[list[bool]]:
        _, rows = tabulate({name: three[name] for name in names})
        return [[cell is not None and cell.best for cell in row.cells] for row in rows]

    assert marks("abc") == [
        [True, True, True, True, False, True],
        [True, True, True, True, False, False],
        [False] * 6,
    ]
    assert marks("a") == [[False] * 6]


@pytest.mark.parametrize("raw", [None, 3, {}, {"value": None}, {"value": math.nan}, {"value": "1"}])
def test_what_is_no_figure_reads_as_none(raw: Any) -> None:
    assert read_estimate(raw) is None


def test_a_figure_is_read_as_it_was_written() -> None:
    estimate = Estimate(0.25, None, 7)
    assert read_estimate(estimate.to_json()) == estimate
    assert COLUMNS[0].show(estimate) == ("0.250", "")


def test_thinning_keeps_the_mean_and_spikes() -> None:
    steps = np.arange(5000.0)
    values = np.ones(5000)
    values[2501] = 100.0
    thin_steps, thin_values = thin(steps, values)
    assert len(thin_values) == MAX_POINTS
    assert np.all(np.diff(thin_steps) > 0)
    assert thin_values.max() > 5
    assert thin(steps[:10], values[:10])[1] is not None
    np.testing.assert_array_equal(thin(steps[:10], values[:10])[0], steps[:10])


def test_smoothing_neither_lags_nor_shifts() -> None:
    line = np.linspace(3.0, 1.0, 200)
    np.testing.assert_allclose(smooth(line)[20:-20], line[20:-20], atol=1e-12)
    np.testing.assert_allclose(smooth(np.full(90, 2.5)), 2.5)
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.4 * noise.std()


def test_series_takes_finite_numbers_alone() -> None:
    records = [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": None},
        {"step": 3},
        {"step": 4, "a": True},
        {"step": 5, "a": math.inf},
        {"step": 6, "a": 2},
    ]
    line = series(records, "a")
    assert line is not None
    assert line.steps.tolist() == [1, 6]
    assert series(records, "b") is None


def test_a_curve_of_zeros_has_plain_ticks() -> None:
    zeros = Line("", np.arange(1.0, 9.0), np.zeros(8))
    ticks = re.findall(r">([^<>\s]+)</text>", Chart("T", "", [zeros], from_zero=True).to_svg())
    assert "0" in ticks
    assert "1" in ticks
    assert not any("e" in tick for tick in ticks if tick != "step")


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 1e9], [0.5] * 3])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    line = Line("x", np.arange(1.0, len(values) + 1), np.array(values))
    drawing = Chart("T", "u", [line, line], {"floor": values[0]}).to_svg()
    assert drawing.startswith('<svg role="img" aria-label="T, u"')


@pytest.mark.parametrize("key", ["zero_variance_groups", "silent_groups"])
def test_zero_variance_groups_are_drawn_under_their_present_and_their_former_name(key: str) -> None:
    records = [{"step": step, key: 0.1 * step} for step in range(1, 6)]
    line = series(records, "zero_variance_groups")
    assert line is not None
    assert line.values.tolist() == [0.1 * step for step in range(1, 6)]
    assert series([{"step": 1, "loss": 1.0}], "zero_variance_groups") is None
