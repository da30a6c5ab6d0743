"""A model of the story world beside the truth: KL against excess over many documents, and who-has-what by layer.

    python bench/truth.py RUN [--documents 500] [--stories 600] [--figure who_has.png] [--json FILE]

RUN is a run of the quickstart or its pre-training stage. Over documents drawn from the generator the mean KL divergence and
the mean excess of the loss have the same expectation; their paired difference must lie within three standard
errors. A linear probe then reads off each layer whether the hero has the thing that the story is about.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import glassbox
from glassbox.data.storyworld import generate
from glassbox.inspection import (
    divergence_from_truth,
    mean_divergence,
    probe_who_has,
    story_law,
)
from glassbox.studio.world import world_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--stories", type=int, default=600)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    loaded = glassbox.load(asked.run)
    world = world_of(loaded.path)
    if world is None:
        raise SystemExit(f"no recipe beside '{asked.run}' names a story world")
    model, tokenizer = loaded.model, loaded.tokenizer
    found, left_out, begun = [], 0, time.perf_counter()
    for number, document in enumerate(
        generate(world, "document", "heldout", count=asked.documents)
    ):
        law = story_law(world, tokenizer, document.text)
        if len(law.ids) >= model.config.context_length:
            left_out += 1
            continue
        assert abs(law.log_prob - document.log_prob) < 1e-6, (law.log_prob, document.log_prob)
        found.append(divergence_from_truth(model, tokenizer, law))
        if number % 50 == 49:
            print(f"{number + 1} documents, {time.perf_counter() - begun:.0f} s", flush=True)
    told = mean_divergence(found)
    tokens = told.num_tokens / told.num_documents
    print(
        f"{told.num_documents} documents ({left_out} longer than the context left out), {tokens:.0f} tokens each\n"
        f"mean KL {told.kl:.3f} nats a document ({told.kl / tokens:.5f} a token), "
        f"mean excess {told.excess:.3f} ({told.excess / tokens:.5f}); "
        f"difference {told.excess - told.kl:+.3f}, three standard errors {3 * told.difference_error:.3f}: "
        f"{'agree' if told.agrees else 'DIFFER'}"
    )
    stories = [
        document.text
        for document in generate(world, "document", "heldout", count=3 * asked.stories)
        if "Question:" not in document.text
    ][: asked.stories]
    probe = probe_who_has(model, tokenizer, world, stories)
    for layer, accuracy in enumerate(probe.accuracy):
        print(f"{'embedding' if layer == 0 else f'after block {layer - 1}':>15} {accuracy:.3f}")
    print(f"chance {probe.chance:.3f}; {probe.num_train} and {probe.num_test} sentence ends")
    if asked.figure:
        draw(probe, asked.figure)
    if asked.json:
        result = {
            "run": asked.run, "documents": told.num_documents, "kl": told.kl, "excess": told.excess,
            "difference_error": told.difference_error, "accuracy": probe.accuracy, "chance": probe.chance,
            "torch": torch.__version__,
        }  # fmt: skip
        asked.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def draw(probe, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot(
        range(len(probe.accuracy)),
        probe.accuracy,
        marker="o",
        color="#0b7a70",
        label="linear probe",
    )
    axes.axhline(probe.chance, color="#888888", linestyle="--", label="most frequent answer")
    axes.set_xticks(
        range(len(probe.accuracy)), ["embed.", *map(str, range(len(probe.accuracy) - 1))]
    )
    axes.set_xlabel("after block")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0.4, 1.02)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
