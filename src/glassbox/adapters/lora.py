"""LoRA and DoRA: low-rank updates of linear layers.

Source: LoRA, Hu et al., arXiv:2106.09685; rsLoRA, Kalajdzievski, arXiv:2312.03732; DoRA, Liu et al.,
arXiv:2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.adapters.base import PEFT_PREFIX, Adapters, AdapterSpec, Slot
from glassbox.adapters.layers import Base, LinearUpdate
from glassbox.adapters.linear_parts import Part, linear_parts, select_parts
from glassbox.layers.parameter_roles import FusedRows


class Lora(AdapterSpec):
    """Low-rank updates of linear layers; `dora` updates direction and magnitude separately.

    targets: names of linear layers, ours or Hugging Face's, complete (`blocks.0.mixer.qkv`),
        suffixes
    (`q_proj`, `mixer.output`) or patterns (`*.3.mlp.*`); `all-linear` for all within the blocks.
    """

    mergeable: ClassVar[bool] = True
    peft_type: ClassVar[str] = "LORA"
    width: ClassVar[str] = "rank"
    kind: Literal["lora"] = "lora"
    targets: tuple[str, ...] = ("all-linear",)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0, description="scales the update by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the update")
    rank_stabilized: bool = Field(False, description="scale by alpha / sqrt(rank) instead (rsLoRA)")
    dora: bool = False
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="which biases of the base are trained as well"
    )

    @property
    def trains_base(self) -> bool:
        """Biases too."""
        return super().trains_base or self.bias != "none"

    def trains(self, path: str, adapted: Collection[str]) -> bool:
        """Biases too: all of them, or those of adapted layers."""
        its_bias = path.endswith(".bias") and (
            self.bias == "all" or self._its_own_bias(path, adapted)
        )
        return super().trains(path, adapted) or its_bias

    def trained_rows(self, path: str, parts: Sequence[Part]) -> list[tuple[int, int]] | None:
        """For a bias that combines several Hugging Face layers, the rows of the adapted ones."""
        if not self._its_own_bias(path, {part.ours for part in parts}):
            return None
        return [part.rows for part in parts if f"{part.ours}.bias" == path]

    def _its_own_bias(self, path: str, adapted: Collection[str]) -> bool:
        return (
            self.bias == "lora_only"
            and path.endswith(".bias")
            and path.removesuffix(".bias") in adapted
        )

    def attach(self, adapters: Adapters, name: str, generator: torch.Generator) -> None:
        """Add the adapter to every linear layer that a target matches; targets within one fused
        layer share a module.
        """
        by_layer: dict[str, list[Part]] = {}
        for part in select_parts(linear_parts(adapters.model), self.targets):
            by_layer.setdefault(part.ours, []).append(part)
        for path, own in by_layer.items():
            own.sort(key=lambda part: part.rows)
            layer = adapters.adapted(path)
            layer.updates[name] = LowRank(
                layer.base,
                [part.rows for part in own],
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                rank_stabilized=self.rank_stabilized,
                magnitude=self.dora,
                generator=generator,
            ).train(adapters.model.training)
        adapters.parts[name] = [part for own in by_layer.values() for part in own]

    @property
    def only_adapted_biases(self) -> bool:
        """Where `bias` says so."""
        return self.bias == "lora_only"

    def slots(self, adapters: Adapters, name: str) -> dict[str, Slot]:
        """A and B (and the lengths) of each part, its rows in the other library's order."""
        modules = dict(adapters.layers())
        found: dict[str, Slot] = {}
        for part in adapters.parts.get(name, []):
            update = modules[part.ours].updates[name]
            assert isinstance(update, LowRank)
            place, rank, key = update.rows.index(part.rows), update.rank, PEFT_PREFIX + part.theirs
            order = (part.order - part.rows[0]).to(update.down.device)
            rows = slice(place * rank, (place + 1) * rank)
            found[f"{key}.lora_A.weight"] = Slot(update.down, rows)
            found[f"{key}.lora_B.weight"] = Slot(update.up[place], order)
            if update.magnitude is not None:
                found[f"{key}.lora_magnitude_vector"] = Slot(update.magnitude[place], order)
        return found

    def peft_config(self, adapters: Adapters, name: str) -> dict[str, Any]:
        """Of peft.LoraConfig."""
        parts = adapters.parts[name]
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilized,
            "use_dora": self.dora,
            "bias": self.bias,
            "fan_in_fan_out": any(part.transposed for part in parts),
            "target_modules": _short_names(parts, linear_parts(adapters.model)[0]),
            **({"modules_to_save": list(self.also)} if self.also else {}),
        }

    @classmethod
    def from_peft(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any]:
        """The layers are those that the weights name."""
        end = ".lora_A.weight"
        adapted = {
            key.removeprefix(PEFT_PREFIX).removesuffix(end) for key in tensors if key.endswith(end)
        }
        return {
            "targets": sorted(adapted),
            "rank": raw.get("r", 8),
            "alpha": raw.get("lora_alpha", 8),
            "dropout": raw.get("lora_dropout", 0.0),
            "rank_stabilized": raw.get("use_rslora", False),
            "dora": raw.get("use_dora", False),
            "bias": raw.get("bias", "none"),
        }


def _short_names(chosen: Sequence[Part], all_parts: Sequence[Part]) -> list[str]:
    """The ends of the names where these mean the same layers, else the whole names."""
    names = {part.theirs for part in chosen}
    ends = {name.rpartition(".")[2] for name in names}
    same = {p.theirs for p in all_parts if p.theirs.rpartition(".")[2] in ends}
    return sorted(ends if same == names else names)


class LowRank(LinearUpdate):
    """y + s B (A dropout(x)) on ranges of the rows of a layer; each range has its own A and B.

    A fused layer (q, k and v) can thus use adapters made for separate layers. s = alpha / rank, or
    alpha / sqrt(rank) where `rank_stabilized`. With `magnitude` (DoRA)
    each row of W + s B A is scaled to a trained length m; its current norm is detached in the
    gradient, as in the paper's section 4.3. A is initialized like torch.nn.Linear's weight, B to
    zero and m to the norm of W's rows, so that the output is unchanged at first.
    Tested against: peft, outputs and gradients.
    """

    mergeable: ClassVar[bool] = True
    matrices: ClassVar[tuple[str, ...]] = ("down", "up")

    def __init__(
        self,
        base: Base,
        rows: Sequence[tuple[int, int]],
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilized: bool = False,
        magnitude: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.rows = sorted(rows)
        self.rank = rank
        self.dropout = dropout
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        weight = base.weight.detach()
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(len(rows) * rank, base.in_features, dtype=wide)
        nn.init.uniform_(down, -bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.ParameterList(
            torch.zeros(stop - start, rank, dtype=wide, device=weight.device)
            for start, stop in self.rows
        )
        lengths = torch.linalg.norm(weight, dim=1).to(wide) if magnitude else None
        self.magnitude = (
            None
            if lengths is None
            else nn.ParameterList(lengths[start:stop].clone() for start, stop in self.rows)
        )

    def fused_rows(self) -> dict[str, FusedRows]:
        """The A of each range."""
        return {"down": FusedRows((self.rank,) * len(self.rows))}

    def forward(
        self, x: Float[Tensor, "*shape I"], y: Float[Tensor, "*shape O"], base: Base
    ) -> Float[Tensor, "*shape O"]:
        """Return the adapted output, given the input and the layer's own output."""
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        low = F.linear(dropped.to(self.down.dtype), self.down).split(self.rank, -1)
        weight = None if self.magnitude is None else base.weight.detach()
        pieces, end = [], 0
        for place, (start, stop) in enumerate(self.rows):
            if end < start:
                pieces.append(y[..., end:start])
            own, end = y[..., start:stop], stop
            change = self.scale * F.linear(low[place], self.up[place])
            if weight is not None:
                factor = self._factor(weight, place)
                if self.dropout and self.training:
                    alone = F.linear(dropped.to(weight.dtype), weight[start:stop])
                else:
                    alone = own if base.bias is None else own - base.bias[start:stop]
                change = (factor - 1) * alone + factor * change
            pieces.append((own + change).to(y.dtype))
        if end < y.shape[-1]:
            pieces.append(y[..., end:])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)

    def _change(self, place: int) -> Tensor:
        """The weight update s B A of one range of rows."""
        part = self.down[place * self.rank : (place + 1) * self.rank]
        return self.scale * (self.up[place] @ part)

    def _factor(self, weight: Tensor, place: int) -> Tensor:
        """m over the present length of each row."""
        assert self.magnitude is not None
        start, stop = self.rows[place]
        with torch.no_grad():
            whole = weight[start:stop] + self._change(place).to(weight.dtype)
            lengths = torch.linalg.norm(whole, dim=1)
        return self.magnitude[place] / lengths

    def merged(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """Return the weight with the update merged in, ignoring dropout."""
        pieces, end = [], 0
        for place, (start, stop) in enumerate(self.rows):
            pieces.append(weight[end:start])
            changed = weight[start:stop] + self._change(place)
            if self.magnitude is not None:
                changed = self._factor(weight.detach(), place).unsqueeze(1) * changed
            pieces.append(changed.to(weight.dtype))
            end = stop
        return torch.cat([*pieces, weight[end:]])
