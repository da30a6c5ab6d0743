"""GPTQ: a matrix rounded column by column, each one's error made up for by the columns still to come.

Of the inputs x that a layer sees, H = sum of x x^T says what an error costs: tr(dW H dW^T). Once column q is
rounded, the best change of the remaining ones F is

    dW_F = -(w_q - round(w_q)) / [H_F^-1]_qq  (H_F^-1)_q

Source: Frantar et al., arXiv:2210.17323, equations 2 and 3 and section 3 (Cholesky, blocks, act-order).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.compression.integers import IntegerCodes
from glassbox.core.errors import UserError
from glassbox.ops.integer_codes import Grid, code_range

DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean."""
_BLOCK = 128


def damped(
    weight: Float[Tensor, "O I"], hessian: Float[Tensor, "I I"], damping: float = DAMPING
) -> tuple[Float[Tensor, "O I"], Float[Tensor, "I I"]]:
    """W and H ready for use: inputs that were always 0 get weights 0 and a diagonal of 1; damping added."""
    wide, h = weight.detach().double().clone(), hessian.double().clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    wide[:, dead] = 0
    h.diagonal().add_(damping * h.diagonal().mean())
    return wide, h


def gptq_plain(
    weight: Float[Tensor, "O I"],
    hessian: Float[Tensor, "I I"],
    codes: IntegerCodes,
    *,
    act_order: bool = False,
    damping: float = DAMPING,
) -> dict[str, Tensor]:
    """The equations as they stand: H_F inverted anew for every column. The oracle of `gptq`."""
    wide, h = damped(weight, hessian, damping)
    columns = wide.shape[1]
    group = codes.group_size(columns)
    order = torch.argsort(h.diagonal(), descending=True) if act_order else torch.arange(columns)
    grid = codes.grid(wide.float())
    found = torch.zeros(wide.shape, dtype=torch.int8)
    rest = order.tolist()
    while rest:
        q, g = rest[0], rest[0] // group
        if not act_order and q % group == 0:
            _set_group(grid, codes.grid(wide[:, q : q + group].float()), g)
        found[:, q] = _round(wide[:, q], grid, codes.bits, g)
        inverse = torch.linalg.inv(h[rest][:, rest])
        error = (wide[:, q] - _value(found[:, q], grid, g)) / inverse[0, 0]
        wide[:, rest] -= error.unsqueeze(1) * inverse[0]
        rest = rest[1:]
    return codes.parts_of(found, grid)


def gptq(
    weight: Float[Tensor, "O I"],
    hessian: Float[Tensor, "I I"],
    codes: IntegerCodes,
    *,
    act_order: bool = False,
    damping: float = DAMPING,
) -> dict[str, Tensor]:
    """The parts of a matrix in these codes, rounded against the inputs whose H this is.

    act_order: columns of the largest diagonal first; the grid is then that of the matrix as it was, else
    each group's is chosen when its turn comes. Computed in float64. Raises UserError for an H that is no
    positive matrix. Tested against: `gptq_plain`, the same codes.
    """
    wide, h = damped(weight, hessian, damping)
    columns = wide.shape[1]
    group = codes.group_size(columns)
    grid = codes.grid(wide.float())
    order = torch.arange(columns, device=wide.device)
    if act_order:
        order = torch.argsort(h.diagonal(), descending=True)
        wide, h = wide[:, order], h[order][:, order]
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        upper = torch.linalg.cholesky(inverse, upper=True)  # row q: (H_F^-1)_q over its root
    except RuntimeError:
        raise UserError(
            "gptq: the inputs' second moments are no positive matrix; calibrate on more text, or raise the "
            "damping"
        ) from None
    found = torch.zeros(wide.shape, dtype=torch.int8, device=wide.device)
    places = order.tolist()
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = torch.zeros(len(wide), stop - start, dtype=wide.dtype, device=wide.device)
        for at in range(start, stop):
            g = places[at] // group
            if not act_order and at % group == 0:
                # what lies beyond this block has not had this block's errors yet
                ahead = wide[:, at : at + group].clone()
                if at + group > stop:
                    ahead[:, stop - at :] -= errors @ upper[start:stop, stop : at + group]
                _set_group(grid, codes.grid(ahead.float()), g)
            column = wide[:, at]
            found[:, at] = _round(column, grid, codes.bits, g)
            error = (column - _value(found[:, at], grid, g)) / upper[at, at]
            wide[:, at:stop] -= error.unsqueeze(1) * upper[at, at:stop]
            errors[:, at - start] = error
        wide[:, stop:] -= errors @ upper[start:stop, stop:]
    if act_order:
        back = torch.empty_like(found)
        back[:, order] = found
        found = back
    return codes.parts_of(found, grid)


def _set_group(grid: Grid, new: Grid, group: int) -> None:
    grid.scales[:, group] = new.scales[:, 0]
    if grid.zeros is not None and new.zeros is not None:
        grid.zeros[:, group] = new.zeros[:, 0]


def _round(column: Tensor, grid: Grid, bits: int, group: int) -> Tensor:
    low, high = code_range(bits)
    scaled = torch.round(column.float() / grid.scales[:, group])
    if grid.zeros is not None:
        scaled = scaled + grid.zeros[:, group]
    return scaled.clamp(low, high).to(torch.int8)


def _value(codes: Tensor, grid: Grid, group: int) -> Tensor:
    values = codes.double()
    if grid.zeros is not None:
        values = values - grid.zeros[:, group].double()
    return values * grid.scales[:, group].double()
