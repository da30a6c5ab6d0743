"""From token ids to vectors: the token's row plus the position's row.

    python embeddings.py [--width 8]

An embedding is a matrix with one row for each token; looking a token up is taking its row, which is
the same as multiplying a one-hot vector with the matrix. Attention alone is blind to order, so each
position adds a vector of its own, learned or made of sines. It needs torch alone.
"""

import argparse
import math

import torch
from torch import Tensor
from torch.nn import functional as F

SENTENCE = "the gull saw the ship and the ship saw the gull"


def sinusoidal(length: int, width: int) -> Tensor:
    """(length, width): sin and cos of position / 10000^(2i / width) side by side.

    Source: Vaswani et al. 2017, section 3.5.
    """
    steps = torch.arange(0, width, 2) / width
    angles = torch.arange(length)[:, None] / 10000**steps  # (length, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def attention(x: Tensor) -> Tensor:
    """Plain attention without a mask, with x itself as queries, keys and values."""
    return (x @ x.t() / math.sqrt(x.shape[-1])).softmax(-1) @ x


def show(name: str, row: Tensor) -> None:
    print(f"  {name:<22}" + " ".join(f"{value:6.2f}" for value in row.tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8, help="size of a vector, an even number")
    options = parser.parse_args()
    if options.width < 2 or options.width % 2:
        parser.error("--width takes an even number of at least 2")
    torch.manual_seed(0)
    words = SENTENCE.split()
    vocab = sorted(set(words))
    ids = torch.tensor([vocab.index(word) for word in words])  # (T)
    tokens = torch.randn(len(vocab), options.width, requires_grad=True)  # (V, D): learned
    positions = torch.randn(len(words), options.width) * 0.5  # (T, D): learned as well
    print(f"{SENTENCE!r}\n  ids {ids.tolist()} over {vocab}")

    print("\n1. Looking up is taking rows, and is a product with one-hot vectors")
    rows = tokens[ids]  # (T, D)
    one_hot = F.one_hot(ids, len(vocab)).float()  # (T, V)
    difference = (rows - one_hot @ tokens).abs().max().item()
    print(f"  tokens[ids] {tuple(rows.shape)} against one_hot @ tokens: difference {difference}")
    difference = (rows - F.embedding(ids, tokens)).abs().max().item()
    print(f"  tokens[ids] against torch's F.embedding: difference {difference}")

    print(
        "\n2. The same word has the same row wherever it stands; with its position added, it differs"
    )
    first, second = words.index("ship"), len(words) - 1 - words[::-1].index("ship")
    x = rows + positions  # (T, D) + (T, D)
    for place in (first, second):
        show(f"'ship' at {place}", rows[place])
        show(f"  + position {place}", x[place])

    print("\n3. Without positions, attention cannot tell orders apart")
    order = torch.randperm(len(words))
    for name, vectors in (("tokens alone", rows), ("tokens + positions", None)):
        if vectors is None:  # the position belongs to the place, not to the word that moved
            here, there = rows + positions, rows[order] + positions
        else:
            here, there = vectors, vectors[order]
        change = (attention(here)[order] - attention(there)).abs().max().item()
        print(f"  {name:<22}largest change of a word's output when words swap places: {change:.6f}")

    print(
        "\n4. Sinusoidal positions need no training; neighbours are alike, and only the distance counts"
    )
    waves = sinusoidal(64, 32)
    alike = F.cosine_similarity(waves[:1], waves)
    print("  distance   " + " ".join(f"{distance:5d}" for distance in (0, 1, 2, 4, 8, 16, 32)))
    print("  similarity " + " ".join(f"{alike[d].item():5.2f}" for d in (0, 1, 2, 4, 8, 16, 32)))
    spread = torch.stack([waves[i] @ waves[i + 5] for i in range(50)])
    print(f"  product of any two that are 5 apart: {spread.min():.4f} to {spread.max():.4f}")

    print("\n5. Only the rows that were looked up get a gradient, summed over their occurrences")
    F.embedding(torch.tensor([0, 2, 2]), tokens).sum().backward()
    for word, gradient in zip(vocab, tokens.grad, strict=True):
        show(word, gradient)


if __name__ == "__main__":
    main()
