"""Attention that looks back W positions, not to the beginning: the mask, its cost, its reach.

    python sliding_window_attention.py [--length 10] [--window 3]

Position t attends to t - W + 1 ... t. The work per token and the KV cache then stop growing with
the text; what lies further back arrives through several layers. Source: Beltagy et al. 2020
(Longformer); Jiang et al. 2023 (Mistral 7B), section 2. It needs torch alone.
"""

import argparse
import math

import torch
from torch import Tensor
from torch.nn import functional as F


def window_mask(length: int, window: int) -> Tensor:
    """(T, T), true where the query of the row may see the key of the column."""
    query, key = torch.arange(length)[:, None], torch.arange(length)
    return (key <= query) & (key > query - window)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """All T x T scores, most of them thrown away. q, k, v: (T, D)."""
    scores = q @ k.t() / math.sqrt(q.shape[-1])  # (T, T)
    return scores.masked_fill(~window_mask(len(q), window), -math.inf).softmax(-1) @ v


def banded_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Only the T x W scores that count: each query beside its own W keys. q, k, v: (T, D)."""
    length, width = q.shape
    k, v = (
        F.pad(x, (0, 0, window - 1, 0)) for x in (k, v)
    )  # (W - 1 + T, D): none before the first
    keys, values = (x.unfold(0, window, 1) for x in (k, v))  # views (T, D, W)
    scores = (q[:, None] @ keys).squeeze(1) / math.sqrt(width)  # (T, 1, D) @ (T, D, W) = (T, 1, W)
    missing = torch.arange(length)[:, None] + torch.arange(window) < window - 1  # the padding
    weights = scores.masked_fill(missing, -math.inf).softmax(-1)  # (T, W)
    return (values @ weights[:, :, None]).squeeze(-1)  # (T, D, W) @ (T, W, 1)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """One token after another with a cache of W places that is written round and round."""
    keys, values = torch.zeros(2, window, q.shape[1])
    out = []
    for t in range(len(q)):
        keys[t % window], values[t % window] = k[t], v[t]  # over what just left the window
        filled = min(t + 1, window)  # softmax does not care in which order the keys lie
        weights = (keys[:filled] @ q[t] / math.sqrt(q.shape[1])).softmax(-1)
        out.append(weights @ values[:filled])
    return torch.stack(out)


def reach(length: int, window: int, layers: int) -> int:
    """How many positions can influence the last one after so many layers, by the mask itself."""
    step = window_mask(length, window).float()
    seen = torch.linalg.matrix_power(step, layers)[-1] > 0
    return int(seen.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--window", type=int, default=3)
    options = parser.parse_args()
    length, window = options.length, options.window
    if not 1 <= window <= length:
        parser.error("--window takes 1 to --length")
    torch.manual_seed(0)
    q, k, v = torch.randn(3, length, 16)

    print(f"The mask for {length} positions and a window of {window} (rows look at columns)")
    for row in window_mask(length, window):
        print("  " + " ".join("#" if seen else "." for seen in row))

    print("\nFour ways to the same result; largest differences")
    plain = masked_attention(q, k, v, window)
    mask = window_mask(length, window)
    theirs = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
    print(f"  every score and a mask, against torch's own: {(plain - theirs).abs().max():.1e}")
    banded = banded_attention(q, k, v, window)
    print(f"  only the scores inside the band:             {(plain - banded).abs().max():.1e}")
    cached = cached_attention(q, k, v, window)
    print(
        f"  token by token, a cache of {window} places:         {(plain - cached).abs().max():.1e}"
    )

    if length > window:
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[0], changed_v[0] = 9.0, -9.0
        moved = (masked_attention(q, changed_k, changed_v, window) - plain).abs().amax(-1) > 0
        touched = moved.nonzero().flatten().tolist()
        print(f"\nChanging position 0 changes the outputs at {touched} and at no other position")

    print("\nWhat one layer cannot see, several can: positions that reach the last one")
    print("  layers    " + " ".join(f"{layers:4d}" for layers in (1, 2, 3, 4, 8)))
    print(
        "  positions " + " ".join(f"{reach(64, window, layers):4d}" for layers in (1, 2, 3, 4, 8))
    )
    print("  = layers * (window - 1) + 1, up to the whole text (64 here)")

    print("\nCost of one layer with 8 key/value heads of 128 in 16 bits, window 4,096")
    print("   length   scores, full   scores, window   cache, full   cache, window")
    for tokens in (4096, 16384, 65536):
        full, band = tokens * (tokens + 1) // 2, sum_band(tokens, 4096)
        a_token = 2 * 8 * 128 * 2  # keys and values, heads, size, bytes
        print(
            f"  {tokens:7,d} {full / 1e6:11,.0f} M {band / 1e6:14,.0f} M {tokens * a_token / 2**20:9,.0f} MiB"
            f" {min(tokens, 4096) * a_token / 2**20:11,.0f} MiB"
        )


def sum_band(length: int, window: int) -> int:
    """Scores inside the band: min(t + 1, W) summed over t."""
    short = min(length, window)
    return short * (short + 1) // 2 + (length - short) * window


if __name__ == "__main__":
    main()
