"""Random seeds and generator states: derived, saved and restored."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else (no process, no order of calls).

    >>> derive_seed(0, "shuffle", 3) == derive_seed(0, "shuffle", 3) != derive_seed(0, "shuffle", 4)
    True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries of users may draw from it
    torch.manual_seed(seed)


def rng_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of every global generator, as JSON-able values and tensors.

    Of several CUDA devices it is the current one's: each rank has one.
    """
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002
    assert isinstance(numpy_state, tuple)
    values: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [numpy_state[0], int(numpy_state[2]), int(numpy_state[3]), float(numpy_state[4])],
    }
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(numpy_state[1], dtype=np.int64)),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return values, tensors


def set_rng_state(values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Restore a state that `rng_state` returned."""
    version, internal, gauss = values["python"]
    random.setstate((version, tuple(internal), gauss))
    name, position, has_gauss, cached = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Context manager that restores the state of every global generator on exit."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(*state)
