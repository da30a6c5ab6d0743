"""Every mixer at equal parameters on the story world: loss, speed of training and decoding, state.

    python bench/mixers_world.py [--kinds mamba2 "full attention"] [--steps 366] [--out runs/mixers]
        [--write] [--speed-only]

Three blocks of width 96 and a vocabulary of 1,024; each kind's feed-forwards (SwiGLU) are as wide as
makes the model 450,000 parameters. All are trained by recipes/pretrain/pretrain.yaml's optimizer on the same
rows in the same order. A run that is there is not done again, one that was interrupted goes on.
Speed is measured afterwards, all kinds in turns, in CPU seconds of one thread. --write makes
docs/results/mixers.md of all that has been measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from glassbox.core.config import Spec, load_recipe, merge, parse
from glassbox.core.files import write_json, write_text
from glassbox.data.loader import TokenBatch
from glassbox.data.storyworld import CorpusSizes, StoryWorldConfig, write_corpus
from glassbox.evaluation.storyworld import judge_documents
from glassbox.formats.open_model import open_model
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.block_mixture import BlockMixture
from glassbox.layers.delta_net import DeltaNet, GatedDelta
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.gated_attention_unit import GatedAttentionUnit
from glassbox.layers.indexer import Indexer
from glassbox.layers.latent import Latent
from glassbox.layers.lightning import Lightning
from glassbox.layers.mamba import Mamba
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.native_sparse import NativeSparse
from glassbox.layers.retention import Retention
from glassbox.layers.rotary import Rotary
from glassbox.layers.rwkv import RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Time
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.runs.recipe import PretrainRecipe, recipe_folders
from glassbox.runs.shards import prepare_tokenizer
from glassbox.runs.stages.text import TokenizerConfig
from glassbox.runs.train import run_recipe
from glassbox.training.next_token import NextToken

WIDTH, LAYERS, VOCABULARY, CONTEXT = 96, 3, 1024, 512
PARAMETERS = 450_000
ROWS = 4
HEADS: dict[str, Any] = {"num_heads": 4, "positions": Rotary()}
LATENT: dict[str, Any] = {
    "num_heads": 4, "kv_rank": 32, "nope_dim": 16, "rope_dim": 8, "value_dim": 24
}  # fmt: skip
RWKV7: dict[str, Any] = {
    "head_dim": 24, "decay_rank": 16, "rate_rank": 16, "value_rank": 16, "gate_rank": 32
}  # fmt: skip

KINDS: dict[str, tuple[Spec, ...]] = {
    "full attention": (GroupedQuery(**HEADS),) * 3,
    "one key/value head": (GroupedQuery(**HEADS, num_kv_heads=1),) * 3,
    "window of 64": (GroupedQuery(**HEADS, window=64),) * 3,
    "latent": (Latent(**LATENT),) * 3,
    "latent, indexer": (
        Latent(**LATENT, indexer=Indexer(num_heads=2, head_dim=16, top_k=64)),
    ) * 3,
    "native sparse": (
        NativeSparse(
            **HEADS, num_kv_heads=2, block_size=16, stride=8, selection_size=16, num_selected=6,
            window=32, summary="linear",
        ),
    ) * 3,
    "block mixture": (BlockMixture(**HEADS, block_size=32, top_k=3),) * 3,
    "flash unit": (GatedAttentionUnit(key_dim=32, chunk=64),) * 3,
    "lightning": (Lightning(num_heads=4),) * 3,
    "retention": (Retention(num_heads=4),) * 3,
    "delta": (DeltaNet(num_heads=4),) * 3,
    "gated delta": (GatedDelta(num_heads=4),) * 3,
    "mamba": (Mamba(),) * 3,
    "mamba2": (Mamba2(num_heads=6, state_size=32),) * 3,
    "rwkv": (RwkvTime(),) * 3,
    "rwkv7": (
        Rwkv7Time(**RWKV7, values="lead"),
        Rwkv7Time(**RWKV7, values="follow"),
        Rwkv7Time(**RWKV7, values="follow"),
    ),
}  # fmt: skip
"""The mixers of the three layers, by name; a new kind is a line here."""


def shape(kind: str) -> ModelConfig:
    """The model of a kind, its feed-forwards as wide as `PARAMETERS` asks."""

    def config(size: int) -> ModelConfig:
        blocks = (BlockSpec(mixer=mixer, ffn=SwiGlu(size=size)) for mixer in KINDS[kind])
        return ModelConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            context_length=CONTEXT,
            blocks=tuple(Repeat(block=block) for block in blocks),
            tie_embeddings=False,
            init=Initialization(embedding_std=1.0),
        )

    with torch.device("meta"):
        without = CausalLM(config(1)).num_parameters
    return config(1 + round((PARAMETERS - without) / (3 * WIDTH * LAYERS)))


def recipe(kind: str, out: Path, steps: int) -> PretrainRecipe:
    """Pre-training as the quickstart has it, of this kind."""
    raw = load_recipe("pretrain.yaml", search=recipe_folders())
    body = shape(kind).model_dump(mode="json", exclude={"vocab_size"})
    raw["model"] = {"kind": "blocks", **body}
    change = {
        "out": str(out / kind.replace(" ", "-").replace(",", "").replace("/", "-")),
        "tokenizer": {"path": str(out / "tokenizer")},
        "data": {
            "path": str(out / "world" / "train.jsonl"),
            "heldout_path": str(out / "world" / "heldout.jsonl"),
            "row_length": CONTEXT,
            "rows_per_step": ROWS,
        },
        "train": {"steps": steps, "checkpoint_every": 100},
        "evaluation": {"every": 0},
    }
    return parse(PretrainRecipe, merge(raw, change), where=kind)


def make_world(out: Path, num_bytes: int) -> list[dict[str, Any]]:
    """Write the corpus unless it is there; its held-out documents."""
    world = load_recipe("quickstart.yaml", search=recipe_folders())["world"]
    few = dict.fromkeys(CorpusSizes.model_fields, 20)
    sizes = CorpusSizes(**{**few, "train_bytes": num_bytes, "heldout": 300})
    write_corpus(parse(StoryWorldConfig, world, where="world"), out / "world", sizes)
    lines = (out / "world" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def learn(kind: str, out: Path, steps: int, documents: Sequence[Any]) -> dict[str, Any] | None:
    """Train a kind, or go on, or find it done; its loss on held-out documents."""
    wanted = recipe(kind, out, steps)
    training = TokenizerConfig(vocab_size=VOCABULARY, pattern="qwen2")
    prepare_tokenizer(training, wanted.data, out)  # one for all kinds
    summary = run_recipe(wanted)
    if summary["status"] == "interrupted":
        return None
    model, tokenizer, _ = open_model(wanted.out)
    figures = judge_documents(model, tokenizer, documents)
    return {
        "parameters": model.num_parameters,
        "tokens": summary["tokens"],
        "loss_nats": figures["loss_nats"]["value"],
        "excess_nats": figures["excess_nats"]["value"],
        "error": figures["excess_nats"]["standard_error"],
    }


def trainer(model: CausalLM, like: PretrainRecipe) -> Callable[[], int]:
    """One step of training on random tokens; it returns how many."""
    optimizer = like.optim.build(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1), generator=generator)
    # stories are about 170 tokens long: three to a row
    documents = (torch.arange(CONTEXT) // 171).expand(ROWS, -1).contiguous()
    batch = TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), documents)

    def step() -> int:
        output = NextToken()(model, batch)
        (output.loss_sum / output.weight).backward()
        optimizer.step(1e-4)
        optimizer.zero_grad()
        return ids[:, 1:].numel()

    return step


def decoder(model: CausalLM, prompt: int = 256, new: int = 64) -> Callable[[], float]:
    """Seconds a token of one stream behind a prompt."""
    ids = torch.randint(VOCABULARY, (1, prompt), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def decode() -> float:
        state = model.init_state(1, CONTEXT)
        token = model(ids, state=state)[:, -1:].argmax(-1)
        began = time.process_time()
        for place in range(prompt, prompt + new):
            positions = torch.tensor([[place]])
            logits = model(token, positions=positions, state=state, key_length=place + 1)
            token = logits[:, -1:].argmax(-1)
        return (time.process_time() - began) / new

    return decode


def speeds(kinds: Sequence[str], out: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second of training and decoding, all kinds in turns; medians. And the states."""
    torch.manual_seed(0)
    train, decode, states = {}, {}, {}
    for kind in kinds:
        torch.manual_seed(0)
        model = CausalLM(shape(kind))
        train[kind], decode[kind] = trainer(model, recipe(kind, out, 100)), decoder(model)
        states[kind] = [
            sum(part.cache_bytes for part in model.init_state(1, length))
            for length in (CONTEXT, 16 * CONTEXT)
        ]
        train[kind]()
        decode[kind]()
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            began = time.process_time()
            tokens = train[kind]()
            taken[kind].append(((time.process_time() - began) / tokens, decode[kind]()))
    found = {}
    for kind in kinds:
        training, decoding = (
            statistics.median(column) for column in zip(*taken[kind], strict=True)
        )
        found[kind] = {
            "train_tokens_per_second": 1 / training,
            "decode_tokens_per_second": 1 / decoding,
            "state_bytes": states[kind][0],
            "long_state_bytes": states[kind][1],
        }
    return found


def page(rows: dict[str, dict[str, Any]]) -> str:
    """docs/results/mixers.md."""
    complete = {
        k: rows[k] for k in KINDS if k in rows and {"loss_nats", "state_bytes"} <= rows[k].keys()
    }
    tokens = sorted({row["tokens"] for row in complete.values()})
    read = " or ".join(f"{count / 1e6:.2f}" for count in tokens)
    lines = [
        "# Mixers side by side",
        "",
        "<!-- written by bench/mixers_world.py --write -->",
        "",
        f"Every kind of mixer in the same three blocks of width {WIDTH}, each model "
        f"{PARAMETERS:,} parameters (the feed-forwards take what the mixer leaves), trained on {read} "
        "million tokens of the story world by the same optimizer (Muon and AdamW, recipes/pretrain/pretrain.yaml), "
        "one seed. Loss and its excess over the world's exact entropy are of 300 held-out documents, in "
        "nats a token. Speeds are medians of one thread's CPU seconds, all kinds measured in turns: "
        f"training steps of {ROWS} rows of {CONTEXT}, and one stream decoding behind 256 tokens. State "
        f"is what decoding keeps of {CONTEXT} and of {16 * CONTEXT:,} tokens in float32.",
        "",
        "| mixer | parameters | loss | excess | training, tokens/s | decoding, tokens/s "
        f"| state at {CONTEXT} | at {16 * CONTEXT:,} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {row['parameters']:,} | {row['loss_nats']:.3f} "
        f"| {row['excess_nats']:.3f} ± {row['error']:.3f} "
        f"| {row['train_tokens_per_second']:,.0f} | {row['decode_tokens_per_second']:,.0f} "
        f"| {row['state_bytes'] / 1e3:,.0f} kB | {row['long_state_bytes'] / 1e3:,.0f} kB |"
        for kind, row in complete.items()
    ]
    lines += [
        "",
        "So short a training tells how soon a kind learns, not how far it comes: these models are still "
        "learning to copy names. Speeds of so small a model are mostly the cost of calling torch; how the "
        "kinds compare at length is in [mixers_length.png](mixers_length.png) (bench/mixers_length.py).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, measure the speeds, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--steps", type=int, default=366, help=f"of {ROWS * CONTEXT} tokens")
    parser.add_argument("--bytes", type=int, default=4_000_000, help="of training text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/mixers"))
    parser.add_argument("--speed-only", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="write docs/results/mixers.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = args.out / "results.json"
    rows: dict[str, dict[str, Any]] = json.loads(results.read_text()) if results.exists() else {}
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.speed_only:
        documents = make_world(args.out, args.bytes)
        for kind in args.kinds:
            learned = learn(kind, args.out, args.steps, documents)
            if learned is None:
                raise SystemExit("interrupted; run it again to go on")
            rows.setdefault(kind, {}).update(learned)
            write_json(results, rows)
            print(f"{kind}: loss {learned['loss_nats']:.3f}", flush=True)
    for kind, found in speeds(args.kinds, args.out, args.rounds).items():
        rows.setdefault(kind, {}).update(found)
    write_json(results, rows)
    text = page(rows)
    print(text)
    if args.write:
        write_text(Path(__file__).parents[1] / "docs" / "results" / "mixers.md", text)


if __name__ == "__main__":
    main()
