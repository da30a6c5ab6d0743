"""Loss, perplexity, bits per byte, and the excess over the exact entropy of texts that have one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.evaluation.scoring import BATCH_TOKENS, token_log_probs
from glassbox.evaluation.stats import Estimate, ratio
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import Prefix, text_prefix


@dataclass(frozen=True)
class Text:
    """A document as ids; of them all but the first are scored.

    ids: [eos, t_1, ..., t_n, eos] where documents stand between end-of-text tokens, so that the
        first token and the end count: n + 1 targets. Else [bos, t_1, ..., t_n] or [t_1, ..., t_n].
    num_bytes: of the text in UTF-8; the end is no byte.
    log_prob: exact log-probability in nats under the process that made it, where that is known.
    """

    ids: list[int]
    num_bytes: int
    log_prob: float | None = None
    kind: str = ""

    @property
    def num_tokens(self) -> int:
        """How many tokens are scored."""
        return max(0, len(self.ids) - 1)


def make_text(
    tokenizer: Tokenizer,
    text: str,
    log_prob: float | None = None,
    kind: str = "",
    *,
    prefix: Prefix = "auto",
) -> Text:
    """Encode a document behind its prefix (`text_prefix`), as prompts are.

    Behind end-of-text it also ends with one. Special tokens spelled in it are text.
    """
    start = text_prefix(tokenizer, prefix)
    end = start if start == [tokenizer.eos_id] else []
    ids = [*start, *tokenizer.encode(text), *end]
    return Text(ids, len(text.encode("utf-8")), log_prob, kind)


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts texts. Every figure carries its standard error over units.

    loss_nats: sum of -log p over all tokens / number of tokens: token-weighted, never a mean of means.
    perplexity: exp(loss_nats).
    bits_per_byte: the same nats / ln 2 / bytes of the texts; comparable between tokenizers.
    entropy_nats: exact nats a token of the process that made the texts, or None.
    excess_nats: (model's nats - exact nats) / tokens, differences taken document by document. In
        expectation it is the divergence KL(process || model) a token, which is never negative.
    unit: what the errors are taken over: "document", or, for one long document, "block".
    """

    loss_nats: Estimate
    perplexity: Estimate
    bits_per_byte: Estimate
    entropy_nats: Estimate | None
    excess_nats: Estimate | None
    num_tokens: int
    num_bytes: int
    unit: str

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values; those that do not exist are left out."""
        return {
            key: value.to_json() if isinstance(value, Estimate) else value
            for key, value in vars(self).items()
            if value is not None
        }


def score_texts(
    model: CausalLM,
    texts: Sequence[Text],
    *,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> TextScore:
    """Score documents whole; those longer than the context in windows (`scoring.windows`).

    The excess is given where every text has its log_prob. Fewer than two documents give no error
    of their own, so blocks of one context length of tokens take their place; neighbouring blocks
    are not quite independent, so that error is a little too small.
    Tested against: transformers' loss on the same weights, document by document.
    """
    if not texts:
        raise UserError("no text to score; give at least one document")
    scores = token_log_probs(
        model, [text.ids for text in texts], stride=stride, batch_tokens=batch_tokens
    )
    return summarize(texts, scores, block=model.config.context_length)


def summarize(
    texts: Sequence[Text], scores: Sequence[NDArray[np.float64]], *, block: int = 1024
) -> TextScore:
    """The figures of documents whose tokens have these log-probabilities."""
    num_bytes = np.array([text.num_bytes for text in texts], dtype=np.float64)
    exact = [-text.log_prob for text in texts if text.log_prob is not None]
    if len(texts) > 1:
        unit = "document"
        tokens = np.array([text.num_tokens for text in texts], dtype=np.float64)
        nats = np.array([-values.sum() for values in scores])
    else:
        unit = "block"
        cuts = range(0, texts[0].num_tokens, block)
        tokens = np.array([min(block, texts[0].num_tokens - cut) for cut in cuts], dtype=np.float64)
        nats = np.array([-scores[0][cut : cut + block].sum() for cut in cuts])
    loss = ratio(nats, tokens)
    # bytes of a block are not known; for one document bits are scaled from nats as a whole
    bits = (
        ratio(nats, num_bytes)
        if unit == "document" and num_bytes.sum()
        else loss.scaled(float(tokens.sum() / max(1.0, num_bytes.sum())))
    )
    entropy = excess = None
    if len(exact) == len(texts):
        own = np.array([-values.sum() for values in scores])
        counts = np.array([text.num_tokens for text in texts], dtype=np.float64)
        entropy, excess = ratio(exact, counts), ratio(own - np.array(exact), counts)
    return TextScore(
        loss_nats=loss,
        perplexity=loss.exp(),
        bits_per_byte=bits.scaled(1 / math.log(2)),
        entropy_nats=entropy,
        excess_nats=excess,
        num_tokens=int(tokens.sum()),
        num_bytes=int(num_bytes.sum()),
        unit=unit,
    )


def score_by_kind(
    texts: Sequence[Text], scores: Sequence[NDArray[np.float64]]
) -> dict[str, dict[str, Any]]:
    """`summarize` for the documents of each kind, as JSON; empty where no text names its kind."""
    kinds: Iterable[str] = sorted({text.kind for text in texts} - {""})
    return {
        kind: summarize(
            [text for text in texts if text.kind == kind],
            [values for text, values in zip(texts, scores, strict=True) if text.kind == kind],
        ).to_json()
        for kind in kinds
    }
