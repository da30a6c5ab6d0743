"""Shared prompts in training and scoring: a prompt with several answers is processed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.adapters.base import adapters_of
from glassbox.adapters.prefix_state import Recorder
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.context import Context
from glassbox.layers.feedforward import Perceptron
from glassbox.layers.key_value_state import AttendedKeys
from glassbox.layers.rotary import LongRope, Rotary
from glassbox.layers.shared_past import SharedPast
from glassbox.models.block import BlockState

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM

WORTHWHILE = 0.75
"""Sharing is used if it processes at most this fraction of the tokens of separate rows."""


class Plan(NamedTuple):
    """B rows of T ids, divided into U prefixes and B suffixes.

    starts: (B,), where each row's suffix begins; width: of the longest suffix; owners: (B,), index
        of each row's prefix; firsts: a row of each prefix.
    """

    starts: Int[Tensor, " B"]
    width: int
    owners: Int[Tensor, " B"]
    firsts: list[int]


def can_share(model: CausalLM) -> bool:
    """Whether all layers depend only on keys and values of earlier tokens, without a limit.

    Not so for windows, recurrent states, ALiBi, learned positions, experts (whose balance counts
    tokens), virtual tokens and dropout; their rows are processed separately.
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
    """Which rows share what precedes their start; None if too little is saved."""
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


class Prefix(NamedTuple):
    """The common prefix of all rows of a call, processed once: keys and values of each layer, (1,
    K, P, Dh).
    """

    length: int
    layers: list[tuple[Tensor, Tensor]]


class _Continued(Recorder):
    """The state of rows that continue after a `Prefix`, to which all their tokens attend."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.before = (keys, values)

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """The prefix, followed by the row's own tokens; queries are at the last keys."""
        self.keys, self.values = keys, values
        seen = [
            torch.cat((old.to(new.dtype).expand(len(new), -1, -1, -1), new), dim=2)
            for old, new in zip(self.before, (keys, values), strict=True)
        ]
        return AttendedKeys(seen[0], seen[1], None, True, None)


def read_prefix(model: CausalLM, ids: Int[Tensor, " P"]) -> Prefix:
    """Process the common prefix of many rows (for models of `can_share`)."""
    recorders = [Recorder() for _ in model.blocks]
    order = torch.arange(len(ids), device=ids.device).unsqueeze(0)
    states = [BlockState(one) for one in recorders]
    model.hidden_states(ids.unsqueeze(0), positions=order, state=states, key_length=len(ids))
    return Prefix(len(ids), [_recorded(one) for one in recorders])


def hidden_behind(
    model: CausalLM, ids: Int[Tensor, "B T"], prefix: Prefix
) -> Float[Tensor, "B T D"]:
    """Final hidden states of rows that continue after a prefix; padding is on the right.

    Tested against: `CausalLM.hidden_states` of whole rows.
    """
    return _read_behind(model, ids, prefix)[0]


def _read_behind(
    model: CausalLM, ids: Int[Tensor, "B T"], prefix: Prefix | None
) -> tuple[Float[Tensor, "B T D"], list[tuple[Tensor, Tensor]]]:
    """Hidden states, and the keys and values of the rows' own tokens."""
    done = 0 if prefix is None else prefix.length
    recorders = [
        Recorder() if prefix is None else _Continued(*prefix.layers[layer])
        for layer in range(len(model.blocks))
    ]
    order = torch.arange(done, done + ids.shape[1], device=ids.device).unsqueeze(0)
    states = [BlockState(one) for one in recorders]
    hidden = model.hidden_states(ids, positions=order, state=states, key_length=done + ids.shape[1])
    return hidden, [_recorded(one) for one in recorders]


def _recorded(one: Recorder) -> tuple[Tensor, Tensor]:
    assert one.keys is not None
    assert one.values is not None
    return one.keys, one.values


def hidden_of_ends(
    model: CausalLM, ids: Int[Tensor, "B T"], plan: Plan, prefix: Prefix | None = None
) -> Float[Tensor, "B W D"]:
    """Final hidden states of each row from its start on: [b, j] is what rows apart have at [b, starts[b] + j].

    prefix: what stands before all rows; `ids` and `plan` begin behind it.
    Tested against: `CausalLM.hidden_states` of whole rows, values and gradients.
    """
    device = ids.device
    done = 0 if prefix is None else prefix.length
    lengths = plan.starts[plan.firsts]
    longest = int(plan.starts.max())
    _, layers = _read_behind(model, ids[plan.firsts, :longest], prefix)
    if prefix is not None:
        layers = [
            (
                torch.cat((before[0].expand(len(own[0]), -1, -1, -1), own[0]), dim=2),
                torch.cat((before[1].expand(len(own[1]), -1, -1, -1), own[1]), dim=2),
            )
            for before, own in zip(prefix.layers, layers, strict=True)
        ]
    order = torch.arange(longest + done, device=device).unsqueeze(0)
    places = torch.arange(plan.width, device=device)
    positions = plan.starts.unsqueeze(1) + places
    own = (places <= places.unsqueeze(1)).expand(len(ids), -1, -1)
    past = (order < done + lengths[plan.owners].unsqueeze(1)).unsqueeze(1)
    mask = torch.cat((past.expand(-1, plan.width, -1), own), dim=-1).unsqueeze(1)
    states = [BlockState(SharedPast(keys, values, plan.owners, mask)) for keys, values in layers]
    rows = torch.arange(len(ids), device=device).unsqueeze(1)
    ends = ids[rows, positions.clamp(max=ids.shape[1] - 1)]
    return model.hidden_states(
        ends,
        positions=positions + done,
        state=states,
        key_length=longest + done + plan.width,
    )
