"""Log-probabilities of tokens in the two shapes that OpenAI's API has for them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

LEAST = -9999.0
"""What stands for minus infinity, which JSON lacks."""

Top = Sequence[tuple[int, float]]


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """A token's bytes; empty for padding ids of the vocabulary."""
    return b"" if tokenizer.id_to_token(token) is None else tokenizer.token_bytes(token)


def token_text(raw: bytes) -> str:
    r"""A token by itself; one that is no whole character as its bytes.

    >>> token_text(b" fox"), token_text(b"\xe4\xb8")
    (' fox', 'bytes:\\xe4\\xb8')
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_entry(
    tokenizer: Tokenizer, token: int, log_prob: float, top: Top, num_top: int
) -> dict[str, Any]:
    """An element of a chat choice's `logprobs.content`."""
    entry = _chat_token(tokenizer, token, log_prob)
    likeliest = [_chat_token(tokenizer, other, value) for other, value in top[:num_top]]
    return {**entry, "top_logprobs": likeliest}


def _chat_token(tokenizer: Tokenizer, token: int, log_prob: float) -> dict[str, Any]:
    raw = token_bytes(tokenizer, token)
    return {"token": token_text(raw), "logprob": max(log_prob, LEAST), "bytes": list(raw)}


class CompletionLogProbs:
    """The `logprobs` of a completion choice: tokens, their log-probabilities, the most probable
    tokens, and text offsets.

    As in OpenAI's API, the token itself is always in `top_logprobs`, even if it is not among the
    most probable.
    """

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._clear()

    def _clear(self) -> None:
        self._tokens: list[str] = []
        self._log_probs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def push(self, token: int, log_prob: float | None, top: Top) -> None:
        """Add a token; log_prob is None for the first token of a prompt."""
        raw = token_bytes(self._tokenizer, token)
        text = token_text(raw)
        self._tokens.append(text)
        self._offsets.append(self._offset)
        self._offset += len(self._decoder.decode(raw))
        if log_prob is None:
            self._log_probs.append(None)
            self._top.append(None)
            return
        self._log_probs.append(max(log_prob, LEAST))
        likeliest: dict[str, float] = {}
        for other, value in top[: self._num_top]:
            other_text = token_text(token_bytes(self._tokenizer, other))
            likeliest.setdefault(other_text, max(value, LEAST))
        if self._num_top:
            likeliest.setdefault(text, max(log_prob, LEAST))
        self._top.append(likeliest)

    def take(self) -> dict[str, Any]:
        """The tokens added since the last call."""
        taken = {
            "tokens": self._tokens,
            "token_logprobs": self._log_probs,
            "top_logprobs": self._top if self._num_top else None,
            "text_offset": self._offsets,
        }
        self._clear()
        return taken
