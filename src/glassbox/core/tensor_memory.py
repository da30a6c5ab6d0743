"""Bytes of all tensors that are alive, counted as operations make and drop them."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class TensorMemory(TorchDispatchMode):
    """Within, every tensor's storage counts from the operation that makes it until nobody holds it.

    Works alike for real tensors, tensors of the meta device and fake ones, so that what is forecast from
    shapes alone can be compared with what a run on a CPU takes. What a kernel allocates for itself is
    not seen, and neither is the allocator's rounding.
    Tested against: sums by hand, and fake tensors against real ones over a training step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.mark = 0
        self.mark_at_peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        found = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(found)[0]:
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return found

    def see(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()

        def dropped(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, dropped)
        self.live += size
        if self.live > self.peak:
            self.peak, self.mark_at_peak = self.live, self.mark

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak, self.mark_at_peak = self.live, self.mark


def tensor_bytes(tensors: Any) -> int:
    """Bytes of tensors, each storage once."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
    return sum(seen.values())
