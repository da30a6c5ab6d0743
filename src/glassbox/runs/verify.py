"""Whether a layout computes what one rank computes: losses, gradients, norms and updates, with a verdict."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from glassbox.core.config import Spec
from glassbox.core.distributed import Group
from glassbox.core.seeding import derive_seed
from glassbox.data.loader import TokenBatch
from glassbox.formats.tensor_files import write_tensors
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.ops.cross_entropy import IGNORE
from glassbox.optim.specs import OptimizerConfig
from glassbox.runs.plan import model_of
from glassbox.runs.stages.base import StageRecipe
from glassbox.training.config import TrainConfig
from glassbox.training.guards import Guard, GuardConfig, LossScaler
from glassbox.training.next_token import NextToken
from glassbox.training.parallel.config import ParallelConfig, parse_layout
from glassbox.training.parallel.layout import Layout
from glassbox.training.protocols import AfterStep
from glassbox.training.step import PlainPasses, TrainStep

ROUNDINGS = 16.0
"""How many times the rounding error of one rank in float32 a layout's may be: it adds in another order,
in as many more parts as there are ranks and micro-batches."""
FLOOR = 64 * torch.finfo(torch.float32).eps
"""The least bound, relative to a tensor's norm, for what one rank happens to round to the right number."""


class Case(Spec):
    """What is compared: a model, an optimizer and a step, small enough for one machine."""

    model: ModelConfig
    optim: OptimizerConfig
    train: TrainConfig
    seed: int = 0
    z_loss: float = 0.0
    checkpoint: str = "none"
    micro_batches: int = 4
    rows: int = 2
    row_length: int = 32


@dataclass(frozen=True)
class Quantity:
    """One number or tensor of a step: its error in a layout, beside the bound.

    error, bound, norm: Euclidean norms, of the difference from one rank in float64, of what rounding may
    make, and of the quantity itself. factor: what the quantity was multiplied by, where that explains
    the error.
    """

    name: str
    error: float
    bound: float
    norm: float
    factor: float | None = None

    @property
    def is_rounding(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound

    @property
    def described(self) -> str:
        """The name, and what is wrong with it."""
        if self.factor is not None:
            return f"{self.name} ({self.factor:.3g} times what it should be)"
        return f"{self.name} (off by {self.error / max(self.norm, 1e-300):.2g} of its norm)"


@dataclass(frozen=True)
class Verdict:
    """What was found of one layout."""

    layout: str
    ranks: int
    quantities: tuple[Quantity, ...]

    @property
    def bugs(self) -> list[Quantity]:
        """What rounding does not explain, in the order in which a step computes it."""
        return [one for one in self.quantities if not one.is_rounding]

    @property
    def worst(self) -> Quantity:
        """What comes nearest to its bound, or beyond it."""
        return max(self.quantities, key=lambda one: one.error / max(one.bound, 1e-300))

    @property
    def text(self) -> str:
        """`rounding`, or `bug in X`: X is what goes wrong first."""
        bugs = self.bugs
        if not bugs:
            return "rounding"
        more = f" and {len(bugs) - 1} more" if len(bugs) > 1 else ""
        return f"bug in {bugs[0].described}{more}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "layout": self.layout,
            "ranks": self.ranks,
            "verdict": self.text,
            "quantities": [
                {**vars(one), "is_rounding": one.is_rounding} for one in self.quantities
            ],
        }


def case_of(recipe: StageRecipe, layouts: Sequence[str]) -> Case:
    """The case of a recipe: its model, optimizer, clipping and seed, on a batch of random ids.

    Dropout is left out, since ranks draw other masks. Raises UserError for a stage without `shards`.
    """
    model = model_of(recipe)
    data_ranks = [ranks // config.tensor for config, ranks in map(parse_layout, layouts)]
    parallel = recipe.parallel
    return Case(
        model=model.model_copy(update={"dropout": 0.0}),
        optim=recipe.optim,
        train=recipe.train.model_copy(update={"precision": "float32", "compile": False}),
        seed=recipe.seed,
        z_loss=getattr(recipe, "z_loss", 0.0),
        checkpoint="none" if parallel is None else parallel.checkpoint,
        micro_batches=2 * math.lcm(*data_ranks, 1),
        row_length=min(32, model.context_length),
    )


def batches_of(case: Case) -> list[TokenBatch]:
    """Micro-batches of random ids in several documents, each with another share of targets without loss."""
    generator = torch.Generator().manual_seed(derive_seed(case.seed, "verify"))
    found = []
    shape = (case.rows, case.row_length)
    for number in range(case.micro_batches):
        ids, targets = (
            torch.randint(case.model.vocab_size, shape, generator=generator) for _ in range(2)
        )
        share = (number + 1) / (case.micro_batches + 1)
        targets[torch.rand(shape, generator=generator) > share] = IGNORE
        targets[0, 0] = 1
        starts = torch.rand(shape, generator=generator) < 2 / case.row_length
        found.append(TokenBatch(ids, targets, starts.long().cumsum(1)))
    return found


def drawn_model(case: Case, dtype: torch.dtype) -> CausalLM:
    """The model on one rank, every weight moved away from where it starts: no bias is zero, no gain one."""
    torch.manual_seed(derive_seed(case.seed, "init"))
    model = CausalLM(case.model)
    generator = torch.Generator().manual_seed(derive_seed(case.seed, "moved"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.to(dtype)


def measure(
    case: Case, make: Callable[[], Layout], *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """One optimizer step in a layout; every rank calls it, and rank 0 gets everything, whole, in float64.

    initial.NAME: weights as the layout draws them; loss; gradient.NAME, before clipping; norm;
    weight.NAME and buffer.NAME after the step.
    """
    found: dict[str, Tensor] = {}
    torch.manual_seed(derive_seed(case.seed, "init"))
    layout = make()
    found |= _whole(layout, layout.create(case.model), "initial")
    layout = make()
    model = drawn_model(case, dtype).train()
    layout.apply(model)
    with layout.local(model):
        inner = case.optim.build(model, {})
    optimizer = layout.optimizer(inner, model)
    scaler = LossScaler(enabled=False)
    passes = _Watched(
        model,
        NextToken(z_loss=case.z_loss),
        optimizer,
        precision="float32",
        layout=layout,
        clipper=case.train.clipper(),
        scaler=scaler,
    )
    step = TrainStep(
        passes,
        group=layout.data,
        guard=Guard(GuardConfig()),
        scaler=scaler,
        adjusting=[m for m in model.modules() if isinstance(m, AfterStep)],
    )
    data = layout.data
    outcome = step.take(batches_of(case)[data.rank :: data.world_size], case.train.lr)
    found["loss"] = torch.tensor(outcome.loss, dtype=torch.float64)
    names = {id(p): name for name, p in model.named_parameters()}
    gradients = {
        f"gradient.{names[id(p)]}": gradient.double()
        for p, gradient in zip(passes.trained, passes.gradients, strict=True)
    }
    found |= layout.gathered(gradients)
    found["norm of all gradients"] = torch.tensor(outcome.norm, dtype=torch.float64)
    found |= _whole(layout, model, "weight")
    return found


class _Watched(PlainPasses):
    """Keeps each gradient as it is after the sums over ranks, before clipping."""

    gradients: Sequence[Tensor] = ()
    trained: Sequence[torch.nn.Parameter] = ()

    def reduced(self, divisor: float) -> list[Tensor]:
        """The gradients, copied."""
        found = super().reduced(divisor)
        self.gradients = [gradient.clone() for gradient in found]
        self.trained = [p for p in self.optimizer.parameters() if p.grad is not None]
        return found


def _whole(layout: Layout, model: CausalLM, what: str) -> dict[str, Tensor]:
    with layout.saving(model) as plain:
        state = plain.state_dict() if layout.world.is_main else {}
        parameters = {name for name, _ in plain.named_parameters()}
        return {
            f"{what if name in parameters else 'buffer'}.{name}": tensor.double().clone()
            for name, tensor in state.items()
        }


def judge(
    layout: str,
    ranks: int,
    found: Mapping[str, Tensor],
    single: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
) -> Verdict:
    """Compare a layout with one rank in float64; one rank in float32 tells what rounding makes.

    Initial weights must be equal to the bit.
    """
    quantities = []
    for name, reference in exact.items():
        if name not in found or found[name].shape != reference.shape:
            quantities.append(Quantity(name, math.inf, 0.0, float(reference.norm())))
            continue
        value = found[name]
        if name.startswith("initial."):
            error = float((value - single[name]).norm())
            quantities.append(Quantity(name, error, 0.0, float(reference.norm())))
            continue
        norm = float(reference.norm())
        error = float((value - reference).norm())
        bound = ROUNDINGS * float((single[name] - reference).norm()) + FLOOR * norm
        bad = not error <= bound
        quantities.append(
            Quantity(
                name,
                error if math.isfinite(error) else math.inf,
                bound,
                norm,
                _factor(value, reference) if bad else None,
            )
        )
    return Verdict(layout, ranks, tuple(quantities))


def _factor(value: Tensor, reference: Tensor) -> float | None:
    """a, where value is a times reference to a thousandth and a is not 1."""
    square = float((reference * reference).sum())
    if not square:
        return None
    factor = float((value * reference).sum()) / square
    rest = float((value - factor * reference).norm()) / math.sqrt(square)
    return factor if rest < 1e-3 * abs(factor) and abs(factor - 1) > 1e-3 else None


def _rank(
    rank: int, ranks: int, meeting: str, case: dict[str, Any], names: list[str], out: str
) -> None:
    """One of several processes: every layout of so many ranks, one after another."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        read = Case.model_validate(case)
        group = Group(rank, ranks, rank)
        for name in names:
            found = measure(read, functools.partial(layout_of, read, name, group))
            if group.is_main:
                write_tensors(Path(out) / f"{name}.safetensors", found)
    finally:
        dist.destroy_process_group()


def layout_of(case: Case, name: str, group: Group) -> Layout:
    """A layout by its name, on the ranks at hand."""
    config, _ = parse_layout(name)
    config = ParallelConfig.model_validate({**config.model_dump(), "checkpoint": case.checkpoint})
    return config.build(group, "cpu")


def verify(case: Case, layouts: Sequence[str]) -> list[Verdict]:
    """The verdict of each layout, run on processes of this machine over gloo.

    Raises UserError for a layout that does not go with the model, before any process is started.
    """
    from glassbox.training.parallel.tensor import check_divisible

    by_ranks: dict[int, list[str]] = {}
    for name in layouts:
        config, ranks = parse_layout(name)
        if config.tensor > 1:
            check_divisible(case.model, config.tensor)
        by_ranks.setdefault(ranks, []).append(name)
    single = measure(case, Layout)
    exact = measure(case, Layout, dtype=torch.float64)
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks, names in by_ranks.items():
            if ranks == 1:
                for name in names:
                    found = measure(case, functools.partial(layout_of, case, name, Group()))
                    verdicts[name] = judge(name, 1, found, single, exact)
                continue
            spawn(
                _rank,
                (ranks, f"{folder}/meeting-{ranks}", case.model_dump(mode="json"), names, folder),
                nprocs=ranks,
            )
            for name in names:
                found = load_file(Path(folder) / f"{name}.safetensors")
                verdicts[name] = judge(name, ranks, found, single, exact)
    return [verdicts[name] for name in layouts]
