"""From probabilities to text: greedy, temperature, top-k, top-p and beam search, side by side.

    python generate_text.py                                    # a small word model, made here
    python generate_text.py --gpt2 openai-community/gpt2       # the same methods on GPT-2
    python generate_text.py --prompt "the fox" --length 12

Every method asks a model for one thing, the logits of the next token after a list of tokens. The
model here counts which word follows which two words in a short text: small enough to find the
likeliest of all texts exactly, beside what beam search finds. It needs torch alone; --gpt2 uses gpt2_inference.py beside it.
"""

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

NextLogits = Callable[[list[int]], Tensor]  # tokens so far -> logits (V) of the next one

TEXT = """the fox saw the moon . the fox ran to the lake . the moon was in the lake . the fox saw the
moon in the lake and the fox ran home . the owl saw the fox . the owl saw the moon . the owl flew to
the old tree and the fox ran to the old tree . the tree was old and the owl was old and the moon was
old . the fox was young . the young fox saw the old owl in the old tree . the owl flew home . the
fox ran to the tree and the owl flew to the lake . the moon saw the fox and the owl . the lake was
old and the lake was deep and the fox was home ."""


class CountingModel:
    """p(word | the two before it) from counts, mixed with p(word | the one before) and p(word)."""

    def __init__(self, text: str) -> None:
        words = text.split()
        self.vocab = sorted(set(words))
        ids = [self.vocab.index(word) for word in words]
        size = len(self.vocab)
        self.one, self.two = torch.zeros(size), torch.zeros(size, size)
        self.three = torch.zeros(size, size, size)
        for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
            self.one[c] += 1
            self.two[b, c] += 1
            self.three[a, b, c] += 1

    def __call__(self, tokens: list[int]) -> Tensor:
        mixed = 0.02 * self.one / self.one.sum()
        for weight, counts in (
            (0.28, self.two[tokens[-1]]),
            (0.70, self.three[tokens[-2], tokens[-1]] if len(tokens) > 1 else self.one),
        ):
            mixed = mixed + weight * counts / counts.sum().clamp(min=1)
        return (mixed / mixed.sum()).log()

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text.split()) - set(self.vocab))
        if unknown or not text.split():
            raise SystemExit(f"--prompt takes words of {self.vocab}, not {unknown or 'nothing'}")
        return [self.vocab.index(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(self.vocab[token] for token in tokens)


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide: below 1 the likely gets likelier, above 1 the unlikely; towards 0 it is greedy."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k likeliest tokens; all others get probability 0."""
    kept = torch.full_like(logits, -math.inf)
    best = logits.topk(min(k, len(logits)))
    return kept.scatter(0, best.indices, best.values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest likeliest tokens whose probabilities together reach p (nucleus sampling)."""
    ordered, places = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # what the likelier ones have together
    ordered = ordered.masked_fill(before >= p, -math.inf)  # the first always stays
    return torch.full_like(logits, -math.inf).scatter(0, places, ordered)


def greedy(next_logits: NextLogits, tokens: list[int], length: int) -> list[int]:
    """The likeliest token each time: always the same text, and seldom the likeliest text."""
    tokens = [*tokens]
    for _ in range(length):
        tokens.append(int(next_logits(tokens).argmax()))
    return tokens


def sampled(
    next_logits: NextLogits,
    tokens: list[int],
    length: int,
    change: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> list[int]:
    """Draw each token from the softmax of its logits after `change`, one of those above."""
    tokens = [*tokens]
    for _ in range(length):
        probabilities = change(next_logits(tokens)).softmax(-1)
        tokens.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return tokens


def beam(next_logits: NextLogits, tokens: list[int], length: int, beams: int) -> list[int]:
    """Keep the `beams` likeliest texts of every length: a search for the likeliest whole text."""
    kept = [(0.0, [*tokens])]
    for _ in range(length):
        longer = []
        for score, text in kept:
            logs = next_logits(text).log_softmax(-1)
            best = logs.topk(min(beams, len(logs)))
            for more, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                longer.append((score + more, [*text, token]))
        kept = sorted(longer, key=lambda pair: pair[0], reverse=True)[:beams]
    return kept[0][1]


def likeliest(model: CountingModel, tokens: list[int], length: int) -> list[int]:
    """The exact answer, which needs a model that sees two words alone (Viterbi's algorithm).

    Of all texts that end in the same two words only the best can become the best longer text, so
    V * V candidates are enough. A transformer sees every word: no two of its texts may be merged.
    """
    size = len(model.vocab)
    rows = [model([a, b]).log_softmax(-1) for a in range(size) for b in range(size)]
    step = torch.stack(rows).view(size, size, size)  # [a, b, c] = log p(c | a, b)
    best = torch.full((size, size), -math.inf)  # [a, b]: the best text that ends in a, b
    best[tokens[-2], tokens[-1]] = 0.0
    back = []
    for _ in range(length):
        best, from_a = (best[:, :, None] + step).max(dim=0)  # now of b, c
        back.append(from_a)
    a, b = divmod(int(best.argmax()), size)
    found = [b, a]
    for from_a in reversed(back):
        found.append(int(from_a[found[-1], found[-2]]))
    return [*tokens[:-2], *reversed(found)]


def log_probability(next_logits: NextLogits, tokens: list[int], start: int) -> float:
    """Sum over the tokens from `start` on of log p(token | those before), in nats."""
    places = range(start, len(tokens))
    return sum(next_logits(tokens[:i]).log_softmax(-1)[tokens[i]].item() for i in places)


def open_gpt2(name: str) -> tuple[NextLogits, Callable[[str], list[int]], Callable]:
    import gpt2_inference  # the file beside this one

    model, tokenizer = gpt2_inference.load(name)

    def decode(tokens: list[int]) -> str:
        return b"".join(map(tokenizer.token_bytes, tokens)).decode(errors="replace")

    @torch.inference_mode()
    def next_logits(tokens: list[int]) -> Tensor:
        return model(torch.tensor([tokens]))[0, -1]

    return next_logits, tokenizer.encode, decode


def show_filters(next_logits: NextLogits, decode: Callable, tokens: list[int]) -> None:
    """What each method makes of one distribution; the last column is 10,000 draws."""
    changes = {
        "as it is": lambda logits: logits,
        "T 0.5": lambda logits: with_temperature(logits, 0.5),
        "T 2": lambda logits: with_temperature(logits, 2.0),
        "top-k 3": lambda logits: keep_top_k(logits, 3),
        "top-p 0.8": lambda logits: keep_top_p(logits, 0.8),
    }
    logits = next_logits(tokens)
    best = logits.topk(min(8, len(logits))).indices
    columns = [change(logits).softmax(-1) for change in changes.values()]
    draws = torch.multinomial(
        columns[-1], 10_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    columns.append(torch.bincount(draws, minlength=len(logits)) / 10_000)
    print(f"After {decode(tokens)!r} (the 8 likeliest)")
    print("  " + " " * 12 + " ".join(f"{name:>10}" for name in [*changes, "drawn"]))
    for token in best.tolist():
        shares = " ".join(f"{column[token].item():10.3f}" for column in columns)
        print(f"  {decode([token]):<12}{shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--gpt2", metavar="NAME", help="a folder or a hub name for gpt2_inference.py"
    )
    parser.add_argument("--prompt")
    parser.add_argument("--length", type=int, default=14, help="tokens to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.gpt2:
        next_logits, encode, decode = open_gpt2(options.gpt2)
    else:
        next_logits = CountingModel(TEXT)
        encode, decode = next_logits.encode, next_logits.decode
    prompt = encode(options.prompt or ("The fox" if options.gpt2 else "the fox"))
    generator = torch.Generator().manual_seed(options.seed)
    show_filters(next_logits, decode, prompt)

    def draw(change: Callable[[Tensor], Tensor]) -> list[int]:
        return sampled(next_logits, prompt, options.length, change, generator)

    texts = {
        "greedy": greedy(next_logits, prompt, options.length),
        "temperature 0.5": draw(lambda logits: with_temperature(logits, 0.5)),
        "temperature 1": draw(lambda logits: logits),
        "temperature 2": draw(lambda logits: with_temperature(logits, 2.0)),
        "top-k 3": draw(lambda logits: keep_top_k(logits, 3)),
        "top-p 0.8": draw(lambda logits: keep_top_p(logits, 0.8)),
        "beam 3": beam(next_logits, prompt, options.length, 3),
        "beam 8": beam(next_logits, prompt, options.length, 8),
    }
    print("\nTexts, and their log-probability in nats")
    for name, tokens in texts.items():
        nats = log_probability(next_logits, tokens, len(prompt))
        print(f"  {name:<16}{nats:8.2f}  {decode(tokens)}")

    if not options.gpt2 and len(prompt) > 1:
        tokens = likeliest(next_logits, prompt, options.length)
        nats = log_probability(next_logits, tokens, len(prompt))
        print(f"  {'the likeliest':<16}{nats:8.2f}  {decode(tokens)}")
        print("The likeliest of all texts of this length, found exactly, is what beams look for.")


if __name__ == "__main__":
    main()
