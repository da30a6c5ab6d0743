"""Planted bugs of layouts, each measured on two ranks started by torchrun: FOLDER.

What `glassbox verify` says of each is written to FOLDER/verdicts.json, beside what it says of layouts
without bugs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from glassbox.core import data_parallel
from glassbox.core.distributed import Group, process_group
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExpertsLayer
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adamw import AdamW, AdamWConfig
from glassbox.optim.muon import Muon, MuonConfig
from glassbox.runs.verify import Case, judge, layout_of, measure
from glassbox.training import next_token
from glassbox.training.config import TrainConfig
from glassbox.training.parallel import layout, sharded, tensor, zero
from glassbox.training.parallel.layout import Layout
from glassbox.training.parallel.pieces import Split
from glassbox.training.step import TrainStep
from support.parallel_runs import config

TRAIN = TrainConfig(steps=9, lr=0.01, max_grad_norm=0.05, schedule={"kind": "constant"})  # type: ignore[arg-type]


def dense() -> ModelConfig:
    """Every kind of bias and norm, two kinds of perceptron, an output of its own, odd sizes."""
    mixer = GroupedQuery(
        num_heads=4, num_kv_heads=2, head_dim=4, positions=Rotary(), qk_norm=RmsNorm(),
        qkv_bias=True, output_bias=True, sinks=True, output_gate=True,
    )  # fmt: skip
    blocks = (
        Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=18))),
        Repeat(block=BlockSpec(mixer=mixer, ffn=Gelu(size=10))),
    )
    return ModelConfig(
        vocab_size=33, hidden_size=14, context_length=32, blocks=blocks, tie_embeddings=False,
        head_bias=True,
    )  # fmt: skip


def other(mixer: dict[str, Any], ffn: dict[str, Any], **changes: Any) -> ModelConfig:
    """A model of another mixer and feed-forward."""
    shape = config().model_dump(mode="json") | {"hidden_size": 16} | changes
    shape["blocks"][0]["block"] |= {"mixer": mixer, "ffn": ffn}
    return ModelConfig.model_validate(shape)


MIXED = {
    "gated_delta": other({"kind": "gated_delta", "num_heads": 2}, {"kind": "swiglu", "size": 18}),
    "latent with mtp": other(
        {
            "kind": "latent",
            "num_heads": 2,
            "kv_rank": 8,
            "nope_dim": 4,
            "rope_dim": 4,
            "value_dim": 4,
        },
        {"kind": "swiglu", "size": 18},
        mtp={"depth": 1},
    ),
    "rwkv": other({"kind": "rwkv_time"}, {"kind": "rwkv_channel", "size": 32}),
}

CASES: dict[str, Case] = {
    "dense": Case(model=dense(), optim=AdamWConfig(), train=TRAIN, row_length=16, z_loss=1e-3),
    "muon": Case(model=dense(), optim=MuonConfig(), train=TRAIN, row_length=16),
    **{
        name: Case(model=shape, optim=AdamWConfig(), train=TRAIN, row_length=16, checkpoint="full")
        for name, shape in MIXED.items()
    },
    "experts": Case(model=config(experts=True), optim=AdamWConfig(), train=TRAIN, row_length=16),
}
CLEAN = [
    *((case, name) for case in ("dense", "muon") for name in ("dp2", "zero2", "fsdp2", "tp2")),
    *((case, "fsdp2") for case in MIXED),
    *(("experts", name) for name in ("dp2", "zero2", "fsdp2")),
]
Planted = Callable[[Group], contextlib.AbstractContextManager[Any]]


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Planted:
    """A function that is another one, made of the right one."""

    def plant(group: Group) -> contextlib.AbstractContextManager[Any]:
        return mock.patch.object(owner, name, make(getattr(owner, name)))

    return plant


def another_seed(group: Group) -> contextlib.AbstractContextManager[Any]:
    """Each rank draws its own weights."""
    return mock.patch("glassbox.runs.verify.derive_seed", lambda seed, word: seed + group.rank)


def _contiguous(self: Split, whole: Tensor, rank: int, ranks: int) -> Tensor:
    return whole.tensor_split(ranks, self.axis)[rank]


def _biased(self: Any, x: Tensor) -> Tensor:
    return tensor.sum_out(torch.nn.functional.linear(x, self.weight, self.bias), self.group)


def _unmasked(self: Any, ids: Tensor) -> Tensor:
    own = (ids - self.first).clamp(0, len(self.weight) - 1)
    return tensor.sum_out(torch.nn.functional.embedding(own, self.weight), self.group)


def _summed_again(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return ctx.group.sum_(grad.clone()), None


def _remembers(ctx: Any, x: Tensor, group: Group) -> Tensor:
    ctx.group = group
    return group.sum_(x.contiguous().clone())


@contextlib.contextmanager
def sum_twice(group: Group) -> Iterator[None]:
    """The gradient of a sum over ranks is summed over ranks."""
    with (
        mock.patch.object(tensor._SumOut, "forward", staticmethod(_remembers)),
        mock.patch.object(tensor._SumOut, "backward", staticmethod(_summed_again)),
    ):
        yield


def _local_scores(right: Any) -> Any:
    def scores(*given: Any) -> Any:
        logits, chosen, _, own, here = right(*given)
        return logits, chosen, logits.logsumexp(-1), own, here

    return scores


def _local_norms(self: Any, parameters: Any, tensors: Any, order: float = 2.0) -> list[Tensor]:
    return [sharded.local(t).norm(order) for t in tensors]


def _norms_of_all(right: Any) -> Any:
    def norms(self: Any, parameters: Any, tensors: Any, order: float = 2.0) -> Any:
        with mock.patch.object(self, "_splits", dict.fromkeys(self._names.values())):
            return right(self, parameters, tensors, order)

    return norms


def _without_first_bucket(self: Any, bucket: Any, flat: Tensor) -> None:
    if bucket is not self._buckets[0]:
        data_parallel_put_back(self, bucket, flat)


data_parallel_put_back = data_parallel.DataParallel._put_back


def _decays_nothing(right: Any) -> Any:
    def share(self: Any, group: Any, lr: float) -> float:
        return 0.0

    return share


BUGS: dict[str, tuple[str, str, Planted]] = {
    "loss divided by the rank's own weight": ("dense", "dp2", replaced(
        TrainStep, "_sum_over_ranks", lambda right: lambda self, tokens, totals: (tokens, totals))),
    "gradients averaged over ranks": ("dense", "dp2", replaced(
        layout, "DataParallel", lambda right: lambda *a, **k: right(*a, **{**k, "reduce": "mean"}))),
    "the last bucket is not summed": ("dense", "dp2", replaced(
        data_parallel.DataParallel, "_put_back", lambda right: _without_first_bucket)),
    "gradients are not summed": ("dense", "zero2", replaced(
        data_parallel.DataParallel, "_put_back", lambda right: lambda *a: None)),
    "updated rows are not gathered": ("dense", "zero2", replaced(
        zero.Zero, "_gather", lambda right: lambda self: None)),
    "weight decay is lost": ("dense", "zero2", replaced(AdamW, "_share", _decays_nothing)),
    "shards' gradients averaged": ("dense", "fsdp2", replaced(
        sharded, "fully_shard", lambda right: functools.partial(_averaging, right))),
    "norm of the rank's own shard": ("dense", "fsdp2", replaced(
        sharded.Sharded, "norms", lambda right: _local_norms)),
    "parts of matrices orthogonalized": ("muon", "fsdp2", replaced(
        Muon, "see_parts", lambda right: lambda self, pieces, rows: self.rows.clear())),
    "weights drawn by another seed on each rank": ("dense", "fsdp2", another_seed),
    "router statistics of one rank": ("experts", "dp2", replaced(
        MixtureOfExpertsLayer, "after_step", lambda right: lambda self, group, *, taken: right(
            self, Group(), taken=taken))),
    "losses of layers are lost": ("experts", "fsdp2", replaced(
        next_token, "with_auxiliary",
        lambda right: lambda output, auxiliary: output)),
    "undivided weights counted on every rank": ("dense", "tp2", replaced(
        sharded.Sharded, "norms", _norms_of_all)),
    "shares of a norm's gradient not summed": ("dense", "tp2", replaced(
        tensor.TensorParallel, "finish", lambda right: lambda self, model: (
            right(self, model), self.partial.clear()))),
    "bias added on every rank": ("dense", "tp2", replaced(
        tensor.RowLinear, "forward", lambda right: _biased)),
    "input's gradient not summed": ("dense", "tp2", replaced(
        tensor._CopyIn, "backward", lambda right: staticmethod(lambda ctx, grad: (grad, None)))),
    "gradient summed twice": ("dense", "tp2", sum_twice),
    "q, k and v divided as one": ("dense", "tp2", replaced(Split, "take", lambda right: _contiguous)),
    "ids of other ranks looked up": ("dense", "tp2", replaced(
        tensor.VocabularyEmbedding, "forward", lambda right: _unmasked)),
    "softmax over the rank's own vocabulary": ("dense", "tp2", replaced(
        tensor, "_scores", _local_scores)),
}  # fmt: skip


def _averaging(right: Any, module: Any, **options: Any) -> Any:
    found = right(module, **options)
    module.set_gradient_divide_factor = lambda factor: None
    module.set_force_sum_reduction_for_comms = lambda enable: None
    return found


def main(folder: Path) -> None:
    """Measure all; rank 0 judges."""
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        references = {
            name: (measure(case, Layout), measure(case, Layout, dtype=torch.float64))
            for name, case in CASES.items()
        }
        said: dict[str, Any] = {"clean": {}, "bugs": {}}

        def look(case: str, name: str, kind: str, key: str) -> None:
            found = measure(CASES[case], functools.partial(layout_of, CASES[case], name, group))
            if group.is_main:
                verdict = judge(name, 2, found, *references[case])
                worst = verdict.worst
                ratio = worst.error / worst.bound if worst.bound else float(worst.error > 0)
                said[kind][key] = {"verdict": verdict.text, "ratio": ratio}

        for case, name in CLEAN:
            look(case, name, "clean", f"{case} {name}")
        for key, (case, name, plant) in BUGS.items():
            with plant(group):
                look(case, name, "bugs", key)
        if group.is_main:
            (folder / "verdicts.json").write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
