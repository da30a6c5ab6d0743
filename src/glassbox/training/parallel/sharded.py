"""Weights, gradients and moments divided over ranks: FSDP2 block by block, and tensor parallelism."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError
from glassbox.core.mesh import Mesh
from glassbox.layers.initialization import Initializes
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.parameter_roles import fused_rows
from glassbox.layers.wide_weights import wide_weights
from glassbox.models.block import Block
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.heads import ScalarHead
from glassbox.models.mtp import FutureModule
from glassbox.ops.chunks import wide
from glassbox.optim.base import Optimizer
from glassbox.optim.clipping import Clipper
from glassbox.training.parallel.layout import LayoutSettings, Overlapped
from glassbox.training.parallel.local_optimizer import LocalOptimizer
from glassbox.training.parallel.pieces import Piece, Split, gather_state, own_state
from glassbox.training.parallel.recompute import recompute_blocks
from glassbox.training.parallel.swap import swapped_parameters
from glassbox.training.parallel.tensor import TensorParallel


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Sharded(Overlapped):
    """Each rank holds a part of every weight, of its gradient and of its moments.

    fsdp: rows of a weight lie on the ranks of the axis "shard" (`torch.distributed.fsdp.fully_shard`).
    A block's weights are gathered before its forward and its backward pass and let go after each; its
    gradients are summed and divided right after its backward pass, in float32. Embedding, final norm
    and output are gathered for the whole of a pass. Where the precision is bfloat16, blocks without
    `wide_weights` gather their weights in it. With copies ("replicate") this is HSDP.
    tensor: see `tensor.split_model`.

    Norms count each number once, on the rank that holds it. What is saved is whole: a checkpoint of any
    layout is one folder, from which any other goes on.
    Tested against: one process with all rows: losses, gradients, norms, weights and moments.
    """

    def __init__(self, mesh: Mesh, config: LayoutSettings, *, precision: str = "float32") -> None:
        super().__init__(mesh, config)
        if precision == "float16":
            raise UserError(
                f"train.precision = 'float16' does not go with parallel.fsdp = {config.fsdp} and "
                f"parallel.tensor = {config.tensor}; use bfloat16"
            )
        self.precision = precision
        self.looks_inside = config.tensor == 1
        self._applied = False
        self._fsdp = mesh.shard.world_size > 1
        self._splits: dict[str, Split] = {}
        self._partial: frozenset[str] = frozenset()
        self._names: dict[int, str] = {}
        self._pieces: dict[str, Piece] = {}
        self._parts: dict[int, nn.Parameter] = {}

    def create(self, config: ModelConfig) -> CausalLM:
        """A model whose weights were drawn block by block, so that no rank ever holds all of them.

        They are those that one rank draws, to the bit: the layers draw in the same order, on the CPU.
        """
        with torch.device("meta"):
            model = CausalLM(config)
        self._skeleton = copy.deepcopy(model)
        tensor = self._split_model(model)
        draw = model.initial_draw()
        for path, _ in _drawn(model):
            real = _fresh(path, config)
            for module in real.modules():
                if isinstance(module, Initializes):
                    module.initialize(draw)
            real.to(self._device)
            if tensor is not None:
                real = tensor.split(path, real)
            _put(model, path, real)
            if isinstance(real, Block):
                self._shard(real)
        self._finish(model, tensor)
        return model

    def apply(self, model: CausalLM) -> None:
        """Divide a model that is whole on every rank, in place."""
        if self._applied:
            return
        if self.config.tensor > 1 and adapters_of(model) is not None:
            raise UserError(
                f"parallel.tensor = {self.config.tensor} divides no adapters; use parallel.fsdp"
            )
        memo: dict[int, Any] = {
            id(t): nn.Parameter(t.to("meta"), requires_grad=t.requires_grad)
            if isinstance(t, nn.Parameter)
            else t.to("meta")
            for t in [*model.parameters(), *model.buffers()]
        }
        self._skeleton = copy.deepcopy(model, memo)
        tensor = self._split_model(model)
        for path, module in _drawn(model):
            if tensor is not None:
                module = tensor.split(path, module)
                _put(model, path, module)
            if isinstance(module, Block):
                self._shard(module)
        self._finish(model, tensor)

    @property
    def _device(self) -> torch.device:
        grid = self.mesh.device_mesh
        if grid is None or grid.device_type == "cpu":
            return torch.device("cpu")
        return torch.device(grid.device_type, self.world.local_rank)

    def _split_model(self, model: CausalLM) -> TensorParallel | None:
        if self.mesh.tensor.world_size == 1:
            return None
        return TensorParallel(model.config, self.mesh.tensor)

    def _shard(self, module: nn.Module) -> None:
        if isinstance(module, Block):
            recompute_blocks([module], self.config.checkpoint)
        if not self._fsdp:
            return
        grid = self.mesh.device_mesh
        assert grid is not None
        if scalars := [name for name, p in module.named_parameters() if not p.dim()]:
            raise UserError(
                f"parallel.fsdp = {self.config.fsdp} divides weights by rows, and '{scalars[0]}' has "
                "none; use parallel.data = zero1"
            )
        narrow = self.precision == "bfloat16" and not wide_weights(module)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if narrow else None,
            reduce_dtype=torch.float32 if narrow else None,
            cast_forward_inputs=False,
        )
        axes = grid["replicate", "shard"] if self.mesh.replicate.world_size > 1 else grid["shard"]
        fully_shard(module, mesh=axes, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        # the loop divides by the weight of all ranks; a mean over ranks would be divided twice
        module.set_gradient_divide_factor(1.0)
        if grid.device_type == "cpu":  # gloo knows no scaled sums
            module.set_force_sum_reduction_for_comms(True)

    def _finish(self, model: CausalLM, tensor: TensorParallel | None) -> None:
        """Shard what lies outside of the blocks, and note how every weight lies."""
        recompute_blocks(model.mtp, self.config.checkpoint)
        if tensor is not None:
            tensor.finish(model)
            self._splits, self._partial = tensor.splits, frozenset(tensor.partial)
        rows = {name: len(p) if p.dim() else None for name, p in model.named_parameters()}
        if self._fsdp:
            rows |= {
                name: self._tensor_rows(name, p) for name, p in model.named_parameters() if p.dim()
            }
            self._shard(model)
            register_fsdp_forward_method(model, "hidden_states")
        for name, parameter in model.named_parameters():
            self._names[id(parameter)] = name
            self._pieces[name] = Piece(
                rows[name] if self._fsdp else None,
                self.mesh.shard,
                self._splits.get(name),
                self.mesh.tensor,
            )
        self._counts = {name: p.numel() for name, p in self._skeleton.named_parameters()}
        self._applied = True

    @staticmethod
    def _tensor_rows(name: str, parameter: nn.Parameter) -> int:
        return parameter.shape[0]  # of a DTensor: the rows of all ranks' shards together

    def broadcast(self, module: nn.Module) -> None:
        """Nothing for the model: every rank made or read the same weights."""
        if not self._holds(module):
            super().broadcast(module)

    def _holds(self, module: nn.Module) -> bool:
        return any(id(parameter) in self._names for parameter in module.parameters())

    @contextlib.contextmanager
    def local(self, model: CausalLM) -> Iterator[None]:
        """The model's parameters are this rank's rows of them."""
        if self._fsdp and not self._parts:
            self._parts = {
                id(p): nn.Parameter(local(p.detach()), requires_grad=p.requires_grad)
                for p in model.parameters()
            }
        with swapped_parameters(model, self._parts):
            yield

    @contextlib.contextmanager
    def averaged(self, model: CausalLM) -> Iterator[None]:
        """This rank's rows, too."""
        with self.local(model):
            yield

    def optimizer(self, optimizer: Optimizer, model: CausalLM) -> Optimizer:
        """Over the rows that were swapped in; whole matrices are gathered where it needs them."""
        real = {id(self._parts[id(p)]): p for p in model.parameters() if id(p) in self._parts}
        found = LocalOptimizer(
            optimizer,
            real=real,
            pieces=self._pieces,
            rows=fused_rows(self._skeleton),
            gradient=lambda parameter, part: (
                None if parameter.grad is None else local(parameter.grad)
            ),
            updated=lambda: None,
            key=f"parallel.fsdp = {self.config.fsdp}, parallel.tensor = {self.config.tensor}:",
        )
        if not self._fsdp:
            self._sum(found.parameters())
        self._model = model
        return found

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Shards are summed at once, so that no rank keeps whole gradients; copies at the end."""
        if self._fsdp and self.mesh.replicate.world_size > 1:
            assert isinstance(self._model, FSDPModule)
            self._model.set_requires_all_reduce(last)
        with super().micro_batch(last=last):
            yield

    def reduced(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """This rank's part of each gradient; those that tensor ranks have only a share of are summed."""
        found = super().reduced(parameters)
        gradients = [local(gradient) for gradient in found]
        if self._partial:
            with_gradient = [p for p in parameters if p.grad is not None]
            shares = [
                gradient
                for parameter, gradient in zip(with_gradient, gradients, strict=True)
                if self._names.get(id(parameter)) in self._partial
            ]
            self.mesh.tensor.sum_gradients_(shares)
        self._with_gradient = [p for p in parameters if p.grad is not None]
        return gradients

    def clip_(self, clipper: Clipper, gradients: Sequence[Tensor]) -> float:
        """Clip by norms over all ranks' parts."""
        norms = torch.stack(self.norms(self._with_gradient, gradients))
        norm, factors = clipper.factors(norms)
        if bool(torch.isfinite(norm)):
            for gradient, factor in zip(gradients, factors.unbind(), strict=True):
                gradient.mul_(factor)
        return float(norm)

    def norms(
        self, parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor], order: float = 2.0
    ) -> list[Tensor]:
        """Each number counts once: rows on the rank that has them, undivided weights on one tensor rank."""
        parts = [wide(local(tensor)) for tensor in tensors]
        dtype = parts[0].dtype if parts else torch.float32
        own = torch.stack(
            [part.norm(order) if part.numel() else part.new_zeros(()) for part in parts]
        ).double()
        if order == math.inf:
            for group in (self.mesh.shard, self.mesh.tensor):
                if group.world_size > 1:
                    dist.all_reduce(own, op=dist.ReduceOp.MAX, group=group.handle)
            return list(own.to(dtype).unbind())
        own = own.square()
        if self.mesh.tensor.rank:
            once = [self._names.get(id(p)) in self._splits for p in parameters]
            own = own * torch.tensor(once, dtype=own.dtype, device=own.device)
        self.mesh.tensor.sum_(self.mesh.shard.sum_(own))
        return list(own.sqrt().to(dtype).unbind())

    def first_weight(self, weight: float | Tensor) -> float | None:
        """The weight of all ranks, whose gradients are added at once; None where not all are by then."""
        if self.mesh.shard.world_size < self.world.world_size:
            return None
        return float(self.data.sum_(torch.tensor(float(weight), dtype=torch.float64)))

    def count(self, parameter: nn.Parameter) -> int:
        """Those of all parts together."""
        name = self._names.get(id(parameter))
        return parameter.numel() if name is None else self._counts[name]

    def plain(self, model: CausalLM) -> CausalLM:
        """The model as it was before it was divided, without weights."""
        return self._skeleton

    @contextlib.contextmanager
    def whole(self, model: CausalLM) -> Iterator[None]:
        """All weights are gathered on every rank of "shard" until the end."""
        if not self._fsdp:
            yield
            return
        assert isinstance(model, FSDPModule)
        model._get_fsdp_state()._lazy_init()
        modules = [m for m in model.modules() if isinstance(m, FSDPModule)]
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(isinstance(module, Block), recurse=False)

    @contextlib.contextmanager
    def saving(self, model: CausalLM) -> Iterator[CausalLM]:
        """All weights in the memory of rank 0's CPU; every rank gathers, one weight at a time."""
        state: dict[str, Tensor] = {}
        parameters = dict(model.named_parameters())
        for name, tensor in model.state_dict().items():
            if name in parameters:
                tensor = self._pieces[name].gather(local(parameters[name].detach()))
            if self.world.is_main:
                state[name] = tensor.detach().to("cpu", copy=True)
        if not self.world.is_main:
            yield self._skeleton
            return
        whole = copy.deepcopy(self._skeleton)
        whole.load_state_dict(state, assign=True)
        yield whole

    @contextlib.contextmanager
    def filling(self, model: CausalLM) -> Iterator[CausalLM]:
        """All weights in the memory of each rank's CPU, of which it then keeps its part."""
        whole = copy.deepcopy(self._skeleton).to_empty(device="cpu")
        yield whole
        loaded = whole.state_dict()
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in parameters:
                    part = local(parameters[name].detach())
                    part.copy_(self._pieces[name].own(loaded[name]))
                else:
                    tensor.copy_(loaded[name])

    def gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State by weight name, whole; every rank calls it."""
        return gather_state(state, self._pieces)

    def own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of state by weight name."""
        return own_state(state, self._pieces)


def _drawn(model: CausalLM) -> list[tuple[str, nn.Module]]:
    """The model's parts in the order in which they are initialized."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            found += [(f"{name}.{place}", one) for place, one in enumerate(child)]
        else:
            found.append((name, child))
    return found


def _put(model: CausalLM, path: str, module: nn.Module) -> None:
    """Put a part in its place."""
    name, _, place = path.partition(".")
    owner = model.get_submodule(name) if place else model
    owner._modules[place or name] = module


def _fresh(path: str, config: ModelConfig) -> nn.Module:
    """A part of a model by its path, its weights not yet drawn."""
    name, _, place = path.partition(".")
    size = config.hidden_size
    if name == "blocks":
        return Block(list(config.layers())[int(place)], size, config.dropout)
    if name == "mtp":
        return FutureModule(config)
    if name == "score":
        return ScalarHead(size)
    if name == "head":
        return Linear(size, config.vocab_size, bias=config.head_bias)
    if name == "embedding":
        return Embedding(config.vocab_size, size)
    if name == "position_embedding":
        return Embedding(config.context_length, size)
    norm = config.final_norm if name == "final_norm" else config.embedding_norm
    assert norm is not None, name
    built: nn.Module = norm.build(size)
    return built
