"""Rotary position embedding (RoPE): each pair of channels of q and k is rotated by position *
frequency.

Source: Su et al., RoFormer, arXiv:2104.09864, section 3.4.2. Two layouts pair the channels: `half`
pairs channel i with i + Dh/2 (GPT-NeoX, Llama in Hugging Face files); `interleaved` pairs 2i with
2i + 1 (the paper, Meta's Llama files, GGUF).

Derivation: docs/theory/rotary.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.for_compiler import compiles_training, stored

_FEW = 1 << 15  # numbers up to which a call costs more than a copy


def rotary_frequencies(
    rotary_dim: int, base: float, device: torch.device | None = None
) -> Float[Tensor, " R"]:
    """Angle per position of each channel pair: base^(-2i / rotary_dim), i = 0 .. rotary_dim/2 - 1."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return 1.0 / (base**exponent)


def rotary_tables(
    positions: Int[Tensor, "*shape"], frequencies: Float[Tensor, "*#shape R"]
) -> tuple[Float[Tensor, "*shape R"], Float[Tensor, "*shape R"]]:
    """Cosines and sines of position * frequency, always in float32, since bf16 cannot represent
    large angles.
    """
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def apply_rotary_plain(
    x: Float[Tensor, "*shape Dh"],
    cos: Float[Tensor, "*#shape R"],
    sin: Float[Tensor, "*#shape R"],
    *,
    layout: str = "half",
) -> Float[Tensor, "*shape Dh"]:
    """Rotate the first 2R channels of each head by the tables' angles; other channels are
    unchanged.

    (a, b) -> (a cos - b sin, b cos + a sin) for each pair, in float32 or wider. The tables are
    broadcast over the axes that they lack (for x of (B, T, H, Dh) they are (B, T, 1, R)).
    Raises ValueError for an unknown layout.
    Tested against: transformers, and the property that scores depend on distance only.
    """
    first, second = _halves(cos.shape[-1], layout)
    a, b = x[..., first].to(_wide(x)), x[..., second].to(_wide(x))
    result = x.clone()
    result[..., first] = a * cos - b * sin
    result[..., second] = b * cos + a * sin
    return result


class _Rotary(torch.autograd.Function):
    """A rotation that saves only its angles; the gradient is the inverse rotation."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, layout: str
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout  # type: ignore[attr-defined]
        return _turn(x, cos, sin, layout, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        return _turn(grad, cos, sin, ctx.layout, -1), None, None, None  # type: ignore[attr-defined]


def apply_rotary(
    x: Float[Tensor, "*shape Dh"],
    cos: Float[Tensor, "*#shape R"],
    sin: Float[Tensor, "*#shape R"],
    *,
    layout: str = "half",
) -> Float[Tensor, "*shape Dh"]:
    """`apply_rotary_plain` in four passes without a copy; first derivatives only.

    Tested against: `apply_rotary_plain`.
    """
    if compiles_training(x) and layout == "half":
        return _turn_whole(x, stored(cos), stored(sin))
    if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
        return apply_rotary_plain(x, cos, sin, layout=layout)
    wide = x.to(_wide(x))
    cos, sin = cos.to(wide.dtype), sin.to(wide.dtype)
    if not torch.is_grad_enabled():  # the same bits, without the cost of a derivative's frame
        turn = _turn_halves if layout == "half" and x.numel() <= _FEW else _turn
        return turn(wide, cos, sin, layout, 1).to(x.dtype)
    turned: Tensor = _Rotary.apply(wide, cos, sin, layout)
    return turned.to(x.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, layout: str, sign: int) -> Tensor:
    pairs = cos.shape[-1]
    first, second = _halves(pairs, layout)
    a, b = x[..., first], x[..., second]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(a, cos, out=result[..., first]).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=result[..., second]).addcmul_(a, sin, value=sign)
    result[..., 2 * pairs :] = x[..., 2 * pairs :]
    return result


def _turn_halves(x: Tensor, cos: Tensor, sin: Tensor, layout: str, sign: int) -> Tensor:
    """Equal to `_turn` bit for bit, in fewer calls and with a copy."""
    pairs = cos.shape[-1]
    a, b, *rest = x.split((pairs, pairs, x.shape[-1] - 2 * pairs), dim=-1)
    first = (a * cos).addcmul_(b, sin, value=-sign)
    second = (b * cos).addcmul_(a, sin, value=sign)
    return torch.cat((first, second, *rest), dim=-1)


def _turn_whole(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`apply_rotary_plain` of halves without writing into slices, whose gradients are copies."""
    pairs = cos.shape[-1]
    a, b, rest = x.split((pairs, pairs, x.shape[-1] - 2 * pairs), dim=-1)
    wide_a, wide_b = a.to(_wide(x)), b.to(_wide(x))
    first = (wide_a * cos - wide_b * sin).to(x.dtype)
    second = (wide_b * cos + wide_a * sin).to(x.dtype)
    return torch.cat((first, second, rest) if rest.shape[-1] else (first, second), dim=-1)


def _halves(pairs: int, layout: str) -> tuple[slice, slice]:
    """The indices of the first and the second channel of each pair."""
    if layout == "half":
        return slice(0, pairs), slice(pairs, 2 * pairs)
    if layout == "interleaved":
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    raise ValueError(f"rotary layout {layout!r}: use 'half' or 'interleaved'")


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
