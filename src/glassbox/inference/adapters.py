"""Adapters that requests select by name, on an unchanged base model."""

from __future__ import annotations

from pathlib import Path

import torch

from glassbox.adapters.attach import drop
from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError
from glassbox.formats.peft import load_adapter, read_adapter
from glassbox.inference.evaluating import evaluating
from glassbox.models.causal_lm import CausalLM


class RequestAdapters:
    """The adapters of a model that requests may select.

    Each is checked when it is loaded, in a small batch beside a row without it, so that a layer
    that does not support one adapter per row is found before any request uses it.
    """

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self._tried: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The names of all adapters of the model."""
        adapters = adapters_of(self.model)
        return [] if adapters is None else adapters.names

    def load(self, name: str, folder: Path | str) -> None:
        """Load an adapter's folder, in our format or PEFT's; the active adapter does not change.

        Raises UserError for a folder that is damaged or made for another base model, a name that is
        taken, and kinds that would change the base or cannot be selected per row; the model is then
        unchanged.
        """
        spec, _ = read_adapter(folder)
        if spec.stands_alone:
            raise UserError(
                f"adapter '{name}' of kind '{spec.kind}' cannot be chosen a request; open "
                f"'{folder}' as the model itself"
            )
        if spec.trains_base or self.model.score is not None:
            raise UserError(
                f"adapter '{name}' trained parts of the base along, so it cannot stand beside the "
                f"base; open '{folder}' as the model itself"
            )
        before = adapters_of(self.model)
        active = None if before is None else before.selection.active
        adapters = load_adapter(self.model, folder, name, keep_base=True)
        adapters.selection.active = active
        try:
            self.check(name)
        except BaseException:
            drop(self.model, name)
            raise

    def check(self, name: str | None) -> None:
        """Raise UserError for a name that requests cannot select; None is the base model."""
        if name is None:
            return
        adapters = adapters_of(self.model)
        if adapters is None or name not in adapters.specs:
            known = ", ".join(self.names) or "none; load it first"
            raise UserError(f"no adapter '{name}'; there are: {known}")
        if name in self._tried:
            return
        model, device = self.model, self.model.device
        ids = torch.zeros((2, 2), dtype=torch.int64, device=device)
        behind = torch.full((1, 1), 2, device=device)
        state = model.init_state(2, 3)
        try:
            with torch.inference_mode(), evaluating(model), adapters.rows([name, None]):
                model.hidden_states(ids, state=state, key_length=2)
                hidden = model.hidden_states(
                    ids[:, :1], positions=behind, state=state, key_length=3
                )
                model.logits(hidden)
        except UserError as error:
            raise UserError(f"adapter '{name}' cannot be chosen a request: {error}") from None
        self._tried.add(name)
