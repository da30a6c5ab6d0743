"""Near-duplicates against datasketch: documents a second, recall, precision, the S-curve.

    python bench/minhash.py WIKIPEDIA.txt C4.jsonl [--copies 8] [--words 600] [--repeats 3] \
        [--plot docs/results/minhash_s_curve.png]

Makes a labelled set: each document, edited copies of it (words replaced, removed or added, by a
known share), and long documents cut into stretches that have nothing to do with one another. The exact
Jaccard similarity of every pair that could be near the threshold is computed from the sets of strings, so
the labels know nothing of hashes. Both contestants get the same 5-word shingles, 128 permutations, the same
bands and rows, and work on one core in turns (A B A B); seconds are those of the processor.
datasketch is measured in its fastest form (all shingles of a document in one `update_batch`) and as its
README shows it (`update` for each shingle, over a part of the documents). `--words 80` makes documents of
half a kilobyte, where what each costs beside its shingles counts most.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import datasketch
from harness import Bench

from glassbox.data.curation.clusters import UnionFind
from glassbox.data.curation.minhash import (
    MinHashSpec,
    NearDuplicates,
    estimate,
    find_probability,
    jaccard,
    minima,
)
from glassbox.data.curation.shingles import plain_words
from glassbox.data.curation.step import Record

SHINGLE, PERMUTATIONS = 5, 128
SHARES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1)


def read_documents(paths: list[Path], length: int) -> list[str]:
    """Texts: lines of a .jsonl, or lines of a text file; long ones in stretches of `length` words."""
    documents: list[str] = []
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
        for text in texts:
            words = text.split(" ")
            documents += [" ".join(words[i : i + length]) for i in range(0, len(words), length)]
    return [document for document in documents if len(document) > 200]


def edit(text: str, share: float, rng: random.Random, vocabulary: list[str]) -> str:
    """The text with this share of its words replaced, removed or followed by another."""
    words = re.findall(r"\S+\s*", text)
    for place in rng.sample(range(len(words)), round(share * len(words))):
        other = rng.choice(vocabulary) + " "
        words[place] = rng.choice([other, "", words[place].rstrip() + " " + other])
    return "".join(words)


def labelled_set(documents: list[str], copies: int, rng: random.Random) -> list[str]:
    """Documents and edited copies, shuffled."""
    vocabulary = sorted({word for document in documents for word in document.split()})
    texts = list(documents)
    for number in range(copies):
        share = SHARES[number % len(SHARES)]
        texts += [edit(document, share, rng, vocabulary) for document in documents]
    rng.shuffle(texts)
    return texts


def shingle_strings(text: str) -> set[str]:
    """The 5-word shingles of a text as strings, by the plain version."""
    words = plain_words(text)
    size = min(SHINGLE, len(words))
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()


def near_pairs(sets: list[set[str]], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair whose exact Jaccard similarity reaches the threshold: by counting shared shingles."""
    holders: dict[str, list[int]] = defaultdict(list)
    pairs: dict[tuple[int, int], float] = {}
    for later, shingles in enumerate(sets):
        shared: dict[int, int] = defaultdict(int)
        for shingle in shingles:
            for earlier in holders[shingle]:
                shared[earlier] += 1
            holders[shingle].append(later)
        for earlier, count in shared.items():
            similarity = count / (len(shingles) + len(sets[earlier]) - count)
            if similarity >= threshold:
                pairs[earlier, later] = similarity
    return pairs


def ours(texts: list[str], step: NearDuplicates) -> set[int]:
    """The numbers of the documents that the step drops."""
    signatures = []
    together = max(1, 65536 * len(texts) // sum(map(len, texts)))  # as the runner does
    for low in range(0, len(texts), together):
        records = [Record(t, str(i)) for i, t in enumerate(texts[low : low + together], start=low)]
        names = [record.id for record in records]
        signatures += list(zip(names, step.signatures(records), strict=True))
    return {int(name) for name in step.decide(signatures)}


def peer(texts: list[str], step: NearDuplicates, *, batch: bool = True) -> set[int]:
    """The numbers of the documents for which datasketch's index holds an earlier one."""
    index = datasketch.MinHashLSH(num_perm=PERMUTATIONS, params=(step.num_bands, step.rows))
    dropped = set()
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        size = min(SHINGLE, len(words))
        shingles = [" ".join(words[i : i + size]).encode() for i in range(len(words) - size + 1)]
        sketch = datasketch.MinHash(num_perm=PERMUTATIONS)
        if batch:
            sketch.update_batch(shingles)
        else:
            for shingle in shingles:
                sketch.update(shingle)
        if index.query(sketch):
            dropped.add(number)
        index.insert(number, sketch)
    return dropped


def speed(bench: Bench, texts: list[str], step: NearDuplicates) -> None:
    """Documents a second of the whole task, and the ratios."""
    part = texts[: max(1, len(texts) // 20)]
    times = bench.in_turns(
        {
            "glassbox": lambda: ours(texts, step),
            "datasketch, update_batch": lambda: peer(texts, step),
            "datasketch, update": lambda: peer(part, step, batch=False),
        },
        warm=0,
    )
    seconds = {name: one.median for name, one in times.items()}
    seconds["datasketch, update"] *= len(texts) / len(part)
    size = sum(len(text.encode()) for text in texts) / 1e6
    for name, value in seconds.items():
        bench.row(
            contestant=f"{name:26}",
            documents_s=len(texts) / value,
            megabytes_s=size / value,
            times_ours=value / seconds["glassbox"],
        )


def quality(bench: Bench, texts: list[str], step: NearDuplicates) -> None:
    """Recall and precision against the exact similarities of all pairs."""
    sets = [shingle_strings(text) for text in texts]
    pairs = near_pairs(sets, step.threshold)
    union = UnionFind(len(texts))
    for one, other in pairs:
        union.join(one, other)
    expected = {i for i in range(len(texts)) if union.find(i) != i}
    found = ours(texts, step)
    keys = [
        step.band_keys(minima(step.shingles(text), step.permutations, step.seed)) for text in texts
    ]
    hit = sum(bool((keys[one] == keys[other]).any()) for one, other in pairs)
    edge = [pair for pair, value in pairs.items() if value < step.threshold + 0.05]
    edge_hit = sum(bool((keys[one] == keys[other]).any()) for one, other in edge)
    others = peer(texts, step)
    bench.fact(documents=len(texts), near_pairs=len(pairs), threshold=step.threshold)
    bench.fact(
        found_by_bands=hit / len(pairs),
        near_threshold=len(edge),
        found_near_threshold=edge_hit / max(len(edge), 1),
    )
    bench.fact(
        to_drop=len(expected),
        dropped=len(found),
        recall=len(found & expected) / len(expected),
        precision=len(found & expected) / len(found),
    )
    bench.fact(  # which does not verify what its index finds
        datasketch_recall=len(others & expected) / len(expected),
        datasketch_precision=len(others & expected) / len(others),
    )


def measured_curve(
    documents: list[str], step: NearDuplicates, rng: random.Random
) -> list[tuple[float, float, bool]]:
    """(Jaccard, estimate, found by a band) of documents and copies edited by every share up to 20%."""
    vocabulary = sorted({word for document in documents for word in document.split()})
    points = []
    for number, document in itertools.product(range(20), documents):
        copy = edit(document, 0.2 * (number + rng.random()) / 20, rng, vocabulary)
        sets = step.shingles(document), step.shingles(copy)
        small = [minima(part, step.permutations, number) for part in sets]
        hit = bool((step.band_keys(small[0]) == step.band_keys(small[1])).any())
        points.append((jaccard(*sets), estimate(*small), hit))
    return points


def plot(points: list[tuple[float, float, bool]], step: NearDuplicates, path: Path) -> None:
    """The S-curve and the estimates' spread beside what theory says of them."""
    import numpy as np
    from matplotlib.figure import Figure

    values = np.array(points, float)
    edges = np.linspace(0, 1, 26)
    place = np.clip(np.digitize(values[:, 0], edges) - 1, 0, 24)
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    curve, spread = figure.subplots(1, 2)
    x = np.linspace(0, 1, 300)
    theory = [find_probability(v, step.num_bands, step.rows) for v in x]
    curve.plot(x, theory, color="#3060c0", label=f"1 - (1 - J^{step.rows})^{step.num_bands}")
    spread.plot(
        x, np.sqrt(x * (1 - x) / step.permutations), color="#3060c0", label="sqrt(J (1 - J) / 128)"
    )
    for bin_number in range(25):
        rows = values[place == bin_number]
        if len(rows) < 20:
            continue
        share, center = rows[:, 2].mean(), rows[:, 0].mean()
        error = 2 * np.sqrt(max(share * (1 - share), 1e-4) / len(rows))
        curve.errorbar(center, share, error, fmt="o", color="#c04020", markersize=4)
        deviation = np.sqrt(np.mean((rows[:, 1] - rows[:, 0]) ** 2))
        spread.plot(center, deviation, "o", color="#c04020", markersize=4)
    curve.axvline(step.threshold, color="0.6", linestyle=":")
    curve.set(xlabel="Jaccard similarity", title="share of pairs that a band finds")
    spread.set(xlabel="Jaccard similarity", title="deviation of the estimate", ylim=(0, 0.06))
    for axes in (curve, spread):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    print(f"{len(points):,} pairs drawn: {path}")


def main() -> None:
    bench = Bench(__doc__, threads=1, repeats=3)
    add = bench.parser.add_argument
    add("paths", nargs="+", type=Path)
    add("--copies", type=int, default=8)
    add("--words", type=int, default=600, help="of a document, at most")
    add("--seed", type=int, default=0)
    add("--plot", type=Path)
    arguments = bench.options()
    rng = random.Random(arguments.seed)
    step = MinHashSpec(shingle=SHINGLE, permutations=PERMUTATIONS).build()
    assert isinstance(step, NearDuplicates)
    documents = read_documents(arguments.paths, arguments.words)
    texts = labelled_set(documents, arguments.copies, rng)
    bench.fact(originals=len(documents), characters=sum(map(len, documents)) / len(documents))
    quality(bench, texts, step)
    speed(bench, texts, step)
    if arguments.plot:
        plot(measured_curve(documents, step, rng), step, arguments.plot)
    bench.finish()


if __name__ == "__main__":
    main()
