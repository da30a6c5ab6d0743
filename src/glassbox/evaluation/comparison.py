"""Paired comparison of models on common tasks, item by item.

Each method is the result folder of one `glassbox eval --log-samples --out`, or several of them
(seeds
of one recipe). For a task's metric with values a_i and b_i on item i, d_i = b_i - a_i:

    difference = mean d,    error^2 = s_d^2 / n + s_A^2 / k_A + s_B^2 / k_B

where s_A is the deviation of the means of A's k_A runs (left out for a single run, whose claim is
then
about that run alone); items of one passage are one cluster. p-values: McNemar's mid-p for right and
wrong, sign flips for other values and for clusters, Student's t where there are several runs;
Holm's
correction over all rows of a comparison.
Source: Miller, Adding Error Bars to Evals, arXiv:2411.00640.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glassbox.core.errors import UserError
from glassbox.evaluation.paired import detectable, holm, mcnemar, sign_flip, t_quantile, t_two_sided
from glassbox.evaluation.stats import Estimate, mean, ratio
from glassbox.evaluation.tasks.metrics import binary_f1, clustered_mean, label_table, matthews
from glassbox.evaluation.tasks.results import read_results, read_samples

SHOWN_TEXT = 600
MEANS = ("mean", "nanmean")
RATIOS = ("weighted_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Method:
    """What is compared: a name and the result folders of its runs."""

    name: str
    folders: tuple[Path, ...]

    @classmethod
    def parse(cls, text: str) -> Method:
        """`DIR`, or `NAME=DIR,DIR,...` for runs of one method that differ by their seed.

        Raises UserError where a folder is not one of an evaluation.
        """
        name, equals, rest = text.partition("=")
        paths = tuple(Path(part) for part in (rest if equals else text).split(",") if part)
        if not paths:
            raise UserError(f"'{text}' names no result folder; give DIR or NAME=DIR,DIR")
        folders = tuple(_result_folder(path) for path in paths)
        return cls(name if equals else paths[0].name or str(paths[0]), folders)


def _result_folder(path: Path) -> Path:
    """The folder of the results, also where it is the only one within `path`."""
    if path.is_file():
        return path.parent
    if path.is_dir() and not (path / "results.json").exists():
        inside = sorted(one.parent for one in path.glob("*/results.json"))
        if len(inside) == 1:
            return inside[0]
        if inside:
            names = ", ".join(one.name for one in inside)
            raise UserError(f"'{path}' holds results of several models ({names}); name one of them")
    read_results(path)  # says what is wrong
    return path


@dataclass
class Flip:
    """An item that one has right and the other wrong."""

    doc_id: int
    prompt: str
    target: str
    answers: tuple[str, str]
    gained: bool


@dataclass
class Row:
    """A task's metric under the first method and another one.

    difference: the other's figure less the first's, in `unit`; interval: with the confidence of the
    comparison; unpaired_interval: what it would be had each been asked other items; p_holm: corrected
    over all rows; detectable: the smallest true difference that as many items would show in four of
    five trials; gained, lost: items that the other alone has right, and that it alone has wrong.
    """

    task: str
    metric: str
    method: str
    first: float
    other: float
    difference: float
    standard_error: float | None
    interval: tuple[float, float] | None
    unpaired_interval: tuple[float, float] | None
    p: float | None
    test: str
    n: int
    unit: str
    higher_is_better: bool
    gained: int | None = None
    lost: int | None = None
    p_holm: float | None = None
    detectable: float | None = None
    flips: list[Flip] = field(default_factory=list)

    def verdict(self, level: float) -> str:
        """better, worse or "no difference shown", by the corrected p-value."""
        if self.p_holm is None or self.p_holm >= level or not self.difference:
            return "no difference shown"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


@dataclass
class Comparison:
    """All rows of methods against the first of them, and what the reader must know."""

    methods: list[str]
    level: float
    rows: list[Row]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        verdicts = {"verdicts": [row.verdict(self.level) for row in self.rows]}
        return {"format": "glassbox-comparison", **asdict(self), **verdicts}


def compare(
    methods: Sequence[Method],
    *,
    metrics: Sequence[str] = (),
    level: float = 0.05,
    max_flips: int = 20,
    seed: int = 0,
) -> Comparison:
    """Every method against the first, on the items that both were asked.

    metrics: names such as acc_norm, or acc_norm,none with its filter; empty: each task's first metric.
    level: of the tests; intervals have 1 - level. max_flips: items kept with their text, of each row.
    Raises UserError where fewer than two methods are given, no task or metric is common, samples were
    not logged, or two files hold other documents under one number.
    """
    if len(methods) < 2:
        raise UserError("a comparison needs two result folders or more")
    if not 0 < level < 1:
        raise UserError(f"level is {level}; give a number between 0 and 1, such as 0.05")
    named: dict[str, int] = {}
    for method in methods:
        named[method.name] = named.get(method.name, 0) + 1
    if repeated := [name for name, count in named.items() if count > 1]:
        raise UserError(f"two methods are called '{repeated[0]}'; name them as NAME=DIR")
    opened = [[read_results(folder) for folder in method.folders] for method in methods]
    notes: list[str] = []
    rows: list[Row] = []
    for number in range(1, len(methods)):
        sides = (methods[0], methods[number])
        files = (opened[0], opened[number])
        everything = [one for side in files for one in side]
        tasks = [
            name
            for name in everything[0]["tasks"]
            if all(name in one["tasks"] for one in everything)
        ]
        if not tasks:
            raise UserError(f"'{sides[0].name}' and '{sides[1].name}' share no task")
        notes += _differing_settings(sides, everything)
        for task in tasks:
            entries = [one["tasks"][task] for one in everything]
            keys = _metric_keys(entries, metrics)
            loaded = [[_Samples(folder, task) for folder in side.folders] for side in sides]
            for key in keys:
                rows.append(
                    _row(task, key, sides, loaded, entries[0]["metrics"][key], level, seed, notes)
                )
                _add_flips(rows[-1], key, loaded, max_flips)
    if not rows:
        raise UserError(f"no task has a metric named {', '.join(metrics)}")
    tested = [row for row in rows if row.p is not None]
    for row, corrected in zip(tested, holm([row.p or 0.0 for row in tested]), strict=True):
        row.p_holm = corrected
    return Comparison([one.name for one in methods], level, rows, list(dict.fromkeys(notes)))


def _metric_keys(entries: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[str]:
    common = [k for k in entries[0]["metrics"] if all(k in one["metrics"] for one in entries)]
    if not wanted:
        return common[:1]
    return [key for key in common if key in wanted or key.partition(",")[0] in wanted]


def _differing_settings(
    sides: tuple[Method, Method], files: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What beside the model is not the same in two evaluations: then the difference is of both."""
    notes = []
    for key in (
        "num_fewshot",
        "seed",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "system_prompt",
    ):
        values = {str(one["settings"].get(key)) for one in files}
        if len(values) > 1:
            notes.append(
                f"{sides[0].name} and {sides[1].name} were asked with different {key}: "
                f"{', '.join(sorted(values))}"
            )
    for task in files[0]["tasks"]:
        hashes = {one["tasks"][task]["sha256"] for one in files if task in one["tasks"]}
        if len(hashes) > 1:
            notes.append(f"{task} was defined differently in {sides[0].name} and {sides[1].name}")
    return notes


class _Samples:
    """The lines of a task's sample file, by filter and document."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder = folder
        self.lines: dict[str, dict[int, dict[str, Any]]] = {}
        for line in read_samples(folder, task):
            self.lines.setdefault(line["filter"], {})[line["doc_id"]] = line


def _row(
    task: str,
    key: str,
    sides: tuple[Method, Method],
    loaded: Sequence[Sequence[_Samples]],
    entry: Mapping[str, Any],
    level: float,
    seed: int,
    notes: list[str],
) -> Row:
    metric, _, filtered = key.partition(",")
    runs = [[one.lines.get(filtered, {}) for one in side] for side in loaded]
    flat = [lines for side in runs for lines in side]
    ids = sorted(set.intersection(*(set(lines) for lines in flat)))
    if not ids:
        raise UserError(f"{task}: the files share no document; evaluate the same ones (--limit)")
    for doc_id in ids:
        hashes = {lines[doc_id]["doc_hash"] for lines in flat}
        if len(hashes) > 1:
            raise UserError(
                f"{task}: document {doc_id} is not the same in all files; evaluate on the same data"
            )
    if most := max(len(lines) for lines in flat) - len(ids):
        notes.append(f"{task}: {most} documents are in one of the files alone and left out")
    raw = [[[lines[i][metric] for i in ids] for lines in side] for side in runs]
    clusters = [flat[0][i].get("cluster") for i in ids]
    grouped = None if any(one is None for one in clusters) else [str(one) for one in clusters]
    kind = str(entry["aggregation"])
    better = bool(entry["higher_is_better"])
    if kind in ("f1", "matthews_corrcoef", "median"):
        measured = _by_bootstrap(kind, raw, seed)
    else:
        measured = _by_means(kind, raw, grouped, seed)
    diff, error, degrees = measured.difference, measured.error, measured.degrees
    interval = unpaired = None
    if error is not None:
        half = t_quantile(1 - level / 2, max(1.0, degrees)) * error
        interval = (diff - half, diff + half)
    if measured.unpaired_error is not None:
        half = t_quantile(1 - level / 2, max(1.0, degrees)) * measured.unpaired_error
        unpaired = (diff - half, diff + half)
    return Row(
        task=task,
        metric=metric if filtered == "none" else key,
        method=sides[1].name,
        first=measured.first,
        other=measured.other,
        difference=diff,
        standard_error=error,
        interval=interval,
        unpaired_interval=unpaired,
        p=measured.p,
        test=measured.test,
        n=len(ids),
        unit=measured.unit,
        higher_is_better=better if measured.unit == "" else False,
        gained=measured.gained,
        lost=measured.lost,
        detectable=None if error is None else detectable(error, level=level),
    )


@dataclass
class _Measured:
    first: float
    other: float
    difference: float
    error: float | None
    unpaired_error: float | None
    degrees: float
    p: float | None
    test: str
    unit: str = ""
    gained: int | None = None
    lost: int | None = None


def _by_means(
    kind: str, raw: Sequence[Sequence[Sequence[Any]]], clusters: Sequence[str] | None, seed: int
) -> _Measured:
    values = [np.array([_numbers(kind, run) for run in side]) for side in raw]  # (runs, items)
    units = np.ones(values[0].shape[1])
    if kind in RATIOS:
        units = np.array([float(pair[1]) for pair in raw[0][0]])
    known = np.isfinite(values[0]).all(0) & np.isfinite(values[1]).all(0)
    values, units = [one[:, known] for one in values], units[known]
    clusters = None if clusters is None else [c for c, k in zip(clusters, known, strict=True) if k]
    if not known.any():
        raise UserError("no item has a value under both methods")
    averages = [one.mean(0) for one in values]
    d = averages[1] - averages[0]

    def estimate(x: Float[ndarray, " N"]) -> Estimate:
        if kind in RATIOS:
            return ratio(x, units)
        return clustered_mean(list(x), clusters) if clusters is not None else mean(x)

    paired, sides = estimate(d), [estimate(one) for one in averages]
    count = len(set(clusters)) if clusters is not None else d.size
    parts = [] if paired.standard_error is None else [(paired.standard_error**2, max(1, count - 1))]
    for one in values:
        if len(one) > 1:
            means = (one.sum(1) / units.sum()) if kind in RATIOS else one.mean(1)
            parts.append((float(means.var(ddof=1)) / len(one), len(one) - 1))
    variance = sum(part for part, _ in parts)
    error = math.sqrt(variance) if parts else None
    spread = sum(part**2 / df for part, df in parts)
    degrees = variance**2 / spread if spread else max(1.0, count - 1.0)
    several = any(len(one) > 1 for one in values)
    binary = kind == "mean" and not several and bool(np.isin(np.stack(averages), (0.0, 1.0)).all())
    measured = _Measured(
        sides[0].value, sides[1].value, paired.value, error, None, degrees, None, "none"
    )
    if all(one.standard_error is not None for one in sides):
        measured.unpaired_error = math.hypot(*(one.standard_error or 0.0 for one in sides))
    if kind in RATIOS or kind == "perplexity":
        measured.unit = "bits/byte" if kind == "bits_per_byte" else "nats/unit"
    if binary:
        measured.gained, measured.lost = int((d > 0).sum()), int((d < 0).sum())
    if several:
        measured.test = "Student's t over items and runs"
        if error:
            measured.p = t_two_sided(paired.value / error, max(1.0, degrees))
        elif error is not None:
            measured.p = 1.0 if paired.value == 0 else 0.0
    elif binary and clusters is None:
        measured.test = "McNemar, mid-p"
        measured.p = mcnemar(measured.gained or 0, measured.lost or 0)
    else:
        sums = d if clusters is None else _cluster_sums(d, clusters)
        measured.test = "sign flips" if clusters is None else "sign flips of passages"
        measured.p = sign_flip(sums, seed=seed)
    return measured


def _numbers(kind: str, run: Sequence[Any]) -> list[float]:
    """One number an item whose mean, or sum over units, is the figure or its logarithm."""
    if kind in MEANS:
        return [math.nan if value is None else float(value) for value in run]
    if kind == "perplexity":
        return [-float(value) for value in run]
    if kind == "weighted_perplexity":
        return [-float(value[0]) for value in run]
    if kind == "bits_per_byte":
        return [-float(value[0]) / math.log(2) for value in run]
    if kind == "brier_score":
        squares = []
        for gold, probabilities in run:
            aim = np.zeros(len(probabilities))
            aim[gold] = 1.0
            squares.append(float(((np.asarray(probabilities) - aim) ** 2).sum()))
        return squares
    raise UserError(f"items put together by '{kind}' cannot be compared pair by pair")


def _cluster_sums(d: Float[ndarray, " N"], clusters: Sequence[str]) -> Float[ndarray, " G"]:
    sums: dict[str, float] = {}
    for name, value in zip(clusters, d, strict=True):
        sums[name] = sums.get(name, 0.0) + float(value)
    return np.array(list(sums.values()))


def _by_bootstrap(kind: str, raw: Sequence[Sequence[Sequence[Any]]], seed: int) -> _Measured:
    """Figures that are no means: items are drawn anew, the same ones for both sides.

    The p-value is twice the share of draws whose difference has the other sign.
    """
    statistic: Callable[[Any], float]
    if kind == "median":
        tables = [[np.array([float(v) for v in run]) for run in side] for side in raw]
        statistic = lambda x: float(np.sort(x)[len(x) // 2])  # noqa: E731
    else:
        tables = [[label_table(run) for run in side] for side in raw]
        statistic = binary_f1 if kind == "f1" else matthews
    n = len(tables[0][0])

    def figure(side: Sequence[Any], pick: Any) -> float:
        return float(np.mean([statistic(table[pick]) for table in side]))

    everything = np.arange(n)
    first, other = (figure(side, everything) for side in tables)
    generator = np.random.Generator(np.random.Philox(seed))
    draws = np.array(
        [
            [figure(side, pick) for side in tables]
            for pick in generator.integers(0, n, size=(1000, n))
        ]
    )
    d = draws[:, 1] - draws[:, 0]
    error = float(d.std(ddof=1))
    beyond = min(float((d <= 0).mean()), float((d >= 0).mean()))
    p = 1.0 if error == 0 and other == first else min(1.0, max(2 * beyond, 1 / 1000))
    apart = float(np.hypot(*draws.std(axis=0, ddof=1)))
    return _Measured(first, other, other - first, error, apart, n - 1, p, "paired bootstrap")


def _add_flips(row: Row, key: str, loaded: Sequence[Sequence[_Samples]], most: int) -> None:
    """Items that changed between right and wrong, as many of each kind as fit into `most`."""
    if row.gained is None or len(loaded[0]) > 1 or len(loaded[1]) > 1:
        return
    metric, _, filtered = key.partition(",")
    before, after = (side[0].lines[filtered] for side in loaded)
    for gained in (True, False):
        found = [
            i
            for i in sorted(set(before) & set(after))
            if before[i][metric] != after[i][metric] and bool(after[i][metric]) is gained
        ]
        for i in found[: most // 2]:
            row.flips.append(
                Flip(
                    i,
                    _prompt(after[i]),
                    _target(after[i]),
                    (_answer(before[i], metric), _answer(after[i], metric)),
                    gained,
                )
            )


def _prompt(line: Mapping[str, Any]) -> str:
    text = str(line["arguments"]["gen_args_0"]["arg_0"])
    return text if len(text) <= SHOWN_TEXT else "…" + text[-SHOWN_TEXT:]


def _options(line: Mapping[str, Any]) -> list[str]:
    requests = list(line["arguments"].values())
    return [str(one["arg_1"]) for one in requests]


def _target(line: Mapping[str, Any]) -> str:
    target = line["target"]
    if isinstance(target, int) and line.get("num_tokens"):
        options = _options(line)
        return options[target].strip() if target < len(options) else str(target)
    return str(target)[:SHOWN_TEXT]


def _answer(line: Mapping[str, Any], metric: str) -> str:
    results = line["filtered_resps"]
    if line.get("num_tokens") is None or len(results) < 2:
        return str(results[0] if results else "")[:SHOWN_TEXT]
    scores = [float(one[0]) for one in results]
    options = _options(line)[: len(scores)]
    lengths = {
        "acc_norm": [max(1, len(one.lstrip())) for one in options],
        "acc_bytes": [max(1, len(one.lstrip().encode("utf-8"))) for one in options],
        "acc_tokens": [max(1, n) for n in line["num_tokens"][: len(options)]],
    }.get(metric, [1] * len(options))
    best = max(range(len(options)), key=lambda i: scores[i] / lengths[i])
    return options[best].strip()
