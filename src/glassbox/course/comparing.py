"""Whether two results are the same, and if not, where they first differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassbox.course._student import NoData


@dataclass(frozen=True)
class Difference:
    """Where a result first differs from what was expected.

    kind:  none (nothing was returned), type, shape, length, keys, not_finite, value.
    where: the place, such as "[0, 2]"; empty for the whole.
    """

    kind: str
    where: str
    expected: str
    got: str


def difference(expected: Any, got: Any, tolerance: float, where: str = "") -> Difference | None:
    """The first difference between two results; None if they are equal.

    A tensor, a NumPy array and a nested list of the same numbers are the same; so are a list and a tuple.
    Numbers may differ by tolerance * max(1, |expected|); NaN equals NaN.

    >>> difference([1.0, 2.0], (1.0, 2.5), 1e-4).where
    '[1]'
    """
    if got is None and expected is not None:
        return Difference("none", where, show(expected), "None")
    if isinstance(got, NoData):
        return Difference("type", where, _kind(expected), got.kind)
    if isinstance(expected, Tensor):
        return _tensor_difference(expected, got, tolerance, where)
    if isinstance(got, Tensor):
        got = got.tolist()
    if isinstance(expected, (bool, int, float)):
        return _number_difference(expected, got, tolerance, where)
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)):
            return Difference("type", where, _kind(expected), _kind(got))
        if len(expected) != len(got):
            return Difference("length", where, str(len(expected)), str(len(got)))
        for place, (one, other) in enumerate(zip(expected, got, strict=True)):
            found = difference(one, other, tolerance, f"{where}[{place}]")
            if found:
                return found
        return None
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return Difference("type", where, _kind(expected), _kind(got))
        if expected.keys() != got.keys():
            return Difference(
                "keys", where, show(sorted(map(repr, expected))), show(sorted(map(repr, got)))
            )
        for key, one in expected.items():
            found = difference(one, got[key], tolerance, f"{where}[{key!r}]")
            if found:
                return found
        return None
    if type(expected) is not type(got):
        return Difference("type", where, _kind(expected), _kind(got))
    return None if expected == got else Difference("value", where, show(expected), show(got))


def _number_difference(
    expected: float, got: Any, tolerance: float, where: str
) -> Difference | None:
    if not isinstance(got, (bool, int, float)) or isinstance(expected, bool) != isinstance(
        got, bool
    ):
        return Difference("type", where, _kind(expected), _kind(got))
    if isinstance(expected, int) and isinstance(got, int):
        same = expected == got
    else:
        same = _near(float(expected), float(got), tolerance)
    if same:
        return None
    broken = math.isnan(got) and not math.isnan(expected)
    return Difference("not_finite" if broken else "value", where, show(expected), show(got))


def _near(expected: float, got: float, tolerance: float) -> bool:
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return expected == got or abs(expected - got) <= tolerance * max(1.0, abs(expected))


def _tensor_difference(
    expected: Tensor, got: Any, tolerance: float, where: str
) -> Difference | None:
    if not isinstance(got, Tensor):
        try:
            got = torch.tensor(got)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return Difference("type", where, _kind(expected), _kind(got))
    if got.shape != expected.shape:
        return Difference("shape", where, str(tuple(expected.shape)), str(tuple(got.shape)))
    if (expected.dtype == torch.bool) != (got.dtype == torch.bool) and expected.numel():
        return Difference("type", where, _kind(expected), _kind(got))
    if expected.is_complex() or got.is_complex():
        return (
            None
            if torch.allclose(expected.to(got.dtype), got)
            else Difference("value", where, show(expected), show(got))
        )
    one, other = expected.double(), got.double()
    near = (one - other).abs() <= tolerance * one.abs().clamp(min=1.0)
    near |= (one == other) | (one.isnan() & other.isnan())
    if near.all():
        return None
    at = tuple((~near).nonzero()[0].tolist())
    kind = "not_finite" if other[at].isnan() and not one[at].isnan() else "value"
    place = f"{where}{list(at)}" if at else where
    return Difference(kind, place, show(expected[at].item()), show(got[at].item()))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"Tensor ({str(value.dtype).rpartition('.')[2]})"
    return value.kind if isinstance(value, NoData) else type(value).__name__


def show(value: Any, width: int = 600) -> str:
    """A value as a line or, for a matrix, as a few; long ones are cut in the middle.

    >>> show(0.123456789)
    '0.1235'
    """
    if isinstance(value, Tensor):
        with torch._tensor_str.printoptions(precision=4, threshold=80, edgeitems=4, linewidth=88):
            text = str(value)
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, (list, tuple)) and value and len(value) <= 40:
        inside = ", ".join(show(one, width) for one in value)
        if isinstance(value, tuple):
            text = f"({inside}{',' if len(value) == 1 else ''})"
        else:
            text = f"[{inside}]"
    else:
        text = repr(value)
    return text if len(text) <= width else f"{text[: width // 2]} ... {text[-width // 4 :]}"
