"""Tensor parallelism: the heads of attention, the channels of perceptrons and the vocabulary over ranks.

Each rank computes some heads and channels of every layer from the whole hidden states, and the last
matrix of a mixer or feed-forward gives a share of its output, which is summed over the ranks. Fused
matrices (q, k and v; gate and up) are divided section by section, so that each rank has whole heads;
this is why their parts are plain tensors, and no rows of a DTensor. Layers are swapped from outside:
names stay, and a plain model knows nothing of it.
Source: Shoeybi et al., arXiv:1909.08053, section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention
from glassbox.layers.feedforward import Perceptron
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.rotary import Alibi
from glassbox.models.block import Block
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.ops.activations import soft_cap
from glassbox.ops.chunks import wide
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.parallel.pieces import Split


class _CopyIn(torch.autograd.Function):
    """The same hidden states on every rank; their gradient is the sum of the ranks' shares."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum_(grad.contiguous().clone()), None


class _SumOut(torch.autograd.Function):
    """The sum of the ranks' shares; each share's gradient is that of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return group.sum_(x.contiguous().clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def copy_in(x: Tensor, group: Group) -> Tensor:
    """The input of a layer that computes some of its outputs on each rank."""
    out: Tensor = _CopyIn.apply(x, group)
    return out


def sum_out(x: Tensor, group: Group) -> Tensor:
    """The output of a layer that has some of its inputs on each rank."""
    out: Tensor = _SumOut.apply(x, group)
    return out


def _part(parameter: Tensor, split: Split, group: Group) -> nn.Parameter:
    part = split.take(parameter.detach(), group.rank, group.world_size)
    return nn.Parameter(part.clone(), requires_grad=parameter.requires_grad)


class ColumnLinear(Linear):
    """Some outputs of a `Linear`: rows of its weight and of its bias. Tested against: `Linear`."""

    def __init__(self, plain: Linear, split: Split, group: Group) -> None:
        nn.Module.__init__(self)
        self.into_residual = plain.into_residual
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.group = group
        self.weight = _part(plain.weight, split, group)
        self.bias = None if plain.bias is None else _part(plain.bias, split, group)

    def forward(self, x: Tensor) -> Tensor:
        """This rank's channels of the output."""
        return F.linear(copy_in(x, self.group), self.weight, self.bias)


class RowLinear(Linear):
    """A `Linear` of whose inputs each rank has some; the bias is added once. Tested against: `Linear`."""

    def __init__(self, plain: Linear, group: Group) -> None:
        nn.Module.__init__(self)
        self.into_residual = plain.into_residual
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.group = group
        self.weight = _part(plain.weight, Split(1, (plain.in_features,)), group)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """The whole output on every rank."""
        out = sum_out(F.linear(x, self.weight), self.group)
        return out if self.bias is None else out + self.bias


class VocabularyEmbedding(Embedding):
    """Some rows of an `Embedding`; ids of other ranks' rows give zero before the sum."""

    def __init__(self, plain: Embedding, group: Group) -> None:
        nn.Module.__init__(self)
        self.num_rows, self.hidden_size = plain.num_rows, plain.hidden_size
        self.group = group
        self.first = _first_row(plain.num_rows, group)
        self.weight = _part(plain.weight, Split(0, (plain.num_rows,)), group)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up this rank's rows and add those of the others."""
        own = ids - self.first
        here = (own >= 0) & (own < _rows(self.num_rows, self.group))
        rows = F.embedding(own.masked_fill(~here, 0), self.weight)
        return sum_out(rows * here.unsqueeze(-1), self.group)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of the whole vocabulary, gathered; without gradients."""
        return _whole_vocabulary(F.linear(hidden, self.weight), self.num_rows, self.group)


class VocabularyLinear(ColumnLinear):
    """An output projection with some rows of the vocabulary."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the whole vocabulary, gathered; without gradients."""
        part = F.linear(x, self.weight, self.bias)
        return _whole_vocabulary(part, self.out_features, self.group)


def _rows(count: int, group: Group, rank: int | None = None) -> int:
    rank = group.rank if rank is None else rank
    return count // group.world_size + (rank < count % group.world_size)


def _first_row(count: int, group: Group) -> int:
    return sum(_rows(count, group, rank) for rank in range(group.rank))


def _whole_vocabulary(part: Tensor, count: int, group: Group) -> Tensor:
    assert not (torch.is_grad_enabled() and part.requires_grad), "losses take `cross_entropy_parts`"
    widest = _rows(count, group, 0)
    padded = F.pad(part, (0, widest - part.shape[-1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(group.world_size)]
    dist.all_gather(parts, padded, group=group.handle)
    return torch.cat([p[..., : _rows(count, group, r)] for r, p in enumerate(parts)], -1)


class _VocabularyCrossEntropy(torch.autograd.Function):
    """`ops.cross_entropy.linear_cross_entropy_parts` with some rows of the vocabulary on each rank.

    Gradients are computed in the forward pass, chunk by chunk: the maximum and the sum of exponentials
    of each position go over all ranks, and the hidden states' gradient is summed once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: Tensor,
        first: int,
        softcap: float | None,
        z_loss: float,
        group: Group,
        chunk: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        total = hidden.new_zeros((), dtype=torch.float64)
        penalty = torch.zeros_like(total)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        projection = weight.to(hidden.dtype)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits, chosen, log_z, own, here = _scores(
                hidden[rows], projection, bias, targets[rows], first, softcap, group
            )
            share = scale[rows].to(logits.dtype)
            total += ((log_z - chosen) * share).sum(dtype=total.dtype)
            pull = share
            if z_loss:
                penalty += (z_loss * log_z.square() * share).sum(dtype=total.dtype)
                pull = share * (1 + 2 * z_loss * log_z)
            if not grad_enabled:
                continue
            grad = (logits - log_z.unsqueeze(-1)).exp_().mul_(pull.unsqueeze(-1))
            grad.scatter_add_(-1, own.unsqueeze(-1), -(share * here).unsqueeze(-1))
            if softcap is not None:
                grad = grad.mul_(1 - (logits / softcap).square())
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = grad @ projection
            grad_weight += grad.t() @ hidden[rows]
        ctx.save_for_backward(group.sum_(grad_hidden), grad_weight, grad_bias)
        penalty = penalty.to(wide(hidden[:0]).dtype)
        ctx.mark_non_differentiable(penalty)
        return total.to(penalty.dtype) + penalty, penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
        scaled = [None if g is None else (g * upstream).to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None, None, None, None)


def _scores(
    rows: Tensor,
    projection: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    first: int,
    softcap: float | None,
    group: Group,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """This rank's logits, the target's logit, log sum exp of all ranks', and where targets are here."""
    logits = wide(F.linear(rows, projection, None if bias is None else bias.to(rows.dtype)))
    if softcap is not None:
        logits = soft_cap(logits, softcap)
    own = targets - first
    here = (own >= 0) & (own < logits.shape[-1])
    own = own.masked_fill(~here, 0)
    largest = logits.amax(-1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group.handle)
    picked = logits.gather(-1, own.unsqueeze(-1)).squeeze(-1) * here
    both = torch.stack([(logits - largest.unsqueeze(-1)).exp().sum(-1), picked])
    exponentials, chosen = group.sum_(both).unbind()
    return logits, chosen, largest + exponentials.log(), own, here


def _flat(hidden: Tensor) -> Tensor:
    """(rows, D), in autocast's dtype, which does not see products inside a Function."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    kind = flat.device.type
    if torch.is_autocast_enabled(kind) and flat.dtype != torch.float64:
        flat = flat.to(torch.get_autocast_dtype(kind))
    return flat


def vocabulary_cross_entropy_parts(
    model: CausalLM,
    group: Group,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`CausalLM.cross_entropy_parts` of a model whose vocabulary lies on several ranks."""
    target = targets.reshape(-1)
    valid = target != IGNORE
    scale = valid.float() if weights is None else valid * weights.reshape(-1)
    parts: tuple[Tensor, Tensor] = _VocabularyCrossEntropy.apply(
        _flat(hidden),
        model.output_weight,
        model.output_bias,
        target,
        scale,
        _first_row(model.config.vocab_size, group),
        model.config.logit_softcap,
        z_loss,
        group,
        1024,
        torch.is_grad_enabled(),
    )
    return parts


@torch.no_grad()
def vocabulary_log_probs(
    model: CausalLM, group: Group, hidden: Tensor, targets: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """`CausalLM.token_log_probs` of such a model, for evaluations."""
    rows, target = _flat(hidden), targets.reshape(-1)
    found = []
    for start in range(0, max(1, len(rows)), 1024):
        part = slice(start, start + 1024)
        bias = model.output_bias
        _, chosen, log_z, _, _ = _scores(
            rows[part] / temperature,
            model.output_weight.to(rows.dtype),
            None if bias is None else bias / temperature,
            target[part],
            _first_row(model.config.vocab_size, group),
            None
            if model.config.logit_softcap is None
            else model.config.logit_softcap / temperature,
            group,
        )
        found.append((chosen - log_z).masked_fill(target[part] == IGNORE, 0.0))
    return torch.cat(found).reshape(targets.shape)


class TensorParallel:
    """Divides a model's layers over a group, and knows afterwards how each weight was divided.

    Supported: grouped-query attention (any head counts that the ranks divide; rotary or no positions,
    windows, sinks, gates, norms of single heads), all perceptrons, tied and untied outputs of any
    vocabulary, soft caps and z-loss. Everything else is refused by name before anything is divided.
    """

    def __init__(self, config: ModelConfig, group: Group) -> None:
        self.config = config
        self.group = group
        self.splits: dict[str, Split] = {}
        self.partial: set[str] = set()
        check_divisible(config, group.world_size)

    def split(self, path: str, module: nn.Module) -> nn.Module:
        """What stands in a part's place; `path` is its name in the model."""
        if isinstance(module, Block):
            self._attention(f"{path}.mixer", module.mixer)
            if module.ffn is not None:
                self._perceptron(f"{path}.ffn", module.ffn)
            return module
        vocabulary = Split(0, (self.config.vocab_size,))
        if path == "embedding":
            assert isinstance(module, Embedding)
            self.splits["embedding.weight"] = vocabulary
            return VocabularyEmbedding(module, self.group)
        if path == "head":
            assert isinstance(module, Linear)
            self._note("head", module, vocabulary)
            return VocabularyLinear(module, vocabulary, self.group)
        return module

    def finish(self, model: CausalLM) -> None:
        """Losses and scores of a divided vocabulary."""
        model.__dict__["cross_entropy_parts"] = functools.partial(
            vocabulary_cross_entropy_parts, model, self.group
        )
        model.__dict__["token_log_probs"] = functools.partial(
            vocabulary_log_probs, model, self.group
        )

    def _note(self, path: str, linear: Linear, split: Split) -> None:
        self.splits[f"{path}.weight"] = split
        if linear.bias is not None:
            self.splits[f"{path}.bias"] = split

    def _attention(self, path: str, module: nn.Module) -> None:
        assert isinstance(module, GroupedQueryAttention)
        rows = Split(0, module.fused_rows()["qkv.weight"].sizes)
        self._note(f"{path}.qkv", module.qkv, rows)
        self.splits[f"{path}.output.weight"] = Split(1, (module.output.in_features,))
        module.qkv = ColumnLinear(module.qkv, rows, self.group)
        module.output = RowLinear(module.output, self.group)
        if module.sinks is not None:
            heads = Split(0, (module.num_heads,))
            self.splits[f"{path}.sinks"] = heads
            module.sinks = _part(module.sinks, heads, self.group)
        for name in ("q_norm", "k_norm"):
            norm = getattr(module, name)
            if norm is not None:  # used by this rank's heads alone
                self.partial |= {f"{path}.{name}.{key}" for key, _ in norm.named_parameters()}
        module.num_heads //= self.group.world_size
        module.num_kv_heads //= self.group.world_size

    def _perceptron(self, path: str, module: nn.Module) -> None:
        size, gated = module.spec.size, module.spec.gated  # type: ignore[union-attr]
        name = "gate_up" if gated else "up"
        first, last = getattr(module, name), module.down
        assert isinstance(first, Linear)
        assert isinstance(last, Linear)
        rows = Split(0, (size, size) if gated else (size,))  # type: ignore[arg-type]
        self._note(f"{path}.{name}", first, rows)
        self.splits[f"{path}.down.weight"] = Split(1, (last.in_features,))
        setattr(module, name, ColumnLinear(first, rows, self.group))
        module.down = RowLinear(last, self.group)


def check_divisible(config: ModelConfig, ranks: int) -> None:
    """Raise UserError naming the first part of a model that `ranks` ranks cannot divide."""
    key = f"parallel.tensor = {ranks}"
    for spec in config.layers():
        mixer, ffn = spec.mixer, spec.ffn
        if not isinstance(mixer, GroupedQuery):
            raise UserError(f"{key} divides no mixer '{mixer.kind}'; use parallel.fsdp")
        if ffn is not None and not isinstance(ffn, Perceptron):
            raise UserError(f"{key} divides no feed-forward '{ffn.kind}'; use parallel.fsdp")
        counts: Mapping[str, int] = {"num_kv_heads": mixer.kv_heads, "num_heads": mixer.num_heads}
        if ffn is not None:
            counts = {**counts, "size": ffn.size}
        for name, count in counts.items():
            if count % ranks:
                raise UserError(f"{key} does not divide {name} = {count}; use a divisor of it")
        if isinstance(mixer.positions, Alibi):
            raise UserError(f"{key} divides no ALiBi positions; use parallel.fsdp")
        if mixer.qk_norm is not None and mixer.qk_norm_over == "all":
            raise UserError(f"{key} divides no norm over all heads; use parallel.fsdp")
    for name, there in (("mtp", config.mtp is not None), ("score_head", config.score_head)):
        if there:
            raise UserError(f"{key} does not go with model.{name}; use parallel.fsdp")
