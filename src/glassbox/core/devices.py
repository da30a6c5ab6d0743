"""Device selection, autocast and peak memory."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Literal

import torch

from glassbox.core.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]


def resolve_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device of a name; `auto` prefers cuda, then mps, then cpu.

    Raises UserError if the named device is not available; there is no silent fallback.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and cuda:
        return torch.device("cuda", local_rank)
    if name == "mps" and mps:
        return torch.device("mps")
    if name in ("cuda", "mps"):
        raise UserError(
            f"device = '{name}' is not available on this machine; use device=auto or cpu"
        )
    raise UserError(f"device = '{name}': use auto, cpu, cuda or mps")


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """Context manager for matrix products in the given precision; weights and sums stay in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def used_memory_bytes(device: torch.device) -> int:
    """Memory in bytes that is in use now: of the accelerator's tensors, or on a CPU of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return 0


def product_rate(device: torch.device, precision: Precision, *, seconds: float = 0.2) -> float:
    """FLOP/s of a large matrix product, the best of several within `seconds`: what the device can do."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, precision)
    generator = torch.Generator(device).manual_seed(0)  # the run's own random numbers stay
    x = torch.randn(size, size, device=device, generator=generator).to(dtype)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        product = x @ x
        product[0, 0].item()  # an accelerator works on its own until it is asked
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory in bytes: of the accelerator, or on a CPU of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # first what Linux keeps of this program: its getrusage begins with the process that started us
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows keeps no such figure
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
