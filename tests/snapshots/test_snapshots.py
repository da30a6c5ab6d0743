"""Each mixer, feed-forward, norm and optimizer on a fixed input, held to what it gave when it was recorded.

A refactor that moves a number fails here under the name of the part that moved it. All is computed in
float64 and compared within 1e-9 relative to the largest number of the part: processors differ in
the order of their sums, which is far below that. `PYTHONPATH=src:tests
python tests/snapshots/test_snapshots.py` writes the files anew; say in the commit why.
"""

from __future__ import annotations

import hashlib
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

from glassbox.core.plugins import PythonSpec
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.context import Context
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import Norm
from glassbox.models.causal_lm import CausalLM, positions_in_documents
from glassbox.models.config import BlockSpec, FeedForward, ModelConfig, Repeat
from glassbox.optim.specs import OptimizerConfig
from support.mixers import SIZE, all_mixers, as_it_comes

FOLDER = Path(__file__).parent
RELATIVE = 1e-9
LENGTH, DOCUMENTS = 40, (17, 23)


def kinds(union: typing.Any) -> tuple[type, ...]:
    """Of a union, but the user's own, which have tests of their own."""
    inner, *_ = typing.get_args(union)
    return tuple(kind for kind in typing.get_args(inner) if not issubclass(kind, PythonSpec))


def feed_forwards() -> dict[str, typing.Any]:
    experts = MixtureOfExperts(num_experts=3, top_k=2, expert=SwiGlu(size=6))
    return {
        kind.__name__: experts if kind is MixtureOfExperts else as_it_comes(kind)
        for kind in kinds(FeedForward)
    }


def normal(name: str, *shape: int) -> torch.Tensor:
    """Numbers that follow from a name and not from what was drawn before, the same on every machine."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def filled(layer: torch.nn.Module) -> torch.nn.Module:
    layer = layer.double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(0.3 * normal(name, *parameter.shape))
    return layer


def of_layer(spec: typing.Any) -> dict[str, torch.Tensor]:
    """The output over two packed documents, and the gradients of the input and of every weight."""
    layer = filled(spec.build(SIZE))
    hidden = normal("hidden", 1, LENGTH, SIZE).requires_grad_()
    documents = torch.repeat_interleave(torch.arange(2), torch.tensor(DOCUMENTS))[None]
    context = Context(positions=positions_in_documents(documents), documents=documents)
    output = layer(hidden, context)
    (output * normal("weights", *output.shape)).sum().backward()
    found = {"output": output.detach(), "gradient.hidden": hidden.grad}
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:  # an indexer's choice has none
            found[f"gradient.{name}"] = parameter.grad
    return found


def of_norm(spec: typing.Any) -> dict[str, torch.Tensor]:
    layer = filled(spec.build(SIZE))
    hidden = normal("hidden", 2, 3, SIZE).requires_grad_()
    output = layer(hidden)
    (output * normal("weights", *output.shape)).sum().backward()
    grads = {f"gradient.{name}": p.grad for name, p in layer.named_parameters()}
    return {"output": output.detach(), "gradient.hidden": hidden.grad, **grads}


def of_optimizer(spec: typing.Any) -> dict[str, torch.Tensor]:
    """The weights of a small model after three updates by given gradients."""
    block = BlockSpec(mixer=GroupedQuery(num_heads=3), ffn=SwiGlu(size=8))
    config = ModelConfig(
        vocab_size=11, hidden_size=SIZE, context_length=16, blocks=(Repeat(block=block),)
    )
    model = filled(CausalLM(config))
    optimizer = spec.build(model)
    for step in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = normal(f"{step} {name}", *parameter.shape)
        optimizer.step(0.01)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


CASES: dict[str, tuple[typing.Callable[[typing.Any], dict[str, torch.Tensor]], typing.Any]] = {
    **{
        f"mixer {name}": (of_layer, spec)
        for name, spec in all_mixers().items()
        if not isinstance(spec, PythonSpec)
    },
    **{f"feed-forward {name}": (of_layer, spec) for name, spec in feed_forwards().items()},
    **{f"norm {kind.__name__}": (of_norm, kind()) for kind in kinds(Norm)},
    **{f"optimizer {kind.__name__}": (of_optimizer, kind()) for kind in kinds(OptimizerConfig)},
}


def compact(tensor: torch.Tensor) -> np.ndarray:
    """Few numbers that hold many: of a long tensor the sums with 16 fixed vectors."""
    flat = tensor.flatten()
    if flat.numel() <= 16:
        return flat.numpy()
    return (normal("sums", 16, flat.numel()) @ flat).numpy()


def measured(case: str) -> dict[str, np.ndarray]:
    compute, spec = CASES[case]
    return {name: compact(tensor) for name, tensor in compute(spec).items()}


def stored(kind: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def record() -> None:
    """Write the files anew."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for case in CASES:
        arrays = {f"{case}: {name}": values for name, values in measured(case).items()}
        groups.setdefault(case.split()[0], {}).update(arrays)
    for kind, arrays in groups.items():
        np.savez_compressed(FOLDER / f"{kind}.npz", **arrays)


def test_nothing_is_recorded_of_what_is_no_part_any_more() -> None:
    for path in sorted(FOLDER.glob("*.npz")):
        for name in stored(path.stem):
            assert name.partition(": ")[0] in CASES, name


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_it_was(case: str) -> None:
    held = {
        name.partition(": ")[2]: values
        for name, values in stored(case.split()[0]).items()
        if name.startswith(f"{case}: ")
    }
    assert held, f"'{case}' is not recorded; record it, as this file's first lines say"
    found = measured(case)
    assert held.keys() == found.keys()
    for name, values in found.items():
        largest = max(1.0, float(np.abs(held[name]).max()))
        np.testing.assert_allclose(
            values, held[name], rtol=0, atol=RELATIVE * largest, err_msg=f"{case}: {name}"
        )


def test_a_change_in_the_sixth_place_is_seen() -> None:
    case = "norm RmsNorm"
    found = measured(case)["output"]
    held = stored("norm")[f"{case}: output"]
    assert np.abs(found * (1 + 1e-6) - held).max() > RELATIVE * max(1.0, np.abs(held).max())


if __name__ == "__main__":
    record()
