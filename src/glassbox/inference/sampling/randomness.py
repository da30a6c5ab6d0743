"""Counter-based random numbers: a function of where they are used, without generator state.

A sampled token depends on its request's seed, its sample index and its position in the answer only,
not on the rest of the batch, the batch size, or earlier draws.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10
_SPLIT = 0x5EED  # the counter word that sets derived seeds apart from drawn numbers


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words, each in an int64, from four words of counter and two of
    key, broadcast.

    64-bit products wrap in int64 to the same bits as in uint64; masking the arithmetic shift gives
    the high word. Tested against: the published known answers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & _LOW) ^ c1 ^ k0,
            second & _LOW,
            ((first >> 32) & _LOW) ^ c3 ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniforms(
    seed: Int[Tensor, " N"], sample: Int[Tensor, " N"], step: Int[Tensor, "*N T"]
) -> Float[Tensor, "N T"]:
    """A float64 in [0, 1) for each row and step: 52 bits of Philox under key seed, counter (step, sample).

    52 bits, not 53, so that u * total stays below total after rounding.
    """
    column, zero = seed.unsqueeze(-1), torch.zeros_like(step)
    key = (column & _LOW, (column >> 32) & _LOW)
    counter = (step & _LOW, sample.unsqueeze(-1) & _LOW, zero, zero)
    high, low, _, _ = philox(counter, key)
    return ((high << 20) | (low >> 12)).double() * 2.0**-52


def derive_seed(seed: int, *path: int) -> int:
    """A seed for a sub-task identified by `path`, independent of the seeds of other paths.

    >>> derive_seed(7, 0) != derive_seed(7, 1)
    True
    """
    for part in path:
        words = (part & _LOW, (part >> 32) & _LOW, 0, _SPLIT)
        counter = tuple(torch.tensor(word) for word in words)
        key = (torch.tensor(seed & _LOW), torch.tensor((seed >> 32) & _LOW))
        high, low, _, _ = philox(counter, key)  # type: ignore[arg-type]
        seed = (int(high) & 0x7FFFFFFF) << 32 | int(low)
    return seed
