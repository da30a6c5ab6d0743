"""Where the values of a model can be reached from outside: hooks of modules, and methods put before them.

A model knows nothing of this. While nothing is asked for, nothing is attached, so that it runs the same
instructions as if this room did not exist.
"""

from __future__ import annotations

import inspect as python
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called in place of a method, with the method, its arguments and its keywords."""


class Removable(Protocol):
    """What has been attached, and can be taken off: torch's handles, and `Seam.attach`'s."""

    def remove(self) -> None:
        """Take it off."""


class Seam:
    """Stands before one method of one object, and calls whoever is attached, the last one outermost.

    It lies in the object's own attributes, where Python looks before the class, and leaves them with
    the last one that is removed, in whatever order they go.
    """

    def __init__(self, owner: nn.Module, method: str) -> None:
        self.owner = owner
        self.method = method
        self.inner: Callable[..., Any] = getattr(owner, method)
        self.attached: list[Around] = []

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        call = self.inner
        for around in self.attached:
            call = _within(around, call)
        return call(*args, **keywords)

    @staticmethod
    def attach(owner: nn.Module, method: str, around: Around) -> Removable:
        """Have `around` called in place of the owner's method."""
        seam = vars(owner).get(method)
        if not isinstance(seam, Seam):
            seam = Seam(owner, method)
            vars(owner)[method] = seam
        seam.attached.append(around)
        return _Attached(seam, around)


class _Attached:
    def __init__(self, seam: Seam, around: Around) -> None:
        self.seam = seam
        self.around = around

    def remove(self) -> None:
        """Take it off, and the seam with the last one."""
        seam = self.seam
        if self.around in seam.attached:
            seam.attached.remove(self.around)
        if not seam.attached and vars(seam.owner).get(seam.method) is seam:
            del vars(seam.owner)[seam.method]


def _within(around: Around, call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: around(call, args, keywords)


def parameters(owner: nn.Module, method: str) -> list[str]:
    """The names of a method's parameters, `self` left out."""
    found = list(python.signature(getattr(type(owner), method)).parameters)
    return found[1:] if found[0] == "self" else found
