"""Everything around a model that is not byte-level: normalizer, pre-tokenizer, and how ids become text.

It is made of the entries of a tokenizer.json and keeps them as they are, so that what is read is
what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassbox.tokenizers.decoders import Decoder
from glassbox.tokenizers.normalizers import build_normalizer, is_local
from glassbox.tokenizers.patterns import BLOCK_CHARS, WorkLimit, last_match
from glassbox.tokenizers.splitters import build_splitter, cuts_at_spaces

_BEFORE_SPACE = r"(?<=\S)(?= )"


class Processing:
    """A normalizer, a pre-tokenizer and a decoder, as the entries of a tokenizer.json.

    chars: the model's vocabulary is written in the byte alphabet, though it is no byte-pair one.
    Raises UserError naming what is not known.
    """

    stages: tuple[str, ...] = ()
    nfc = changes_text = False

    def __init__(
        self,
        normalizer: Any = None,
        pre_tokenizer: Any = None,
        decoder: Any = None,
        *,
        chars: bool = False,
        where: str = "tokenizer.json",
    ) -> None:
        self.normalizer, self.pre_tokenizer, self.decoder_entry = normalizer, pre_tokenizer, decoder
        self.chars = chars
        self._compose = build_normalizer(normalizer, f"{where}: normalizer")
        self._split = build_splitter(pre_tokenizer, f"{where}: pre_tokenizer", chars=chars)
        self.decoder = Decoder(decoder, f"{where}: decoder")
        self.cuts_are_known = is_local(normalizer) and cuts_at_spaces(pre_tokenizer)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.normalizer, self.pre_tokenizer, self.decoder_entry, self.chars)

    def normalize(self, text: str, limit: WorkLimit | None = None) -> str:
        """The normalized text. Raises UserError where that takes too long or makes it too long."""
        if self.normalizer is None:
            return text
        limit = WorkLimit(len(text)) if limit is None else limit
        text = self._compose(text, limit)
        limit.check("the normalizer", len(text))
        return text

    def split(self, text: str, first: bool = True) -> list[str]:
        """The words of a normalized text; `first`: nothing comes before it."""
        return [word for word, _ in self._split(text, first, WorkLimit(len(text)))]

    def last_cut(self, text: str) -> int:
        """The last index at which a cut of a text not yet normalized is certain; 0 where none is."""
        return last_match(_BEFORE_SPACE, text) if self.cuts_are_known else 0

    def last_composed(self, text: str) -> int:
        """0: text is normalized when it is cut."""
        return 0

    def blocks(self, text: str, size: int = BLOCK_CHARS) -> Iterator[str]:
        """Blocks of about `size` characters, not yet normalized, whose words are those of the whole."""
        start = 0
        while self.cuts_are_known and len(text) - start > size:
            window = size
            while not (length := self.last_cut(text[start : start + window])):
                if start + window >= len(text):
                    break
                window *= 2
            if not length:
                break
            yield text[start : start + length]
            start += length
        yield text[start:]


def _rebuild(normalizer: Any, pre_tokenizer: Any, decoder: Any, chars: bool) -> Processing:
    return Processing(normalizer, pre_tokenizer, decoder, chars=chars)
