"""The names of a model's inner values, and how each is reached."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.inspection.seams import Removable, Seam, parameters
from glassbox.layers.inside import Inside
from glassbox.layers.inside import Tap as InsideTap
from glassbox.models.block import Block
from glassbox.models.causal_lm import CausalLM

Call = Callable[..., Any]


class Tap(InsideTap, Protocol):
    """Whoever looks, and whether a pass that it looks at is under way."""

    in_pass: bool


Attach = Callable[[Tap], list[Removable]]


@dataclass(frozen=True)
class Site:
    """One place of a model, and the values that are reached there together.

    values: name -> axes. attach: puts a tap there.
    """

    values: Mapping[str, str]
    attach: Attach


def sites(model: CausalLM) -> list[Site]:
    """Every place of a model, in the order in which a token passes them."""
    found = [_method(model, "embed", "embedding", "B T D")]
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        found += _block(block, f"blocks.{number}.")
    found.append(_output(model.final_norm, "final_norm", "B T D"))
    found.append(_method(model, "logits", "logits", "... V", always=True))
    return found


def names(model: CausalLM) -> dict[str, str]:
    """Name -> axes of every inner value of a model, in the order in which a token passes them.

    >>> names(model)["blocks.0.mixer.attention"]  # doctest: +SKIP
    'B H T S'
    """
    return {name: axes for site in sites(model) for name, axes in site.values.items()}


def matching(known: Iterable[str], pattern: str, what: str) -> list[str]:
    """The names that a pattern (`blocks.*.residual_mid`, brackets and ? as in a shell) matches.

    Raises UserError for one that matches none, with the names that are spelled most alike.
    """
    known = list(known)
    found = [name for name in known if fnmatchcase(name, pattern)]
    if found:
        return found
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    near = near or [known[0], known[-1]]
    raise UserError(
        f"{what}: '{pattern}' is no value of this model; near it are {', '.join(near)} "
        "(glassbox.inspection.names lists all)"
    )


def _block(block: Block, prefix: str) -> list[Site]:
    found = [_input(block, f"{prefix}residual_pre", "B T D")]
    found += _mixer(block.mixer, f"{prefix}mixer.")
    found.append(_output(block.mixer, f"{prefix}mixer.output", "B T D"))
    found.append(_method(block, "middle", f"{prefix}residual_mid", "B T D"))
    if block.ffn is not None:
        if hasattr(block.ffn, "route"):
            found.append(_router(block.ffn, f"{prefix}ffn."))
        last = _into_residual(block.ffn)
        if last is not None:
            found.append(_input(last, f"{prefix}ffn.hidden", "B T F"))
        found.append(_output(block.ffn, f"{prefix}ffn.output", "B T D"))
    found.append(_output(block, f"{prefix}residual_post", "B T D"))
    return found


_AXES = {
    "query": "B T H Dh",
    "key": "B T K Dh",
    "value": "B T K Dh",
    "attention": "B H T S",
    "state": "B ...",
}


def _mixer(mixer: Any, prefix: str) -> list[Site]:
    found = []
    inside: Inside | None = getattr(mixer, "inside", None)
    if inside is not None:
        values = {prefix + name: _AXES[name] for name in inside.names}
        found.append(Site(values, _attend(mixer, inside, prefix)))
    last = _into_residual(mixer)
    if last is not None:
        found.append(_heads(last, num_heads(mixer), f"{prefix}heads"))
    return found


def num_heads(mixer: Any) -> int:
    """How many heads a mixer's output is made of; 1 where its channels are not divided."""
    own = getattr(mixer, "num_heads", None)
    return int(own or getattr(getattr(mixer, "spec", None), "num_heads", None) or 1)


def _into_residual(module: Any) -> nn.Module | None:
    """The last matrix of a branch, whose input are its heads or hidden units; None where none is marked."""
    own = [child for child in module.children() if getattr(child, "into_residual", False)]
    return own[0] if len(own) == 1 else None


class _Named:
    """A tap that puts a prefix before each name."""

    def __init__(self, tap: Tap, prefix: str) -> None:
        self.tap = tap
        self.prefix = prefix

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.tap(self.prefix + name, value)

    def wants(self, name: str) -> bool:
        return self.tap.wants(self.prefix + name)

    def edits(self, name: str) -> bool:
        return self.tap.edits(self.prefix + name)

    def changes(self, name: str) -> bool:
        return self.tap.changes(self.prefix + name)


def _attend(mixer: Any, inside: Inside, prefix: str) -> Attach:
    def attach(tap: Tap) -> list[Removable]:
        named = _Named(tap, prefix)
        order = parameters(mixer, "attend")

        def around(call: Call, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            arguments = {**dict(zip(order, args, strict=False)), **keywords}
            return (
                inside.around(mixer, call, arguments, named) if tap.in_pass else call(**arguments)
            )

        return [Seam.attach(mixer, "attend", around)]

    return attach


def _heads(last: nn.Module, count: int, name: str) -> Site:
    def attach(tap: Tap) -> list[Removable]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not tap.in_pass:
                return None
            return (tap(name, args[0].unflatten(-1, (count, -1))).flatten(-2), *args[1:])

        return [last.register_forward_pre_hook(hook)]

    return Site({name: "B T H Dh"}, attach)


def _input(module: nn.Module, name: str, axes: str) -> Site:
    def attach(tap: Tap) -> list[Removable]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (tap(name, args[0]), *args[1:]) if tap.in_pass else None

        return [module.register_forward_pre_hook(hook)]

    return Site({name: axes}, attach)


def _output(module: nn.Module, name: str, axes: str) -> Site:
    def attach(tap: Tap) -> list[Removable]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return tap(name, output) if tap.in_pass else None

        return [module.register_forward_hook(hook)]

    return Site({name: axes}, attach)


def _method(owner: nn.Module, method: str, name: str, axes: str, *, always: bool = False) -> Site:
    """What a method returns; `always`, where it is called behind a pass and not inside."""

    def attach(tap: Tap) -> list[Removable]:
        def around(call: Call, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            value = call(*args, **keywords)
            return tap(name, value) if always or tap.in_pass else value

        return [Seam.attach(owner, method, around)]

    return Site({name: axes}, attach)


def _router(layer: Any, prefix: str) -> Site:
    """A mixture's router: its logits, and of each token the chosen experts and their gates."""
    values = {"router": "B T E", "experts": "B T K", "gates": "B T K"}

    def attach(tap: Tap) -> list[Removable]:
        named = _Named(tap, prefix)
        shape: list[tuple[int, int]] = []

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            shape[:] = [args[0].shape[:2]]

        def around(call: Call, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            if not tap.in_pass:
                return call(*args, **keywords)

            def seen(name: str, value: Tensor) -> Tensor:
                if not named.wants(name):
                    return value
                return named(name, value.unflatten(0, shape[0])).flatten(0, 1)

            routing = call(seen("router", args[0]), *args[1:], **keywords)
            return replace(
                routing,
                experts=seen("experts", routing.experts),
                gates=seen("gates", routing.gates),
            )

        handle: Removable = layer.register_forward_pre_hook(before)
        return [handle, Seam.attach(layer, "route", around)]

    return Site({prefix + name: axes for name, axes in values.items()}, attach)
