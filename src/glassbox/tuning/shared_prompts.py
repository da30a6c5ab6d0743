"""Reading a prompt once for all its answers: G answers to a prompt, or both of a preference pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.adapters.base import adapters_of
from glassbox.adapters.prefix_state import Recorder
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import Perceptron
from glassbox.layers.rotary import LongRope, Rotary
from glassbox.layers.shared_past import SharedPast
from glassbox.models.block import BlockState

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM

WORTHWHILE = 0.75
"""Of the tokens that rows apart would read, the most that sharing may read to be worth its overhead."""


class Plan(NamedTuple):
    """B rows of T ids as U beginnings and B ends.

    starts: (B,), where each row's end begins; width: of the longest end; owners: (B,), each row's
    beginning; firsts: a row of each beginning.
    """

    starts: Int[Tensor, " B"]
    width: int
    owners: Int[Tensor, " B"]
    firsts: list[int]


def can_share(model: CausalLM) -> bool:
    """Whether the model's layers see nothing but keys and values of earlier tokens, all of them.

    Windows, running states, ALiBi, learned positions, experts (whose balance counts tokens),
    virtual tokens and dropout are left to rows apart.
    """
    config = model.config
    if config.learned_positions or config.sinusoidal_positions:
        return False
    adapters = adapters_of(model)
    if adapters is not None and adapters.virtual is not None:
        return False
    if config.dropout and model.training:
        return False
    for layer in config.layers():
        mixer = layer.mixer
        if not isinstance(mixer, GroupedQuery) or mixer.window is not None:
            return False
        if not (layer.ffn is None or isinstance(layer.ffn, Perceptron)):
            return False
        rotary = mixer.positions
        if rotary is not None and not isinstance(rotary, Rotary):
            return False
        if isinstance(rotary, Rotary) and isinstance(rotary.scaling, LongRope):
            return False
    return True


def plan(
    ids: Int[Tensor, "B T"], starts: Int[Tensor, " B"], lengths: Int[Tensor, " B"]
) -> Plan | None:
    """Which rows share what stands before their start; None where too little is saved."""
    begins, ends = starts.tolist(), lengths.tolist()
    rows = ids.tolist()
    known: dict[tuple[int, ...], int] = {}
    owners, firsts = [], []
    for row, start in enumerate(begins):
        key = tuple(rows[row][:start])
        if key not in known:
            known[key] = len(known)
            firsts.append(row)
        owners.append(known[key])
    longest = max(begins)
    width = max(1, max(end - start for start, end in zip(begins, ends, strict=True)))
    shared = len(firsts) * longest + len(rows) * width
    if longest == 0 or shared > WORTHWHILE * len(rows) * max(1, max(ends)):
        return None
    return Plan(starts, width, torch.tensor(owners, device=ids.device), firsts)


def hidden_of_ends(model: CausalLM, ids: Int[Tensor, "B T"], plan: Plan) -> Float[Tensor, "B W D"]:
    """Final hidden states of each row from its start on: [b, j] is what rows apart have at [b, starts[b] + j].

    Tested against: `CausalLM.hidden_states` of whole rows, values and gradients.
    """
    device = ids.device
    lengths = plan.starts[plan.firsts]
    longest = int(plan.starts.max())
    beginnings = ids[plan.firsts, :longest]
    recorders = [Recorder() for _ in model.blocks]
    order = torch.arange(longest, device=device).unsqueeze(0)
    model.hidden_states(
        beginnings,
        positions=order,
        state=[BlockState(one) for one in recorders],
        key_length=longest,
    )
    places = torch.arange(plan.width, device=device)
    positions = plan.starts.unsqueeze(1) + places
    own = (places <= places.unsqueeze(1)).expand(len(ids), -1, -1)
    past = (order < lengths[plan.owners].unsqueeze(1)).unsqueeze(1).expand(-1, plan.width, -1)
    mask = torch.cat((past, own), dim=-1).unsqueeze(1)
    states = []
    for one in recorders:
        assert one.keys is not None
        assert one.values is not None
        states.append(BlockState(SharedPast(one.keys, one.values, plan.owners, mask)))
    rows = torch.arange(len(ids), device=device).unsqueeze(1)
    ends = ids[rows, positions.clamp(max=ids.shape[1] - 1)]
    return model.hidden_states(
        ends, positions=positions, state=states, key_length=longest + plan.width
    )
