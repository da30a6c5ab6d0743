"""How a model's tokenizer splits text, and which tokens of a chat fine-tuning trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glassbox.core.errors import UserError
from glassbox.serving.token_log_probs import token_bytes, token_text
from glassbox.tokenizers import Tokenizer

MAX_CHARS = 200_000


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Each token: its id, name and bytes; `special` for control tokens."""
    special = set(tokenizer.special_tokens.values())
    found = []
    for token in ids:
        raw = token_bytes(tokenizer, token)
        found.append(
            {
                "id": token,
                "name": token_text(raw),
                "bytes": len(raw),
                "special": token in special,
            }
        )
    return found


def tokenize(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """A text's tokens and counts. Raises UserError for more than 200,000 characters."""
    _check(len(text))
    ids = tokenizer.encode(text)
    size = len(text.encode("utf-8", "replace"))
    return {
        "pieces": pieces_of(tokenizer, ids),
        "characters": len(text),
        "bytes": size,
        "bytes_per_token": size / max(1, len(ids)),
    }


def mask_of(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A chat's tokens as fine-tuning sees them; `learned` where a token is trained on.

    Raises UserError where the tokenizer has no chat template.
    """
    _check(sum(len(str(message.get("content", ""))) for message in messages))
    ids, mask = tokenizer.encode_chat([dict(message) for message in messages])
    pieces = pieces_of(tokenizer, ids)
    for piece, learned in zip(pieces, mask, strict=True):
        piece["learned"] = bool(learned)
    return {"pieces": pieces, "learned": int(sum(map(bool, mask)))}


def _check(size: int) -> None:
    if size > MAX_CHARS:
        raise UserError(f"the text has {size:,} characters; give at most {MAX_CHARS:,}")
