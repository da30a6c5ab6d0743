"""Small trained additions to a frozen linear layer, several at once, one a row of the batch.

Source: LoRA, Hu et al., arXiv:2106.09685; rsLoRA, Kalajdzievski, arXiv:2312.03732; DoRA, Liu et al.,
arXiv:2402.09353; bottleneck adapters, Houlsby et al., arXiv:1902.00751, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear

Base = Linear | Nf4Linear


class Selection:
    """Which adapter each row of a batch passes. All adapted layers of a model share one.

    active: the adapter of every row, None for none, where `set_rows` has said nothing.
    """

    def __init__(self) -> None:
        self.active: str | None = None
        self.groups: list[tuple[str, Tensor]] | None = None
        self.num_rows = 0

    def set_rows(
        self, names: Sequence[str | None] | None, device: torch.device | None = None
    ) -> None:
        """One name a row of the calls that follow (None: the bare layer); None: `active` for all."""
        if names is None:
            self.groups = None
            return
        self.num_rows = len(names)
        self.groups = [
            (
                name,
                torch.tensor([row for row, other in enumerate(names) if other == name]).to(device),
            )
            for name in dict.fromkeys(names)
            if name is not None
        ]


class LowRank(nn.Module):
    """y + s B (A dropout(x)) on ranges of the rows of a layer; each range has its own A and B.

    A layer that is several of another library's at once (q, k and v) so takes their adapters as they
    are. s = alpha / rank, or alpha / sqrt(rank) where `rank_stabilized`. With `magnitude` (DoRA)
    each row of W + s B A is scaled to a trained length m; the gradient takes its present length for
    a constant, as the paper's section 4.3 has it. A is drawn as torch.nn.Linear's weights are, B is
    zero, m is the length of W's rows: at first nothing changes.
    Tested against: peft, outputs and gradients.
    """

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

    def forward(
        self, x: Float[Tensor, "*shape I"], y: Float[Tensor, "*shape O"], base: Base
    ) -> Float[Tensor, "*shape O"]:
        """What the layer gives, from its input and what it would give alone."""
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
        """s B A of one range of rows."""
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
        """The one matrix that does what the layer and this together do, dropout aside."""
        pieces, end = [], 0
        for place, (start, stop) in enumerate(self.rows):
            pieces.append(weight[end:start])
            changed = weight[start:stop] + self._change(place)
            if self.magnitude is not None:
                changed = self._factor(weight.detach(), place).unsqueeze(1) * changed
            pieces.append(changed.to(weight.dtype))
            end = stop
        return torch.cat([*pieces, weight[end:]])


class Bottleneck(nn.Module):
    """y + up(f(down(y))) on what a layer gives: it stands behind the last layer of a branch.

    Houlsby's adapter: between each branch and the sum with the residual stream. `up` begins at zero,
    so that at first nothing changes. Tested against: the formula.
    """

    def __init__(
        self,
        base: Base,
        *,
        size: int,
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        like = base.weight
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.down = Linear(base.out_features, size, bias=True).to(like.device, wide)
        self.up = Linear(size, base.out_features, bias=True).to(like.device, wide)
        draw = torch.randn(self.down.weight.shape, generator=generator, dtype=wide)
        with torch.no_grad():
            self.down.weight.copy_(draw / math.sqrt(base.out_features))
            self.up.weight.zero_()

    def forward(
        self, x: Float[Tensor, "*shape I"], y: Float[Tensor, "*shape O"], base: Base
    ) -> Float[Tensor, "*shape O"]:
        """What the layer gives, from what it would give alone."""
        low = self.down(y.to(self.down.weight.dtype))
        low = F.relu(low) if self.activation == "relu" else F.gelu(low)
        return (y + self.up(low)).to(y.dtype)


class AdaptedLinear(nn.Module):
    """A linear layer and the adapters that may be added to it, by name.

    Rows of a batch that name different adapters are gathered by adapter, so that each is one
    product however many rows there are. Tested against: the layer called row by row.
    """

    def __init__(self, base: Base, selection: Selection) -> None:
        super().__init__()
        self.base = base
        self.updates = nn.ModuleDict()
        self.selection = selection
        self._unmerged: tuple[Base] | None = None  # in a tuple, or it would be a child

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return self.base.out_features

    @property
    def into_residual(self) -> bool:
        """Whether it is the last layer of a branch."""
        return self.base.into_residual

    @property
    def bias(self) -> Tensor | None:
        """The layer's own."""
        return self.base.bias

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The matrix with the active adapter in it, for what reads a layer's matrix itself.

        Raises UserError where there is no one such matrix.
        """
        if self._unmerged is not None:
            return self.base.weight
        if self.selection.groups is not None:
            raise UserError(
                "this layer reads its matrix itself and cannot have an adapter a row; "
                "leave it out of the adapters' targets"
            )
        update = self._update(self.selection.active)
        if update is None:
            return self.base.weight
        if not isinstance(update, LowRank) or (update.dropout and self.training):
            raise UserError(
                "this layer reads its matrix itself: it can have LoRA without dropout alone; "
                "leave it out of the adapters' targets"
            )
        return update.merged(self.base.weight)

    def _update(self, name: str | None) -> nn.Module | None:
        return self.updates[name] if name is not None and name in self.updates else None

    def forward(self, x: Float[Tensor, "B *shape I"]) -> Float[Tensor, "B *shape O"]:
        """Project the last axis, each row with its adapter."""
        y: Tensor = self.base(x)
        if self._unmerged is not None:
            return y
        chosen = self.selection
        if chosen.groups is None:
            update = self._update(chosen.active)
            return y if update is None else update(x, y, self.base)
        if len(x) != chosen.num_rows:
            raise UserError(
                f"adapters were chosen for {chosen.num_rows} rows, the batch has {len(x)}; "
                "call set_rows with one name a row"
            )
        for name, rows in chosen.groups:
            update = self._update(name)
            if update is not None and len(rows) == len(x):
                return update(x, y, self.base)
            if update is not None:
                y = y.index_copy(0, rows, update(x[rows], y[rows], self.base))
        return y

    def merge(self, name: str) -> None:
        """Let the layer's own matrix do the adapter's work; the former one is kept as it is."""
        update = self._update(name)
        assert self._unmerged is None
        if update is None:
            return
        if not isinstance(update, LowRank):
            raise UserError(f"adapter '{name}' is no LoRA: it bends what passes and is no matrix")
        with torch.no_grad():
            weight = update.merged(self.base.weight)
        with torch.device("meta"):
            merged = Linear(
                self.base.in_features,
                self.base.out_features,
                into_residual=self.base.into_residual,
            )
        merged.weight = nn.Parameter(weight, requires_grad=False)
        merged.bias = self.base.bias
        self._unmerged = (self.base,)
        self.base = merged.train(self.training)

    def unmerge(self) -> None:
        """The matrix of before, to the last bit: it was kept, not computed again."""
        if self._unmerged is not None:
            (self.base,) = self._unmerged
            self._unmerged = None
