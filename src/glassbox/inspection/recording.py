"""Record, edit, patch and steer the inner values of a model by name: `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inspection.seams import Removable, Seam
from glassbox.inspection.sites import matching, sites
from glassbox.models.causal_lm import CausalLM

Edit = Callable[[Tensor], Tensor | None]
"""Takes a value and returns what the model goes on with; None leaves it (or it was changed in place)."""
Index: TypeAlias = Any
"""What stands between brackets: `value[index]`, as (slice(None), 3) for every row's fourth token."""


@runtime_checkable
class HasModel(Protocol):
    """Whatever has a `CausalLM`: what `glassbox.load` gives, or an engine."""

    @property
    def model(self) -> CausalLM:
        """The model."""


def the_model(model: CausalLM | HasModel) -> CausalLM:
    """The model itself of whatever has one."""
    return model if isinstance(model, CausalLM) else model.model


@dataclass(frozen=True)
class Pass:
    """What one forward pass was given: token ids and their positions, and how many of each row are real."""

    ids: Int[Tensor, "B T"]
    positions: Int[Tensor, "#B T"] | None
    lengths: Int[Tensor, " B"] | None
    documents: Int[Tensor, "B T"] | None


class Inspection:
    """The values recorded by name, pass by pass, and the edits that are in force: what `inspect` gives.

    run[name]: the value of the last pass, as the model went on with it (after edits).
    run.all(name): of every pass, in order; run.passes says what each pass was given. In an engine a
        prompt's pass comes first, then one for each step, whose rows are the running requests.
    run.grad(name): the gradient of the last pass's value, once `backward` was called.
    run.clear(): forget all values and passes.
    edit, patch and steer add further changes, which last until the end of the `with` block.
    """

    def __init__(
        self,
        model: CausalLM | HasModel,
        record: str | Sequence[str] = (),
        *,
        edit: Mapping[str, Edit] | None = None,
        patch: Mapping[str, Tensor] | None = None,
        steer: Mapping[str, Tensor] | None = None,
        gradients: bool = False,
    ) -> None:
        self.model = the_model(model)
        self.gradients = gradients
        self.passes: list[Pass] = []
        self.in_pass = False
        self._sites = sites(self.model)
        self._axes = {name: axes for site in self._sites for name, axes in site.values.items()}
        patterns = [record] if isinstance(record, str) else list(record)
        self._recorded = dict.fromkeys(
            name for pattern in patterns for name in matching(self._axes, pattern, "record")
        )
        self._edits: dict[str, list[Edit]] = {}
        self._values: dict[str, list[Tensor]] = {}
        self._attached: dict[int, list[Removable]] = {}
        self._passing: list[Removable] = []
        self._open = False
        for pattern, function in (edit or {}).items():
            self.edit(pattern, function)
        for name, value in (patch or {}).items():
            self.patch(name, value)
        for pattern, vector in (steer or {}).items():
            self.steer(pattern, vector)

    # ---- what was seen ------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """What is recorded, in the order in which a token passes it."""
        return [name for name in self._axes if name in self._recorded]

    def __getitem__(self, name: str) -> Tensor:
        return self.all(name)[-1]

    def all(self, name: str) -> list[Tensor]:
        """One value a pass. Raises UserError for a name that is not recorded, or before a pass."""
        if name not in self._recorded:
            matching(self._axes, name, "run")
            raise UserError(f"'{name}' is not recorded; add it to `record`")
        found = self._values.get(name)
        if not found:
            raise UserError(f"'{name}' has no value yet; run the model inside the `with` block")
        return found

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the last pass."""
        for name in self.names:
            if self._values.get(name):
                yield name, self[name]

    def grad(self, name: str) -> Tensor:
        """d(what `backward` was called on) / d(the last pass's value); zeros where it has no part in it."""
        if not self.gradients:
            raise UserError("no gradients are kept; give inspect(..., gradients=True)")
        value = self[name]
        if not value.requires_grad:
            raise UserError(f"'{name}' has no gradient: it is not made of real numbers")
        return torch.zeros_like(value) if value.grad is None else value.grad

    def clear(self) -> None:
        """Forget what was recorded."""
        self._values.clear()
        self.passes.clear()

    # ---- what is changed ------------------------------------------------------------------------

    def edit(self, pattern: str, function: Edit) -> None:
        """Have every value of these names pass through a function of the value.

        It is given the value itself and returns another of its shape; None leaves it as it is.
        """
        for name in matching(self._axes, pattern, "edit"):
            self._edits.setdefault(name, []).append(function)
        self._attach()

    def patch(self, pattern: str, value: Tensor | float, at: Index = ...) -> None:
        """Put a value in the place of the model's own, at value[at] only where `at` is given."""

        def function(old: Tensor) -> Tensor:
            if at is ... and isinstance(value, Tensor):
                return value.to(old).expand_as(old)
            new = old.clone()
            new[at] = value.to(old) if isinstance(value, Tensor) else value
            return new

        self.edit(pattern, function)

    def steer(self, pattern: str, vector: Tensor, scale: float = 1.0, at: Index = ...) -> None:
        """Add scale * vector at every token, or to value[at]."""

        def function(old: Tensor) -> Tensor:
            new = old.clone()
            new[at] += scale * vector.to(old)
            return new

        self.edit(pattern, function)

    # ---- how it is done -------------------------------------------------------------------------

    def __enter__(self) -> Inspection:
        if self._open:
            raise UserError("this inspection is open already; make another with inspect(...)")
        self._open = True
        self._attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        for handles in (*self._attached.values(), self._passing):
            for handle in handles:
                handle.remove()
        self._attached.clear()
        self._passing.clear()
        self.in_pass = False

    def _attach(self) -> None:
        """Put this at every site that is asked for and not reached yet."""
        if not self._open:
            return
        for number, site in enumerate(self._sites):
            wanted = [name for name in site.values if self.wants(name)]
            if not wanted or number in self._attached:
                continue
            if not self._passing:
                self._passing = [Seam.attach(self.model, "hidden_states", self._pass)]
            self._attached[number] = site.attach(self)

    def _pass(
        self, call: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        """Around `hidden_states`: what happens inside is a pass, whatever else runs these layers is none."""
        ids = args[0] if args else keywords["ids"]
        where = (keywords.get(name) for name in ("positions", "lengths", "documents"))
        self.passes.append(Pass(ids, *where))
        self.in_pass = True
        try:
            return call(*args, **keywords)
        finally:
            self.in_pass = False

    def wants(self, name: str) -> bool:
        """Whether a value is recorded or edited."""
        return name in self._recorded or name in self._edits

    def edits(self, name: str) -> bool:
        """Whether somebody edits a value."""
        return name in self._edits

    def changes(self, name: str) -> bool:
        """Whether the model goes on with another tensor than its own."""
        return name in self._edits or (self.gradients and name in self._recorded)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """A value passes: edit it, record it, give it back."""
        if not self.wants(name):
            return value
        for function in self._edits.get(name, ()):
            new = function(value)
            if new is not None and new.shape != value.shape:
                raise UserError(
                    f"edit: '{name}' is {tuple(value.shape)} ({self._axes[name]}), the function gave "
                    f"{tuple(new.shape)}; it must keep the shape"
                )
            value = value if new is None else new
        if name in self._recorded:
            if self.gradients and value.is_floating_point():
                value = self._tracked(name, value)
            kept = value if self.gradients else value.detach()
            self._values.setdefault(name, []).append(kept)
        return value

    def _tracked(self, name: str, value: Tensor) -> Tensor:
        """The value as a node of its own, whose gradient is kept."""
        if not torch.is_grad_enabled():
            raise UserError("gradients = True under torch.no_grad(); run the model with gradients")
        # one that nothing trainable came before begins the graph
        value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        if not value.is_leaf:
            value.retain_grad()
        return value


def inspect(
    model: CausalLM | HasModel,
    record: str | Sequence[str] = (),
    *,
    edit: Mapping[str, Edit] | None = None,
    patch: Mapping[str, Tensor] | None = None,
    steer: Mapping[str, Tensor] | None = None,
    gradients: bool = False,
) -> Inspection:
    """Look into a model while it runs, in a `with` block: every inner value has a name.

    `embedding`; of each block N `blocks.N.residual_pre`, `.mixer.query`, `.mixer.key`, `.mixer.value`,
    `.mixer.attention`, `.mixer.state`, `.mixer.heads`, `.mixer.output`, `.residual_mid`, `.ffn.router`,
    `.ffn.experts`, `.ffn.gates`, `.ffn.hidden`, `.ffn.output`, `.residual_post`; `final_norm` and
    `logits`. `glassbox.inspection.names(model)` lists those of a model with their axes.

    model: a `CausalLM`, or what has one: `glassbox.load(...)`, an `Engine`.
    record: names or patterns such as `blocks.*.residual_mid`; detached unless `gradients`.
    edit: pattern -> function of the value, which returns what the model goes on with.
    patch: pattern -> the value to go on with. steer: pattern -> a vector added at every token.
    gradients: keep what is recorded in the graph, and its gradient once `backward` was called.

    It works wherever the model runs: by itself, in training, in the engine, with adapters (those
    attached before). Outputs are the same bits whatever is recorded, and outside of the block the
    model has nothing left of it. A fused loss makes no logits, so that training records none.
    Raises UserError for a name that the model has not, naming those spelled most alike.
    Tested against: the same values computed by hand, for every kind of mixer.

    >>> with inspect(model, "blocks.0.mixer.attention") as run:  # doctest: +SKIP
    ...     model(ids)
    >>> run["blocks.0.mixer.attention"].sum(-1)  # (B, H, T), ones  # doctest: +SKIP
    """
    return Inspection(model, record, edit=edit, patch=patch, steer=steer, gradients=gradients)
