"""Any text: loss, perplexity and bits per byte of its documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from glassbox.evaluation.perplexity import make_text, score_texts
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import Prefix


def evaluate_text(
    model: CausalLM,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    limit: int | None = None,
    stride: int | None = None,
    prefix: Prefix = "auto",
) -> dict[str, Any]:
    """{"heldout": figures} of the first `limit` documents (None: all), as JSON values.

    Documents longer than the model's context are read in windows `stride` apart
    (`scoring.windows`). `prefix` stands before each (`tokenizers.prefix`); a document of which then
    no token can be scored is left out. Raises UserError where there is no document.
    """
    texts = [
        make_text(tokenizer, text, prefix=prefix) for text in itertools.islice(documents, limit)
    ]
    scored = [text for text in texts if text.num_tokens]
    return {"heldout": score_texts(model, scored, stride=stride).to_json()}
