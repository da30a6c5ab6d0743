"""The story world that a model was trained on, and its exact next-token law beside the model's."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.yaml12 import load_yaml
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.next_token import NextTokenLaw
from glassbox.inspection import story_law
from glassbox.serving.token_log_probs import LEAST, token_bytes, token_text
from glassbox.studio.models import Opened
from glassbox.tokenizers.prefix import text_prefix

_ABOVE = 5
_TOP = 8


def world_of(path: Path) -> StoryWorldConfig | None:
    """The world of the run that a model lies in: the `world` of the nearest recipe above its folder.

    None where no recipe names one.
    """
    for folder in [path, *path.resolve().parents][: _ABOVE + 1]:
        recipe = folder / "recipe.yaml"
        if not recipe.is_file():
            continue
        try:
            raw = load_yaml(recipe)
        except UserError:
            continue
        if isinstance(raw.get("world"), dict) and raw.get("source", "storyworld") == "storyworld":
            return parse(StoryWorldConfig, raw["world"], where=f"'{recipe}', world")
    return None


class Laws:
    """The laws of a few texts, kept for the tokens that a page asks for one after the other."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._held: OrderedDict[tuple[Path, tuple[int, ...]], NextTokenLaw] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, opened: Opened, world: StoryWorldConfig, told: Sequence[int]) -> NextTokenLaw:
        """The law along `told` and behind it. Raises UserError for what the generator cannot write."""
        key = (opened.path, tuple(told))
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        found = story_law(world, opened.tokenizer, list(told), ended=False)
        with self._lock:
            self._held[key] = found
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return found


def truth(opened: Opened, laws: Laws, ids: Sequence[int], place: int) -> dict[str, Any]:
    """The generator's law of the token at `place` and what the model gives each of its tokens.

    top: id, name, log-probability under the generator and under the model, the likeliest first, the
    token that came among them. kl: KL(truth || model) in nats; entropy: of the truth; own: the token's
    two log-probabilities (that of the generator None where it is impossible). count: how many tokens
    are possible. before[n]: log-probability of each earlier token under the generator.
    Raises UserError where the model has no world, for a text that the world's generator cannot write,
    and for a chat, whose turns are no document of the world.
    """
    world = world_of(opened.path)
    if world is None:
        raise UserError("no recipe beside this model names a story world")
    if not 0 < place < len(ids):
        raise UserError(f"place = {place}: give one from 1 to {len(ids) - 1}")
    prefix = text_prefix(opened.tokenizer, "auto")
    told = [int(token) for token in ids[:place]]
    if prefix and told[: len(prefix)] == list(prefix):
        told = told[len(prefix) :]
    if not set(opened.tokenizer.special_tokens.values()).isdisjoint(told):
        raise UserError(
            "the text so far is a chat; the law is that of plain documents of the story world: "
            "use a model of its pre-training stage, which continues the text"
        )
    law = laws.of(opened, world, told)
    after = law.laws[-1]
    with torch.no_grad():
        hidden = opened.model(torch.tensor([list(ids[:place])], device=opened.model.device))
    log_q = hidden[0, -1].double().log_softmax(-1).cpu()
    own = int(ids[place])
    kl = math.fsum(p * (math.log(p) - float(log_q[token])) for token, p in after.items())
    likeliest = sorted(after, key=lambda token: -after[token])[:_TOP]
    shown = likeliest if own in likeliest or own not in after else [*likeliest[:-1], own]
    return {
        "top": [
            [
                token,
                token_text(token_bytes(opened.tokenizer, token)),
                round(math.log(after[token]), 5),
                round(max(float(log_q[token]), LEAST), 5),
            ]
            for token in shown
        ],
        "kl": kl,
        "entropy": -math.fsum(p * math.log(p) for p in after.values()),
        "count": len(after),
        "own": [
            round(math.log(after[own]), 5) if own in after else None,
            round(max(float(log_q[own]), LEAST), 5),
        ],
        "before": [round(value, 4) for value in law.log_probs],
    }
