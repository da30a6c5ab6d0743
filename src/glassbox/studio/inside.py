"""Inside a token: what the layers would have said, what heads looked at, what earlier tokens did,
and the same answer with parts of the model switched off or steered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.inference.requests import TokenEvent
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inspection import (
    Inspection,
    ablate,
    attention_patterns,
    direct_logit_attribution,
    inspect,
    integrated_gradients,
    names,
    steering_vector,
)
from glassbox.inspection.lenses import unembed
from glassbox.inspection.sites import num_heads
from glassbox.serving.errors import ApiError
from glassbox.serving.token_log_probs import LEAST, token_bytes, token_text
from glassbox.serving.worker import Failure, Item, Job, Result
from glassbox.studio.bodies import Changes
from glassbox.studio.models import Opened
from glassbox.studio.world import world_of

MOST_TOKENS = 2048
"""Attention matrices of longer texts are not computed: a layer's grow with the square."""
GRADIENT_STEPS = 16
"""Points of the quadrature of integrated gradients."""
_TOP = 5
_TILE = 256
_SECONDS = 300.0
T = TypeVar("T")


def in_engine_thread(opened: Opened, function: Callable[[], T]) -> T:
    """The function's value, computed between two steps of the model's engine, which runs in one thread.

    Raises UserError for what the function raises as one, ApiError 500 for other failures.
    """
    future: Future[T] = Future()

    def work() -> Iterator[T]:
        yield function()

    def deliver(item: Item) -> None:
        if future.done():
            return
        if isinstance(item, Result):
            future.set_result(item.value)
        elif isinstance(item, Failure):
            wrong = item.status == 400
            future.set_exception(
                UserError(item.message) if wrong else ApiError(item.status, item.message)
            )

    opened.service.worker.submit(Job([], deliver, work=work()))
    return future.result(timeout=_SECONDS)


def overview(opened: Opened, ids: Sequence[int], place: int) -> dict[str, Any]:
    """What each layer makes of the token at `place` of ids, which its predecessor predicts.

    lens: after no layer, one, ... all: the likeliest tokens of the logit lens, and the token's own
    log-probability and rank there. norms: |residual stream| before each layer, |mixer output|,
    |feed-forward output|. parts: the token's logit as a sum over the parts of the model (direct logit
    attribution); None for models whose logit is no such sum. heads: of each layer with attention.
    routes: of each layer with experts, those chosen for the token before, and their gates. states: of each
    recurrent layer, the norm of its state after that token. world: whether `truth` can be asked.
    """
    tokenizer, model = opened.tokenizer, opened.model
    _check(ids, place)
    batch = torch.tensor([list(ids[:place])], device=model.device)
    known = names(model)
    count = len(model.blocks)
    streams = ["blocks.0.residual_pre", *(f"blocks.{n}.residual_post" for n in range(count))]
    branches = [f"blocks.{n}.{part}.output" for n in range(count) for part in ("mixer", "ffn")]
    branches = [name for name in branches if name in known]
    extra = [
        name for n in range(count) for part in ("ffn.experts", "ffn.gates", "ffn.router", "mixer.state")
        if (name := f"blocks.{n}.{part}") in known
    ]  # fmt: skip
    with torch.no_grad(), inspect(model, [*streams, *branches, *extra]) as run:
        model.hidden_states(batch)
        hidden = torch.stack([run[name][0, -1].float() for name in streams])  # (L + 1, D)
        written = {name: float(run[name][0, -1].float().norm()) for name in branches}
        routes = [
            _route(run, n) if f"blocks.{n}.ffn.experts" in known else None for n in range(count)
        ]
        states = [
            round(float(run[name].float().norm()), 4) if name in known else None
            for name in (f"blocks.{n}.mixer.state" for n in range(count))
        ]
        logits = unembed(model, torch.stack([run[name][0, -1] for name in streams])).float()
    log_probs = logits.log_softmax(-1)
    own = log_probs[:, ids[place]]
    ranks = (log_probs > own[:, None]).sum(-1) + 1
    values, tops = log_probs.topk(min(_TOP, log_probs.shape[-1]), dim=-1)
    lens = [
        {
            "top": [
                [token, _name(tokenizer, token), round(max(value, LEAST), 4)]
                for token, value in zip(tops[n].tolist(), values[n].tolist(), strict=True)
            ],
            "own": round(max(float(own[n]), LEAST), 4),
            "rank": int(ranks[n]),
        }
        for n in range(count + 1)
    ]
    return {
        "place": place,
        "token": _name(tokenizer, ids[place]),
        "lens": lens,
        "norms": {
            "residual": [round(value, 4) for value in hidden.norm(dim=-1).tolist()],
            "mixer": [_rounded(written.get(f"blocks.{n}.mixer.output")) for n in range(count)],
            "ffn": [_rounded(written.get(f"blocks.{n}.ffn.output")) for n in range(count)],
        },
        "parts": _parts(opened, batch, ids[place]),
        "heads": [
            num_heads(block.mixer) if f"blocks.{n}.mixer.attention" in known else 0
            for n, block in enumerate(model.blocks)
        ],
        "switches": [
            num_heads(block.mixer) if f"blocks.{n}.mixer.heads" in known else 0
            for n, block in enumerate(model.blocks)
        ],
        "routes": routes,
        "states": states,
        "world": world_of(opened.path) is not None,
        "tokens": [_name(tokenizer, token) for token in ids[:place]],
    }


def _route(run: Inspection, layer: int) -> dict[str, Any]:
    """Which experts the last token was sent to in a layer, and with which weights."""
    prefix = f"blocks.{layer}.ffn."
    experts, gates = run[f"{prefix}experts"][0, -1], run[f"{prefix}gates"][0, -1]
    return {
        "chosen": [
            [int(expert), round(float(gate), 4)]
            for expert, gate in zip(experts.tolist(), gates.tolist(), strict=True)
        ],
        "count": int(run[f"{prefix}router"].shape[-1]),
    }


def _parts(opened: Opened, batch: Tensor, token: int) -> list[list[Any]] | None:
    targets = torch.full_like(batch, token)
    try:
        found = direct_logit_attribution(opened.model, batch, targets)
    except UserError:
        return None
    values = found.values[:, 0, -1].float().tolist()
    return [[name, round(value, 4)] for name, value in zip(found.parts, values, strict=True)]


def influence(opened: Opened, ids: Sequence[int], place: int) -> dict[str, Any]:
    """How much each earlier token moved the log-probability of the one at `place`.

    Integrated gradients from the mean embedding, with 16 points: the values sum to the difference
    between the log-probability here and at that baseline, but for the quadrature's error.
    """
    _check(ids, place)
    batch = torch.tensor([list(ids[:place])], device=opened.model.device)
    token = ids[place]

    def log_prob(logits: Tensor) -> Tensor:
        return logits[:, -1].float().log_softmax(-1)[:, token]

    with torch.inference_mode(False), torch.enable_grad():
        values = integrated_gradients(opened.model, batch, log_prob, steps=GRADIENT_STEPS)
    return {"values": [round(value, 5) for value in values[0].tolist()]}


class Patterns:
    """Attention of a few layers, kept for the tiles that a page asks for one after the other."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._held: OrderedDict[tuple[str, tuple[int, ...], int], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def layer(self, opened: Opened, ids: Sequence[int], layer: int) -> Tensor:
        """(H, T, T), row by row what each token looks at. Called in the engine's thread.

        Raises UserError for a layer without attention, and for more than 2,048 tokens.
        """
        if len(ids) > MOST_TOKENS:
            raise UserError(
                f"the text has {len(ids):,} tokens; attention is shown for up to {MOST_TOKENS:,}"
            )
        key = (opened.name, tuple(ids), layer)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        batch = torch.tensor([list(ids)], device=opened.model.device)
        found = attention_patterns(opened.model, batch, layers=[layer])[layer][0].float().cpu()
        with self._lock:
            self._held[key] = found
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return found

    def rows(self, opened: Opened, ids: Sequence[int], place: int, layer: int) -> dict[str, Any]:
        """What each head of a layer looks at from the token before `place`: (H, place) weights."""
        _check(ids, place)
        weights = self.layer(opened, ids[:place], layer)[:, -1]
        return {"layer": layer, "weights": [[round(w, 5) for w in row] for row in weights.tolist()]}

    def tile(
        self, opened: Opened, ids: Sequence[int], layer: int, head: int, row: int, column: int
    ) -> dict[str, Any]:
        """256 by 256 weights of one head from (row, column) on, as bytes: 255 is weight 1."""
        weights = self.layer(opened, ids, layer)
        if not 0 <= head < len(weights):
            raise UserError(f"head = {head}: layer {layer} has {len(weights)}, counted from 0")
        part = weights[head, row : row + _TILE, column : column + _TILE]
        shades = (part.abs().clamp(max=1) * 255).round().to(torch.uint8)
        return {"size": len(ids), "rows": shades.tolist()}


def changed(opened: Opened, changes: Changes) -> AbstractContextManager[Inspection]:
    """A `with` block in which parts of the model are switched off, or its stream is steered.

    Raises UserError for parts that the model has not.
    """
    heads = [(layer, head) for layer, head in changes.heads]
    found = ablate(opened.model, [*heads, *changes.parts])
    if changes.steer is not None:
        steer, encode = changes.steer, opened.tokenizer.encode
        toward, away = encode(steer.toward), encode(steer.away)
        if not toward or not away:
            raise UserError("steering needs two texts; write what to steer toward and away from")
        at = f"blocks.{steer.layer}.residual_post"
        vector = steering_vector(opened.model, [toward], [away], at=at)
        found.steer(at, vector, scale=steer.scale)
    return found


@dataclass(frozen=True)
class ChangedSteps:
    """The steps of one answer under changes, with an engine of its own beside the model's other one."""

    opened: Opened
    ids: Sequence[int]
    params: SamplingParams
    changes: Changes

    def __call__(self) -> Iterator[list[TokenEvent]]:
        """New tokens step by step; the changes hold inside each step only."""
        engine = Engine(
            self.opened.model,
            self.opened.tokenizer,
            max_batch=1,
            prefix_sharing=False,
            prepacked=False,
        )
        block = changed(self.opened, self.changes)
        engine.add(self.ids, self.params)
        while engine.has_work:
            with block:
                events = engine.step()
            yield events


def _check(ids: Sequence[int], place: int) -> None:
    if not 0 < place < len(ids):
        raise UserError(f"place = {place}: give one from 1 to {len(ids) - 1}")


def _name(tokenizer: Any, token: int) -> str:
    return token_text(token_bytes(tokenizer, token))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def describe(changes: Mapping[str, Any]) -> str:
    """Changes in a few words, for exports.

    >>> describe({"heads": [[2, 1]], "parts": ["blocks.3.ffn"]})
    'without head 2.1, blocks.3.ffn'
    """
    heads = [f"head {layer}.{head}" for layer, head in changes.get("heads", ())]
    off = ", ".join([*heads, *changes.get("parts", ())])
    said = [f"without {off}"] if off else []
    if changes.get("steer"):
        steer = changes["steer"]
        said.append(f"steered at layer {steer['layer']} by {steer['scale']:g}")
    return "; ".join(said)
