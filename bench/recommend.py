"""Recommenders side by side: Recall@10, NDCG@10 and MRR over all items, three seeds, two sources of lists.

    python bench/recommend.py [--movielens FOLDER] [--seeds 3] [--kinds skipgram bpr] [--write]

Generated lists: seed s means another world and another training. MovieLens-100k: the same lists, another
training. Each list's last item is asked for, all items are ranked, those of the list excluded. The
defaults of all models were chosen on the generated world of seed 100, which is not among these.
Beside them: gensim's Word2Vec with the settings of our skip-gram, scored in the same way; the exact
probabilities of the generated world; and a cold start, one song in twenty taken out of all training lists.
--write makes docs/results/recommend.md. No times are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Bench

from glassbox.core.config import parse
from glassbox.core.files import write_text
from glassbox.core.seeding import derive_seed
from glassbox.recommend.item_vectors import SkipGram
from glassbox.recommend.playlists import Split, leave_last_out, read_playlists, without_items
from glassbox.recommend.ranking import METRICS, Ranked, interval, rank_targets
from glassbox.recommend.recommending import rank_exactly
from glassbox.recommend.specs import Recipe
from glassbox.recommend.world import World

KINDS = ("popularity", "cooccurrence", "bpr", "skipgram", "cbow", "transformer")
REFERENCE = "cooccurrence"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "recommend.md"
COLD_SHARE = 20


def gensim_ranked(split: Split, seed: int) -> Ranked:
    """gensim's tables in our scoring."""
    from gensim.models import Word2Vec

    spec = SkipGram()
    model = Word2Vec(
        [[str(item) for item in one] for one in split.train],
        vector_size=spec.dimension, window=spec.window, negative=spec.negatives, sample=spec.sample,
        epochs=spec.epochs, alpha=spec.lr, min_alpha=spec.last_lr, sg=1, min_count=1, workers=1,
        seed=seed + 1, batch_words=1000,
    )  # fmt: skip
    tables = {
        name: torch.zeros(split.train.num_items, spec.dimension) for name in ("vectors", "outputs")
    }
    for word, place in model.wv.key_to_index.items():
        tables["vectors"][int(word)] = torch.from_numpy(model.wv.vectors[place].copy())
        tables["outputs"][int(word)] = torch.from_numpy(model.syn1neg[place].copy())
    return rank_targets(spec.restore(tables, split.train.seen), split)


def ranked(kind: str, split: Split, seed: int, **settings: Any) -> Ranked:
    """Train one and rank."""
    spec = parse(Recipe, {"model": {"kind": kind, **settings}}).model
    return rank_targets(spec.build(split.train, seed=seed), split)


def cold(split: Split, seed: int) -> dict[str, Ranked]:
    """The last songs of lists when training never saw them: with and without their artist's others."""
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "cold")))
    number = split.train.num_items
    forgotten = rng.choice(number, size=number // COLD_SHARE, replace=False)
    after = without_items(split, forgotten)
    chance = {n: np.full(len(after.asked), 10 / number) for n in METRICS[:1]}
    return {
        "skipgram, artist's mean": ranked("skipgram", after, seed),
        "skipgram, without": ranked("skipgram", after, seed, relatives=False),
        "popularity": ranked("popularity", after, seed),
        "chance": Ranked(chance, np.ones(len(after.asked), dtype=bool)),
    }


def pooled(parts: Sequence[Ranked], name: str) -> str:
    """Mean over the lists of all seeds with its interval, and the means of the seeds."""
    found = interval(np.concatenate([part.values[name] for part in parts]))
    return f"{found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def by_seed(parts: Sequence[Ranked], name: str) -> str:
    """The means of the seeds."""
    return ", ".join(f"{part.values[name].mean():.4f}" for part in parts)


def lines(results: Mapping[str, Sequence[Ranked]], *, same_lists: bool) -> list[str]:
    """A table. The same lists under several seeds are averaged list by list, not counted again."""
    if same_lists:
        joined = {
            name: [
                Ranked({m: np.mean([p.values[m] for p in parts], axis=0) for m in METRICS}, None)
            ]
            for name, parts in results.items()
        }
    else:
        joined = {name: list(parts) for name, parts in results.items()}
    made = [
        f"| model | {' | '.join(METRICS)} | {METRICS[1]} of each seed | {METRICS[1]} over {REFERENCE} |",
        "|---" * (len(METRICS) + 3) + "|",
    ]
    for name, parts in joined.items():
        cells = [pooled(parts, metric) for metric in METRICS]
        over = ""
        if name != REFERENCE and REFERENCE in joined:
            pairs = zip(parts, joined[REFERENCE], strict=True)
            apart = np.concatenate([a.values[METRICS[1]] - b.values[METRICS[1]] for a, b in pairs])
            found = interval(apart)
            over = f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
        made.append(
            f"| {name} | {' | '.join(cells)} | {by_seed(results[name], METRICS[1])} | {over} |"
        )
    return made


def main() -> None:
    bench = Bench(__doc__, threads=1)
    add = bench.parser.add_argument
    add("--movielens", type=Path, help="the folder of ml-100k.inter and ml-100k.item")
    add("--seeds", type=int, default=3)
    add("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    add("--write", action="store_true", help=f"write {PAGE.name}")
    options = bench.options()
    seeds = range(options.seeds)
    generated: dict[str, list[Ranked]] = {}
    colds: dict[str, list[Ranked]] = {}
    films: dict[str, list[Ranked]] = {}

    def note(
        where: str, results: dict[str, list[Ranked]], name: str, seed: int, one: Ranked
    ) -> None:
        results.setdefault(name, []).append(one)
        figures = {metric: float(values.mean()) for metric, values in one.values.items()}
        bench.row(lists=where, model=name, seed=seed, **figures)

    for seed in seeds:
        world = World(seed=seed)
        split = leave_last_out(world.playlists())
        for kind in options.kinds:
            note("generated", generated, kind, seed, ranked(kind, split, seed))
        if "skipgram" in options.kinds:
            note("generated", generated, "gensim, skipgram", seed, gensim_ranked(split, seed))
            for name, one in cold(split, seed).items():
                colds.setdefault(name, []).append(one)
        note("generated", generated, "exact probabilities", seed, rank_exactly(world, split))
    about = ""
    if options.movielens:
        playlists = read_playlists(options.movielens)
        split = leave_last_out(playlists)
        unseen = int((split.train.counts[split.targets] == 0).sum())
        about = (
            f"{len(playlists):,} users, {playlists.num_items:,} films, {len(playlists.flat):,} ratings; "
            f"of {len(split.asked):,} films asked for, {unseen} stand in no training list."
        )
        for seed in seeds:
            for kind in options.kinds:
                note("movielens", films, kind, seed, ranked(kind, split, seed))
            if "skipgram" in options.kinds:
                note("movielens", films, "gensim, skipgram", seed, gensim_ranked(split, seed))
    bench.finish()
    if options.write:
        write_text(PAGE, page(generated, colds, films, about, World()))
        print(f"written: {PAGE}")


def page(
    generated: dict[str, list[Ranked]],
    colds: dict[str, list[Ranked]],
    films: dict[str, list[Ranked]],
    about: str,
    world: World,
) -> str:
    """The page of results."""
    songs = world.num_artists * world.songs_per_artist
    seeds = len(next(iter(generated.values())))
    text = [
        "# Recommenders side by side",
        "",
        "<!-- written by bench/recommend.py --write -->",
        "",
        "The last item of each list is held out; all items are ranked, those of the list excluded. In "
        "brackets: 95 % intervals by bootstrap over lists. All models have their defaults, which were "
        "chosen on a generated world of another seed. How to train and use them: "
        "[recommendation](../guides/recommend.md).",
        "",
        "## Generated playlists",
        "",
        f"{world.num_playlists:,} lists of {world.shortest} to {world.longest} of {songs:,} songs; "
        f"{seeds} seeds, each another world and another training. The last row ranks by the exact "
        "probabilities of the world: no model can do better on average.",
        "",
        *lines(generated, same_lists=False),
        "",
    ]
    if colds:
        metric = METRICS[0]
        asked = sum(len(part.unseen) for part in colds["chance"])
        text += [
            "## Cold start",
            "",
            f"One song in {COLD_SHARE} is taken out of all training lists, and the lists that went on "
            f"with one of them are asked ({asked:,} over all seeds). A song that no list holds "
            "has no vector of its own: with its artist's mean it can be found, without it "
            "no model of lists alone can place it.",
            "",
            f"| model | {metric} |\n|---|---|",
            *(f"| {name} | {pooled(parts, metric)} |" for name, parts in colds.items()),
            "",
        ]
    if films:
        text += [
            "## MovieLens-100k",
            "",
            f"{about} Films of one second stand in the order of the file. Means of {seeds} trainings, "
            "list by list. The lists reach over the same time, so models have seen what other users "
            "rated after the film that is asked for.",
            "",
            *lines(films, same_lists=True),
            "",
        ]
    return "\n".join(text).rstrip() + "\n"


if __name__ == "__main__":
    main()
