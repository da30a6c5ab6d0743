"""What becomes of characters that a vocabulary lacks: their bytes, an unknown token, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glassbox.core.errors import UserError
from glassbox.tokenizers.sentencepiece import byte_piece


@dataclass(frozen=True)
class Fallback:
    """The ids of what is unknown. Without `unknown` and bytes, it raises UserError.

    byte_ids: the 256 bytes' ids, or empty. unknown: the id of the unknown token, or None.
    """

    byte_ids: tuple[int, ...] = ()
    unknown: int | None = None

    @classmethod
    def of(cls, vocab: Mapping[str, int], unknown: int | None, use_bytes: bool) -> Fallback:
        """By the byte pieces `<0x00>` ... of a vocabulary, where all are there."""
        ids = [vocab.get(byte_piece(byte), -1) for byte in range(256)] if use_bytes else [-1]
        return cls(() if min(ids) < 0 else tuple(ids), unknown)

    def ids(self, text: str) -> list[int]:
        """The ids of a text that is in no vocabulary."""
        if self.byte_ids:
            return [self.byte_ids[byte] for byte in text.encode()]
        if self.unknown is None:
            raise UserError(
                f"{text[:20]!r} is not in the vocabulary, which has no unknown token; train with "
                "bytes or an unknown token, or leave the character out"
            )
        return [self.unknown]
