"""The model of minimal_llm.py, with every shape explained, validation, top-k and a checkpoint.

    python simple_llm.py                        # train for a minute or so on a CPU, then write
    python simple_llm.py --text mybook.txt      # the same on a text of yours
    python simple_llm.py --resume --steps 0     # write again from simple_llm.pt without training
    python simple_llm.py --resume --steps 300   # go on from simple_llm.pt for 300 steps more

It needs torch alone. Shapes are written with these letters:

    B  rows in a batch        T  positions in a row, at most CONTEXT
    D  WIDTH, the size of the vector that stands for one position
    H  HEADS                  K  D / H, the size of one head's vectors
    F  HIDDEN                 V  different characters
"""

import argparse
import math
import os
import random
import string
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT, BATCH = 128, 2, 4, 512, 64, 16
LEARNING_RATE, BETA_1, BETA_2, EPS = 2e-3, 0.9, 0.99, 1e-8


def station_log(days: int = 1500) -> str:
    """A weather station's log, drawn from a small grammar: always the same text for one `days`.

    A grammar gives as much text as we like, and no sentence of the validation part was read in
    training. The first lines name all 86 characters: letters, digits, 22 signs, space and newline.
    """
    draw = random.Random(0)
    people = ["Anna", "Viktor", "Ida", "Omar", "Helga", "Zoe", "Quentin", "Xenia", "Yusuf", "Karl"]
    skies = ["Rain until noon", "Fog all morning", "Clear and cold", "Low grey clouds", "Frost"]
    deeds = ["mended the fence", "counted the geese", "cleaned the lamp", "wound the clock"]
    remarks = [
        "Nobody can see the harbour!",
        "Will it snow?",
        "The glass is falling.",
        "Good luck!",
    ]
    weekdays = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    signs = " ".join(".,;:!?'\"()-%&+=/*#@[]$")
    lines = [f"Letters {string.ascii_letters}, digits {string.digits}, signs {signs}"]
    for day in range(days):
        low = draw.randrange(-5, 15)
        first, second = draw.sample(people, 2)
        lines.append(
            f"{weekdays[day % 7]} {day + 1}. {draw.choice(skies)}; wind {draw.choice('NESW')}, "
            f"{draw.randrange(1, 40)} knots; {low} to {low + draw.randrange(1, 9)} degrees. "
            f'{first} {draw.choice(deeds)}. "{draw.choice(remarks)}" said {second}.'
        )
    return "\n".join(lines) + "\n"


class Attention(nn.Module):
    """Every position looks at itself and at those before it, and takes a weighted mean of them."""

    def __init__(self) -> None:
        super().__init__()
        # One matrix makes queries, keys and values of all heads: weight (3 D, D), bias (3 D).
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)  # weight (D, D): mixes what the heads found

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape  # (B, T, D)
        qkv = self.qkv(x)  # (B, T, 3 D)
        qkv = qkv.view(batch, length, 3, HEADS, WIDTH // HEADS)  # (B, T, 3, H, K)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, T, K), unpacked: each (B, H, T, K)
        # Row t of the scores holds the similarity of position t's query to every position's key.
        # Dividing by sqrt(K) keeps their variance near 1, so the softmax does not saturate.
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)  # (B, H, T, T)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)  # (T, T): true right of the
        scores = scores.masked_fill(future, -math.inf)  # diagonal, where the weight becomes 0
        weights = scores.softmax(dim=-1)  # (B, H, T, T): every row sums to 1
        mixed = weights @ v  # (B, H, T, T) @ (B, H, T, K) = (B, H, T, K)
        mixed = mixed.transpose(1, 2).reshape(batch, length, WIDTH)  # heads side by side: (B, T, D)
        return self.out(mixed)  # (B, T, D)


class FeedForward(nn.Module):
    """The same two-layer network at every position: attention moves information, this uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, HIDDEN)  # weight (F, D)
        self.down = nn.Linear(HIDDEN, WIDTH)  # weight (D, F)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, F) -> (B, T, D)
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Both branches are added to x, so that gradients have a straight way through all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)  # scale, shift: (D)
        self.attention, self.feed_forward = Attention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) in and out
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class Model(nn.Module):
    """Parameters for V = 86: (86 + 64) * 128 embeddings, 2 * 198,272 blocks, 86 * 129 head."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, WIDTH)  # (V, D): one row for every character
        self.positions = nn.Embedding(CONTEXT, WIDTH)  # (T, D): one row for every position
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, vocab)  # weight (V, D): one score for every character

    def forward(self, ids: Tensor) -> Tensor:  # ids (B, T), integers below V
        x = self.tokens(ids)  # (B, T, D)
        x = x + self.positions.weight[: ids.shape[1]]  # (B, T, D) + (T, D)
        return self.head(self.blocks(x))  # (B, T, V): at t, scores for the character at t + 1


def draw_batch(data: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BATCH random windows of the text, (B, T), and the same windows one character later."""
    starts = torch.randint(len(data) - CONTEXT, (BATCH, 1), generator=generator)  # (B, 1)
    rows = data[starts + torch.arange(CONTEXT + 1)]  # (B, 1) + (T + 1) = (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def next_character_loss(model: Model, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over all B * T positions of -log p(the character that came next), in nats."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B T, V) against (B T)


@torch.no_grad()
def validation_loss(model: Model, data: Tensor, rows: int = 64) -> float:
    """Loss on text that is never trained on. Where it rises while the other falls, we overfit."""
    starts = torch.linspace(0, len(data) - CONTEXT - 1, rows).long()[:, None]  # the same each time
    windows = data[starts + torch.arange(CONTEXT + 1)]
    return next_character_loss(model, windows[:, :-1], windows[:, 1:]).item()


class Adam:
    """Steps of about equal size for all weights: the mean gradient over its root mean square.

    torch.optim.Adam does the same; importing it costs more memory than this whole program.
    """

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params, self.steps = params, 0
        self.means = [torch.zeros_like(p) for p in params]
        self.squares = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for p, mean, square in zip(self.params, self.means, self.squares, strict=True):
            mean.lerp_(p.grad, 1 - BETA_1)  # mean = BETA_1 * mean + (1 - BETA_1) * gradient
            square.lerp_(p.grad.square(), 1 - BETA_2)
            # Both began at zero; dividing by 1 - BETA^steps takes that bias out.
            root = (square / (1 - BETA_2**self.steps)).sqrt()
            p -= LEARNING_RATE * mean / (1 - BETA_1**self.steps) / (root + EPS)
            p.grad = None


@torch.no_grad()
def write(model: Model, ids: list[int], length: int, temperature: float, top_k: int) -> list[int]:
    """Append `length` characters, each drawn from the `top_k` likeliest; top_k 1 is greedy."""
    for _ in range(length):
        logits = model(torch.tensor([ids[-CONTEXT:]]))[0, -1]  # (1, T, V) -> the last row: (V)
        best, places = logits.topk(min(top_k, len(logits)))  # both (top_k)
        probabilities = (best / temperature).softmax(-1)  # below 1: sharper; above 1: flatter
        ids.append(places[torch.multinomial(probabilities, 1)].item())
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file; without it, a generated log")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--checkpoint", type=Path, default=Path("simple_llm.pt"))
    parser.add_argument("--resume", action="store_true", help="begin with the checkpoint")
    parser.add_argument("--prompt", default="\n", help="the text that it continues")
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int, default=20)
    options = parser.parse_args()
    if options.temperature <= 0 or options.top_k < 1:
        parser.error("--temperature must be above 0 and --top-k at least 1; --top-k 1 is greedy")

    text = options.text.read_text(encoding="utf-8") if options.text else station_log()
    chars = sorted(set(text))
    if not options.prompt or not set(options.prompt) <= set(chars):
        parser.error(f"--prompt takes one or more of the text's characters: {''.join(chars)!r}")
    data = torch.tensor([chars.index(char) for char in text])
    train, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    if len(held_out) <= CONTEXT:
        parser.error(f"--text needs over {10 * CONTEXT} characters, to train and to validate on")

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)  # draws the batches; its state is saved as well
    model = Model(len(chars))
    optimizer = Adam(list(model.parameters()))
    if options.resume:
        if not options.checkpoint.exists():
            parser.error(f"{options.checkpoint} is not there; train without --resume first")
        saved = torch.load(options.checkpoint, weights_only=True)  # tensors and numbers, no code
        if saved["chars"] != chars:
            parser.error(f"{options.checkpoint} was trained on a text with other characters")
        model.load_state_dict(saved["model"])
        optimizer.steps, optimizer.means, optimizer.squares = saved["optimizer"]
        generator.set_state(saved["generator"])
    print(f"{len(text):,} characters, {len(chars)} different", end="; ")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    began = time.perf_counter()
    for step in range(1, options.steps + 1):
        loss = next_character_loss(model, *draw_batch(train, generator))
        loss.backward()  # a gradient of every parameter, in its own shape
        optimizer.step()
        if step % 50 == 0 or step == options.steps:
            print(
                f"step {optimizer.steps}: training {loss.item():.3f}, "
                f"validation {validation_loss(model, held_out):.3f}, "
                f"{time.perf_counter() - began:.0f} s"
            )
    if options.steps:
        state = {
            "chars": chars,
            "model": model.state_dict(),
            "optimizer": (optimizer.steps, optimizer.means, optimizer.squares),
            "generator": generator.get_state(),
        }
        unfinished = options.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, options.checkpoint)  # a crash never leaves half a checkpoint

    ids = [chars.index(char) for char in options.prompt]
    ids = write(model, ids, options.length, options.temperature, options.top_k)
    print("".join(chars[i] for i in ids))


if __name__ == "__main__":
    main()
