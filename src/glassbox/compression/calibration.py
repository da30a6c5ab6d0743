"""What a model's layers see of some text: the second moments and magnitudes of every linear layer's inputs.

Block by block: a block's inputs are those that the blocks before it, already compressed, give.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.linear import Linear
from glassbox.models.causal_lm import CausalLM


@dataclass(frozen=True)
class Calibration:
    """Windows of token ids, and what they were drawn from: for the file that they choose the codes of.

    source: the name it was given by. sha256: of the ids.
    """

    ids: Int[Tensor, "N T"]
    source: str
    seed: int

    @property
    def sha256(self) -> str:
        """The hash of the windows."""
        return hashlib.sha256(self.ids.to(torch.int32).cpu().numpy().tobytes()).hexdigest()

    def describe(self) -> dict[str, object]:
        """For config.json."""
        windows, length = self.ids.shape
        return {
            "source": self.source,
            "seed": self.seed,
            "windows": windows,
            "window_tokens": length,
            "sha256": self.sha256,
        }


def draw_windows(
    documents: Sequence[Sequence[int]], *, count: int, length: int, seed: int, source: str
) -> Calibration:
    """`count` windows of `length` tokens at random places of the documents laid end to end.

    Fewer tokens make shorter or fewer windows. Raises UserError for less than two tokens.
    """
    stream = [token for document in documents for token in document]
    if len(stream) < 2:
        raise UserError(f"calibration text '{source}' has {len(stream)} tokens; give more")
    length = min(length, len(stream))
    places = range(len(stream) - length + 1)
    drawn = sorted(random.Random(seed).sample(places, min(count, len(places))))
    return Calibration(
        torch.tensor([stream[start : start + length] for start in drawn]), source, seed
    )


@dataclass
class Seen:
    """What one linear layer has seen: H = sum of x x^T, sum of |x|, and how many rows."""

    moments: Float[Tensor, "I I"]
    magnitudes: Float[Tensor, " I"]
    rows: int = 0

    def take(self, x: Tensor) -> None:
        """Add the rows of a batch of inputs."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        self.moments.addmm_(flat.t(), flat)
        self.magnitudes += flat.abs().sum(0)
        self.rows += len(flat)

    @property
    def mean_magnitudes(self) -> Float[Tensor, " I"]:
        """Mean |x| of each channel."""
        return self.magnitudes / max(1, self.rows)


@contextmanager
def watched(layers: dict[str, nn.Module]) -> Iterator[dict[str, Seen]]:
    """What these linear layers see inside."""
    seen: dict[str, Seen] = {}
    hooks = []

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if path not in seen:
                size = x.shape[-1]
                zeros = torch.zeros(size, size, device=x.device)
                seen[path] = Seen(zeros, torch.zeros(size, device=x.device))
            seen[path].take(x)

        return take

    try:
        for path, layer in layers.items():
            hooks.append(layer.register_forward_pre_hook(watch(path)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def block_by_block(
    model: CausalLM,
    calibration: Calibration,
    change: Callable[[str, Linear, Seen], None],
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Call `change` with every wanted linear layer of the blocks and the head, and what it has seen.

    A block is run, its layers changed, and run again, so that the next one sees what it then gives. A layer
    that saw nothing, as one that is read and never called, is not changed.
    """
    was_training = model.training
    model.eval()
    ids = calibration.ids.to(model.device)
    positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    context = Context(positions=positions)
    hidden = [model.embed(rows, positions) for rows in ids.split(batch)]
    total = len(model.blocks) + 1
    for number, block in enumerate(model.blocks):
        layers: dict[str, nn.Module] = {
            path: module
            for name, module in block.named_modules()
            if type(module) is Linear and wanted(path := f"blocks.{number}.{name}")
        }
        if layers:
            with watched(layers) as seen:
                for rows in hidden:
                    block(rows, context, None)
            for path, found in seen.items():
                layer = layers[path]
                assert isinstance(layer, Linear)
                change(path, layer, found)
        hidden = [block(rows, context, None) for rows in hidden]
        if progress is not None:
            progress(number + 1, total)
    if type(model.head) is Linear and wanted("head"):
        head = model.head
        with watched({"head": head}) as seen:
            for rows in hidden:
                model.project(model.finish(rows))
        change("head", head, seen["head"])
    if progress is not None:
        progress(total, total)
    model.train(was_training)
