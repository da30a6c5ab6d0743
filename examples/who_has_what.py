"""Look into a model of the story world: how far it is from the truth, and where it knows who has what.

    python examples/who_has_what.py [MODEL] [STORIES]

MODEL is a run on the story world's English documents, such as runs/quickstart.
"""

from __future__ import annotations

import sys

import torch

import glassbox
from glassbox import inspection
from glassbox.data.storyworld import StoryWorldConfig, generate


def main(name: str, count: int = 200) -> list[float]:
    loaded = glassbox.load(name)
    model, tokenizer, world = loaded.model, loaded.tokenizer, StoryWorldConfig()
    stories = [document.text for document in generate(world, "story", "heldout", count=count)]

    law = inspection.story_law(world, tokenizer, stories[0])
    beside = inspection.divergence_from_truth(model, tokenizer, law)
    print(
        f"{beside.kl.sum():.1f} nats from the truth over {len(beside.kl)} tokens, most of them after"
    )
    worst = int(beside.kl.argmax())
    truth = sorted(law.laws[worst].items(), key=lambda item: -item[1])[:3]
    print(repr(tokenizer.decode(law.ids[:worst])[-60:]), "where may come")
    print(*(f"  {share:.0%} {tokenizer.decode([token])!r}" for token, share in truth))

    ids = torch.tensor([[tokenizer.eos_id, *law.ids[:worst]]])
    lens = inspection.logit_lens(model, ids, at=(0, -1))
    print("by layer the model says", [tokenizer.decode([int(one)]) for one in lens.argmax(-1)])

    probe = inspection.probe_who_has(model, tokenizer, world, stories)
    shares = ", ".join(f"{share:.0%}" for share in probe.accuracy)
    print(f"does the hero have it now? right by layer: {shares}; the commonest: {probe.chance:.0%}")
    return probe.accuracy


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["runs/quickstart"]
    main(arguments[0], *map(int, arguments[1:2]))
