"""Comparisons of result folders: what is found, what is refused, and how often it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from glassbox.core.errors import UserError
from glassbox.evaluation.comparison import Comparison, Method, compare
from glassbox.evaluation.paired import detectable, holm, mcnemar, sign_flip, t_quantile, t_two_sided
from glassbox.reports.comparison import render_comparison
from glassbox.reports.comparison import write_comparison as write_page


def entry(aggregation: str = "mean", *, higher: bool = True) -> dict[str, Any]:
    return {
        "value": 0.0,
        "standard_error": None,
        "n": 0,
        "higher_is_better": higher,
        "aggregation": aggregation,
    }


def write(
    folder: Path,
    values: Sequence[Any],
    *,
    task: str = "arc_easy",
    metric: str = "acc",
    aggregation: str = "mean",
    higher: bool = True,
    clusters: Sequence[str] | None = None,
    hashes: Sequence[str] | None = None,
    settings: dict[str, Any] | None = None,
    prompt: str = "Question {}",
) -> Path:
    """A result folder with one task whose items have these values."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "format": "glassbox-evaluation",
        "format_version": 1,
        "model": {"name": folder.name},
        "settings": {"num_fewshot": 0, "seed": 1234, **(settings or {})},
        "versions": {},
        "tasks": {
            task: {
                "sha256": "x",
                "n": len(values),
                "metrics": {f"{metric},none": entry(aggregation, higher=higher)},
            }
        },
        "groups": {},
    }
    (folder / "results.json").write_text(json.dumps(results))
    lines = []
    for number, value in enumerate(values):
        right = value in (1, 1.0, True)
        lines.append(
            {
                "doc_id": number,
                "doc": {},
                "target": 0,
                "arguments": {
                    "gen_args_0": {"arg_0": prompt.format(number), "arg_1": " yes"},
                    "gen_args_1": {"arg_0": prompt.format(number), "arg_1": " no"},
                },
                "filtered_resps": [[-1.0 if right else -3.0, False], [-2.0, False]],
                "filter": "none",
                "metrics": [metric],
                "doc_hash": hashes[number] if hashes else f"hash{number}",
                "cluster": None if clusters is None else clusters[number],
                "num_tokens": [1, 1],
                metric: value,
            }
        )
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / f"samples_{task}.jsonl").write_text(text + "\n")
    return folder


def run(*folders: Path | str, **options: Any) -> Comparison:
    return compare([Method.parse(str(folder)) for folder in folders], **options)


# ------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("degrees", [2, 3, 5, 10, 30, 200])
@pytest.mark.parametrize("probability", [0.9, 0.95, 0.975, 0.995])
def test_t_quantile_is_scipys(degrees: int, probability: float) -> None:
    """The expansion's error grows as degrees fall and tails rise: 8 % at (2, 0.995), 0.3 % from 5 up."""
    expected = stats.t.ppf(probability, degrees)
    bound = {2: 0.08, 3: 0.03}.get(degrees, 0.005)
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=bound)


def test_t_test_is_scipys() -> None:
    for statistic, degrees in ((0.5, 8), (2.0, 12), (3.1, 40)):
        expected = 2 * stats.t.sf(statistic, degrees)
        assert t_two_sided(statistic, degrees) == pytest.approx(expected, rel=0.01)
        assert t_two_sided(-statistic, degrees) == t_two_sided(statistic, degrees)
    with pytest.raises(ValueError, match=r"0\.5 degrees"):
        t_quantile(0.9, 0.5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tests_mid_p(gained: int, lost: int) -> None:
    n = gained + lost
    p = mcnemar(gained, lost)
    assert 0 < p <= 1
    assert p == mcnemar(lost, gained)
    if n and gained != lost:
        exact = stats.binomtest(min(gained, lost), n, 0.5).pvalue
        assert p == pytest.approx(exact - stats.binom.pmf(min(gained, lost), n, 0.5), abs=1e-9)


def test_sign_flips_are_scipys_permutations() -> None:
    generator = np.random.default_rng(0)
    for n in (6, 11):
        d = generator.normal(0.4, 1.0, n)
        expected = stats.permutation_test(
            (d,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert sign_flip(d) == pytest.approx(expected, abs=1e-9)
    d = generator.normal(0.2, 1.0, 200)  # drawn patterns: within four errors of a normal test
    z = abs(d.sum()) / np.sqrt((d**2).sum())
    expected = 2 * stats.norm.sf(z)
    error = math.sqrt(expected * (1 - expected) / 10_000)
    assert sign_flip(d) == pytest.approx(expected, abs=4 * error + 0.01)
    assert sign_flip(np.zeros(5)) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= 1
        assert corrected <= max(raw, min(1.0, raw * len(p_values)))
    ordered = [adjusted[i] for i in sorted(range(len(p_values)), key=lambda i: p_values[i])]
    assert ordered == sorted(ordered)


def test_detectable_is_what_four_of_five_tests_find() -> None:
    generator = np.random.default_rng(1)
    error = 1 / math.sqrt(100)
    size = detectable(error)
    trials = generator.normal(size, error, 20_000)
    assert (np.abs(trials) > 1.959964 * error).mean() == pytest.approx(0.8, abs=0.01)


# ---------------------------------------------------------------------------- what a comparison finds


def test_differences_intervals_and_flips_of_two_models(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [1, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    other = write(tmp_path / "b", [1, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    (row,) = run(first, other).rows
    d = np.array([0, -1, 1, 1, 0, 1, 1, 1, 0, 0])
    assert (row.first, row.other, row.difference) == (0.3, 0.7, pytest.approx(0.4))
    assert row.standard_error == pytest.approx(d.std(ddof=1) / math.sqrt(10))
    assert (row.gained, row.lost) == (5, 1)
    assert row.p == pytest.approx(mcnemar(5, 1))
    assert [flip.doc_id for flip in row.flips] == [2, 3, 5, 6, 7, 1]
    assert row.flips[0].answers == ("no", "yes")
    assert row.flips[-1].answers == ("yes", "no")
    assert row.flips[0].target == "yes"
    assert row.interval is not None
    half = stats.t.ppf(0.975, 9) * row.standard_error
    assert row.interval == pytest.approx((row.difference - half, row.difference + half), rel=1e-3)


def test_pairing_finds_what_two_unpaired_figures_hide(tmp_path: Path) -> None:
    """Items differ far more than models do: of 400, one model has 24 more right and loses 4."""
    generator = np.random.default_rng(3)
    base = (generator.random(400) < 0.5).astype(int)
    better = base.copy()
    wrong, right = np.flatnonzero(base == 0), np.flatnonzero(base == 1)
    better[wrong[:24]] = 1
    better[right[:4]] = 0
    (row,) = run(write(tmp_path / "a", base.tolist()), write(tmp_path / "b", better.tolist())).rows
    assert row.unpaired_interval is not None
    assert row.unpaired_interval[0] < 0 < row.unpaired_interval[1]
    assert row.interval is not None
    assert row.interval[0] > 0
    assert row.verdict(0.05) == "better"


def test_equal_models_are_called_different_no_more_often_than_the_level_says(
    tmp_path: Path,
) -> None:
    """1,000 pairs of one method: McNemar's mid-p and sign flips stay at 5 % within three errors."""
    generator = np.random.default_rng(4)
    found = {"mcnemar": 0, "flips": 0}
    for trial in range(1000):
        hardness = generator.random(120)
        one, two = (generator.random(120) < hardness for _ in range(2))
        found["mcnemar"] += mcnemar(int((two & ~one).sum()), int((one & ~two).sum())) < 0.05
        d = generator.normal(size=30) - generator.normal(size=30)
        found["flips"] += sign_flip(d, draws=999, seed=trial) < 0.05
    most = 1000 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000))
    assert 0 < found["mcnemar"] <= most
    assert 20 < found["flips"] <= most


def test_items_of_one_passage_count_as_one(tmp_path: Path) -> None:
    """40 items, ten copies each of four passages' differences: not the evidence of 40."""
    clusters = [f"p{n // 10}" for n in range(40)]
    a = [0] * 40
    b = [1] * 20 + [0] * 20
    alone = run(write(tmp_path / "a", a), write(tmp_path / "b", b)).rows[0]
    together = run(
        write(tmp_path / "c", a, clusters=clusters), write(tmp_path / "d", b, clusters=clusters)
    ).rows[0]
    assert alone.p is not None
    assert alone.p < 0.001
    assert together.p == 0.5  # two passages: of four sign patterns two reach the sum
    assert (together.standard_error or 0) > 2.5 * (alone.standard_error or 1)


def test_runs_of_one_method_add_the_spread_of_their_seeds(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    hardness = generator.random(200)
    folders: dict[str, list[str]] = {"a": [], "b": []}
    for name, gain in (("a", 0.0), ("b", 0.02)):
        for seed, shift in enumerate((-0.08, 0.0, 0.08)):
            right = generator.random(200) < np.clip(hardness + gain + shift, 0, 1)
            folder = write(tmp_path / f"{name}{seed}", right.astype(int).tolist())
            folders[name].append(str(folder))
    several = run(*(f"{name}={','.join(paths)}" for name, paths in folders.items())).rows[0]
    single = run(folders["a"][1], folders["b"][1]).rows[0]
    assert several.test.startswith("Student's t")
    assert several.method == "b"
    means = {n: [np.mean(values(Path(p))) for p in paths] for n, paths in folders.items()}
    expected = np.mean(means["b"]) - np.mean(means["a"])
    assert several.difference == pytest.approx(expected)
    spread = sum(np.var(m, ddof=1) / 3 for m in means.values())
    assert (several.standard_error or 0) ** 2 > spread
    assert single.test == "McNemar, mid-p"


def values(folder: Path) -> list[float]:
    lines = (folder / "samples_arc_easy.jsonl").read_text().splitlines()
    return [json.loads(line)["acc"] for line in lines]


def test_perplexities_are_compared_in_nats(tmp_path: Path) -> None:
    a = [[-10.0, 5], [-8.0, 4], [-30.0, 10], [-6.0, 2]]
    b = [[-9.0, 5], [-7.5, 4], [-28.0, 10], [-6.5, 2]]
    options = {
        "task": "wikitext", "metric": "word_perplexity", "aggregation": "weighted_perplexity",
        "higher": False,
    }  # fmt: skip
    (row,) = run(write(tmp_path / "a", a, **options), write(tmp_path / "b", b, **options)).rows
    assert row.first == pytest.approx(54 / 21)
    assert row.difference == pytest.approx((51 - 54) / 21)
    assert row.unit == "nats/unit"
    assert not row.higher_is_better


def test_f1_is_compared_by_drawing_items_anew(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    gold = generator.integers(0, 2, 150)
    noise = generator.random((2, 150))
    a, b = ([[int(g), int(g ^ (x < share))] for g, x in zip(gold, row, strict=True)]
            for row, share in zip(noise, (0.4, 0.1), strict=True))  # fmt: skip
    options = {"metric": "f1", "aggregation": "f1"}
    (row,) = run(write(tmp_path / "a", a, **options), write(tmp_path / "b", b, **options)).rows
    assert row.test == "paired bootstrap"
    assert row.difference > 0.15
    assert row.verdict(0.05) == "better"
    assert run(tmp_path / "a", f"same={tmp_path / 'a'}").rows[0].p == 1.0


def test_p_values_are_corrected_over_all_rows(tmp_path: Path) -> None:
    base, better = [0] * 12, [1] * 6 + [0] * 6  # 6 against 0: p = 0.016
    first = write(tmp_path / "a", base)
    others = [write(tmp_path / name, better) for name in ("b", "c", "d", "e")]
    alone = run(first, others[0])
    together = run(first, *others)
    assert alone.rows[0].verdict(0.05) == "better"
    assert [row.verdict(0.05) for row in together.rows] == ["no difference shown"] * 4
    assert together.rows[0].p_holm == pytest.approx(4 * (together.rows[0].p or 0))


# ------------------------------------------------------------------------------ what is refused, noted


def test_what_cannot_be_compared_is_one_clear_line(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [1, 0])
    with pytest.raises(UserError, match="two result folders"):
        run(a)
    with pytest.raises(UserError, match="no result file at"):
        run(a, tmp_path / "nothing")
    with pytest.raises(UserError, match="two methods are called 'a'; name them as NAME=DIR"):
        run(a, a)
    with pytest.raises(UserError, match="share no task"):
        run(a, write(tmp_path / "b", [1, 0], task="piqa"))
    with pytest.raises(UserError, match="document 0 is not the same in all files"):
        run(a, write(tmp_path / "c", [1, 0], hashes=["other", "hash1"]))
    with pytest.raises(UserError, match="no task has a metric named acc_norm"):
        run(a, write(tmp_path / "d", [1, 0]), metrics=["acc_norm"])
    with pytest.raises(UserError, match="level is 2"):
        run(a, write(tmp_path / "e", [1, 0]), level=2)
    unlogged = write(tmp_path / "f", [1, 0])
    (unlogged / "samples_arc_easy.jsonl").unlink()
    with pytest.raises(UserError, match="evaluate with --log-samples"):
        run(a, unlogged)
    two = tmp_path / "two"
    write(two / "x", [1])
    write(two / "y", [1])
    with pytest.raises(UserError, match=r"results of several models \(x, y\)"):
        run(a, two)


def test_other_settings_and_missing_documents_are_noted(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [1, 0, 1])
    b = write(tmp_path / "b", [1, 0], settings={"num_fewshot": 5})
    found = run(a, b)
    assert found.rows[0].n == 2
    assert any("different num_fewshot: 0, 5" in note for note in found.notes)
    assert any("1 documents are in one of the files alone" in note for note in found.notes)


def test_the_page_escapes_what_models_wrote(tmp_path: Path) -> None:
    prompt = "<img src=x onerror=alert(1)> {}"
    a = write(tmp_path / "a", [0, 1, 0], prompt=prompt)
    b = write(tmp_path / "b", [1, 1, 1], prompt=prompt)
    page = render_comparison(run(a, b))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "<script" not in page
    path = write_page(tmp_path / "out", run(a, b))
    assert path.read_text(encoding="utf-8") == page
    read = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert read["rows"][0]["gained"] == 2
