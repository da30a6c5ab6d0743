"""Run a student's functions on cases and hand over what came of it, as plain data.

Standard library alone, and torch and NumPy where a case or a solution brings them in: `answers.py` sends
the text of this file into the sandbox, behind the text of `sandbox/_calls.py`.
"""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from glassbox.sandbox._calls import decode, encode

SOLUTION = "<solution>"


class NoData:
    """Placeholder for a result that is neither plain data nor a tensor."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def other_to_data(value: Any) -> Any:
    """Tensors and arrays as ["T", dtype, shape, numbers]; of anything else the name of its type."""
    for module, kind in (("torch", "Tensor"), ("numpy", "ndarray")):
        there = sys.modules.get(module)
        if there is not None and isinstance(value, getattr(there, kind)):
            if module == "torch":
                value = value.detach().cpu().resolve_conj().resolve_neg()
            name = str(value.dtype).rpartition(".")[2]
            numbers = value.reshape(-1)
            return ["T", name, list(value.shape), numbers.tolist()]
    if "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].generic):
        return value.item()
    return ["?", type(value).__name__]


def other_from_data(data: Any) -> Any:
    """What `other_to_data` made, as a tensor again. Raises for anything that it cannot have made."""
    import torch

    if data[0] == "T":
        name = {"bool_": "bool", "str": ""}.get(data[1], data[1])
        dtype = getattr(torch, str(name), None)
        if not isinstance(dtype, torch.dtype):
            return NoData(f"array of {data[1]}")
        return torch.tensor(data[3], dtype=dtype).reshape([int(size) for size in data[2]])
    return NoData(str(data[1])[:80])


def run_cases(
    code: str, functions: list[str], drivers: list[str], cases: list[Any]
) -> Iterator[dict[str, Any]]:
    """First what came of loading the file, then what came of each case [name, arguments].

    Each is {} or {"ok": data, "changed": bool}, or {"error": [class, text, line]}, or {"missing": name}.
    """
    module = types.ModuleType("solution")
    try:
        exec(compile(code, SOLUTION, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        yield {"error": _describe(error)}
        return
    for name in functions:
        if not callable(getattr(module, name, None)):
            yield {"missing": name}
            return
    calls: dict[str, Callable[..., Any]] = {name: getattr(module, name) for name in functions}
    for text in drivers:
        names: dict[str, Any] = {}
        exec(compile(text, "<driver>", "exec", dont_inherit=True), names)
        name, driver = next((n, f) for n, f in names.items() if isinstance(f, types.FunctionType))
        calls[name] = _with_module(driver, module)
    yield {}
    for name, data in cases:
        args = decode(data, other_from_data)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(0)
        try:
            result = calls[name](*args)
            yield {
                "ok": encode(result, other_to_data),
                "changed": repr(encode(args, other_to_data)) != repr(data),
            }
        except Exception as error:
            yield {"error": _describe(error)}


def _with_module(driver: Callable[..., Any], module: types.ModuleType) -> Callable[..., Any]:
    return lambda *args: driver(module, *args)


def _describe(error: Exception) -> list[Any]:
    lines = [
        at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == SOLUTION
    ]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [0])[-1]
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return [type(error).__name__, text[:1000], line or 0]
