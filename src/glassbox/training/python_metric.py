"""User-defined metrics of a training run: `evaluation.metrics: [{kind: python, path: my.py:metric}]`.

`path` names a function called with (model, tokenizer, **options), or a class called with the options
whose instance is called with (model, tokenizer). It returns a number, recorded under the name after
the path's colon, or a mapping of names to numbers, recorded as NAME/KEY:

    @torch.no_grad()
    def embedding_norm(model, tokenizer):
        return float(model.embedding.weight.norm(dim=1).mean())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec

if TYPE_CHECKING:
    from glassbox.core.distributed import Group
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer

_WHAT = "evaluation.metrics"


class PythonMetric(PythonSpec):
    """A user-defined metric, measured every so many steps and written to metrics.jsonl."""

    every: int | None = Field(
        None, gt=0, description="steps between measurements; null: as evaluation.every"
    )

    def check(self) -> None:
        """Raise UserError unless `path` can be loaded and called with a model and a tokenizer."""
        self.bind(_WHAT, "model", "tokenizer")

    def build(self, tokenizer: Tokenizer, *, every: int, group: Group) -> MetricHook:
        """The hook. Raises UserError as `check` does."""
        return MetricHook(self, tokenizer, every=self.every or every, group=group)


class MetricHook:
    """Calls a user-defined metric on rank 0 and shares the values with all ranks."""

    def __init__(
        self, spec: PythonMetric, tokenizer: Tokenizer, *, every: int, group: Group
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.every = every
        self.group = group
        self._measure = spec.bind(_WHAT, "model", "tokenizer")

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """{name: value}. Raises UserError for results other than a number or a mapping to numbers."""
        values = self._values(model) if self.group.is_main else {}
        shared = self.group.sum_by_name({name: [value] for name, value in values.items()})
        return {name: value for name, (value,) in shared.items()}

    def _values(self, model: CausalLM) -> dict[str, float]:
        result = self._measure(model, self.tokenizer)
        name = self.spec.object_name
        if isinstance(result, Mapping):
            return {f"{name}/{key}": self._number(value, key) for key, value in result.items()}
        return {name: self._number(result)}

    def _number(self, value: Any, key: object = None) -> float:
        try:
            if isinstance(value, str):
                raise TypeError
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            of = "" if key is None else f" for '{key}'"
            raise UserError(
                f"{_WHAT}: '{self.spec.path}' gave a {type(value).__name__}{of}; return a number, or a "
                "mapping of names to numbers"
            ) from None
