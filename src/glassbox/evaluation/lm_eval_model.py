"""Models of ours in lm-evaluation-harness: `lm_eval --model glassbox`.

    python -m glassbox.evaluation.lm_eval_model --model glassbox --model_args pretrained=smollm2 --tasks piqa

is lm_eval's own command with this class registered; in Python, importing the module is enough. lm_eval is
installed by the user: some of its requirements have no wheels. Tested against: our own evaluation of the
same tasks, with lm_eval 0.4.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from glassbox.evaluation.scoring import BATCH_TOKENS
from glassbox.evaluation.tasks.local import Bos, LocalModel
from glassbox.evaluation.tasks.requests import Request, RequestKind
from glassbox.formats.open_model import open_on


@register_model("glassbox")
class GlassboxLM(LM):
    """Answers the harness's requests with a model of ours, batched as in our own evaluation.

    pretrained: any MODEL (a run, a folder, a file, a name). batch_size is ignored: batch_tokens counts.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str | None = "auto",
        bos: Bos = "auto",
        batch_tokens: int | str = BATCH_TOKENS,
        max_tokens: int | str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        model, tokenizer, _ = open_on(pretrained, device or "auto")
        self.asked = LocalModel(
            model,
            tokenizer,
            pretrained,
            bos=bos,
            batch_tokens=int(batch_tokens),
            max_tokens=None if max_tokens is None else int(max_tokens),
        )

    def _answers(self, kind: RequestKind, instances: Sequence[Any]) -> list[Any]:
        seen: dict[str, int] = {}
        requests = []
        for instance in instances:
            request = Request(kind, tuple(instance.args))
            repeat = seen[request.key] = seen.get(request.key, -1) + 1
            requests.append(Request(kind, tuple(instance.args), repeat))
        everything = set(range(len(requests)))
        found: dict[int, Any] = {}
        for group in self.asked.plan(requests):
            found.update(self.asked.answer(requests, group, everything))
        return [found[index] for index in range(len(requests))]

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log p of the continuation, whether greedy decoding writes it) of each request."""
        return [(one[0], one[1]) for one in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of each text."""
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each prompt."""
        return self._answers("generate_until", requests)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages by the tokenizer's own template."""
        return self.asked.render_chat(chat_history, go_on=not add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint, for the harness's caches."""
        return self.asked.tokenizer.fingerprint


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
