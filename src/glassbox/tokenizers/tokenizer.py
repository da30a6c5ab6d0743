"""The tokenizer: text to ids and back, control tokens, chats."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from glassbox.core.errors import UserError
from glassbox.tokenizers import files, streaming, tokenizer_json
from glassbox.tokenizers.added_tokens import (
    MAX_SPARE_IDS,
    AddedToken,
    AddedTokens,
    AllowSpecial,
    Edges,
    Piece,
)
from glassbox.tokenizers.bpe import BytePairModel, WordCache
from glassbox.tokenizers.bytelevel import to_chars, utf8
from glassbox.tokenizers.chat import ChatTemplate, Message
from glassbox.tokenizers.parallel import encode_in_processes
from glassbox.tokenizers.parts import TextProcessing, TokenizerParts, TokenModel
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.processing_json import tokens_around
from glassbox.tokenizers.sentencepiece import SentencePieceModel, SpacedText
from glassbox.tokenizers.streaming import StreamDecoder
from glassbox.tokenizers.tiktoken_file import read_ranks
from glassbox.tokenizers.unigram import UnigramModel
from glassbox.tokenizers.wordpiece import WordPieceModel

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Converts text to token ids and back: byte-pair, WordPiece, Unigram or character models, with
    added tokens.

    Its `parts` are data: a model (the vocabulary and how a word is encoded), normalization and
    pre-tokenization, and added tokens. A byte-level vocabulary encodes any text, and
    `decode(encode(text))
    == text` (also for a sentencepiece vocabulary that prepends a space to each text); others are
    lossy, because of normalizers and unknown tokens. Control tokens are ids, never text:
    `encode` reads `<|im_end|>` in a user's words as eleven ordinary characters unless told
    `allow_special=True`. Immutable; safe to share between threads.

    Tested against: `tokenizers`, `transformers` and tiktoken, the same ids from the same files.
    """

    def __init__(
        self,
        model: TokenModel,
        pretokenizer: TextProcessing,
        added: Sequence[AddedToken] = (),
        *,
        roles: Mapping[str, str] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        post_processor: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.pretokenizer = pretokenizer
        self.added = tuple(added)
        self.roles = dict(roles or {})
        self.chat_template = chat_template
        self._post_processor = post_processor
        self._decoder = pretokenizer.decoder if isinstance(pretokenizer, Processing) else None
        self._bytes = dict(model.tokens)
        self._ids = dict(model.vocab)
        _check_ids(self._ids)
        self._added = AddedTokens(self.added, pretokenizer, len(self._ids))
        self._place_added()
        self._names = {number: token for token, number in self._ids.items()}
        self._shown = self._names | self._added.shown
        self._special_ids = frozenset(self.special_tokens.values())
        self._cache = WordCache(model)
        for role, content in self.roles.items():
            if content not in self._ids:
                raise UserError(f"{role} = {content!r} is not in the vocabulary")

    @classmethod
    def from_parts(cls, parts: TokenizerParts) -> Tokenizer:
        """Create a tokenizer from its parts."""
        return cls(
            parts.model,
            parts.pretokenizer,
            parts.added,
            roles=parts.roles,
            chat_template=parts.chat_template,
            post_processor=parts.post_processor,
        )

    @property
    def parts(self) -> TokenizerParts:
        """The parts of the tokenizer."""
        return TokenizerParts(
            self.model,
            self.pretokenizer,
            self.added,
            self._post_processor,
            self.roles,
            self.chat_template,
        )

    def _place_added(self) -> None:
        model = self.model
        merges = [] if isinstance(model, (WordPieceModel, UnigramModel)) else model.merges
        merged = {left + right for left, right in merges}
        for token in self.added:
            content = utf8(token.content, what=f"the added token {token.content!r}")
            if token.content in self._ids:
                if self._ids[token.content] != token.id:
                    raise UserError(
                        f"added token {token.content!r} has id {token.id}, but the vocabulary says"
                        f" {self._ids[token.content]}"
                    )
            elif token.id in self._bytes:
                raise UserError(
                    f"added token {token.content!r} has id {token.id}, which another token has"
                )
            if token.special and (token.content in merged or to_chars(content) in merged):
                raise UserError(
                    f"a merge spells the special token {token.content!r}, so that user text could"
                    " pass for it; rename the token or train again"
                )
            self._ids[token.content] = token.id
            self._bytes[token.id] = content

    # ---- vocabulary -------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the largest id plus one."""
        return max(self._bytes) + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """The control tokens and their ids."""
        return self._added.special

    def _role_id(self, role: str) -> int | None:
        return self._ids[self.roles[role]] if role in self.roles else None

    @property
    def eos_id(self) -> int:
        """The id that ends a document. Raises UserError if there is none."""
        return self._needed("eos_token")

    @property
    def pad_id(self) -> int:
        """The id used for padding. Raises UserError if there is none."""
        return self._needed("pad_token")

    @property
    def bos_id(self) -> int | None:
        """The id that begins a document, or None."""
        return self._role_id("bos_token")

    def _needed(self, role: str) -> int:
        number = self._role_id(role)
        if number is None:
            raise UserError(f"the tokenizer names no {role}; set it in tokenizer_config.json")
        return number

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's files prepend `bos_token` to a text."""
        return tokenizer_json.first_token(self._post_processor) == self.roles.get("bos_token", "")

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as written in the vocabulary (`Ġthe`), or None."""
        return self._ids.get(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token as written in the vocabulary (`Ġthe`), or None for an unused id."""
        return self._names.get(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of an id. Raises UserError for an id without a token."""
        try:
            if self._decoder is not None:
                return self._decoder.piece(self._shown[token_id], "")
            return self._bytes[token_id]
        except KeyError:
            raise UserError(
                f"token id {token_id} is not in the vocabulary of {self.vocab_size}"
            ) from None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines ids, to detect data of another tokenizer."""
        model, words = self.model, self.pretokenizer
        content: list[Any]
        if isinstance(words, Processing):
            parts = tokenizer_json.model_to_json(model, self.added)
            content = [parts, words.normalizer, words.pre_tokenizer]
        else:
            assert isinstance(model, (BytePairModel, SentencePieceModel))
            content = [
                sorted(model.vocab.items(), key=lambda item: item[1]),
                model.merges,
                model.ignore_merges,
                words.stages,
                words.nfc,
                *(
                    ["no space before"]
                    if isinstance(words, SpacedText) and not words.prefix
                    else []
                ),
            ]
        content.append(sorted((t.id, t.content, t.special, t.normalized) for t in self.added))
        content += [[t.content, *astuple(t.edges)] for t in self.added if t.edges != Edges()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    # ---- text to ids ------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        *,
        allow_special: AllowSpecial = False,
        disallowed_special: Collection[str] | Literal["all"] = (),
        add_special: bool = False,
    ) -> list[int]:
        """Encode a text to ids.

        allow_special: the special tokens in the text that are encoded to their ids: none, all
            (True), or those named; others are encoded as ordinary text.
        disallowed_special: special tokens that raise UserError if the text contains them: those
            named, or "all" that are not allowed, which is tiktoken's default.
        add_special: add the ids that the tokenizer's files add around a text (`special_around`).
        Raises UserError for values other than strings, for lone surrogates, and for characters that
        the vocabulary cannot represent. Tested against: `tokenizers`, tiktoken.
        """
        text = _checked(text)
        if disallowed_special:
            self._added.check_disallowed(text, disallowed_special, allow_special)
        ids: list[int] = []
        processed = isinstance(self.pretokenizer, Processing)
        for n, piece in enumerate(self.split_added(text, allow_special=allow_special)):
            if isinstance(piece, int):
                ids.append(piece)
            elif processed:
                ids += self.encode_processed(piece, allow_special=allow_special, first=n == 0)
            else:
                ids += self.encode_ordinary(self.pretokenizer.normalize(piece))
        if add_special:
            before, after = self.special_around
            return [*before, *ids, *after]
        return ids

    def encode_bytes(self, content: bytes) -> list[int]:
        """Encode bytes that may be invalid UTF-8; equal to `encode` if they are valid.

        The text up to the first invalid byte is encoded as text, except its last word: that word
        (and the white space tokens before it, if it is white space) is merged with all following
        bytes as if they were one word. `decode_bytes` is the inverse.
        For invalid UTF-8, raises UserError unless the tokenizer is byte-level BPE with all 256
        bytes. Tested against: tiktoken's `_encode_bytes`.
        """
        try:
            return self.encode(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            start = error.start
        model, words = self.model, self.pretokenizer
        if not isinstance(model, BytePairModel) or isinstance(words, Processing):
            raise UserError(
                f"byte {start} is no UTF-8, and this tokenizer encodes text only; decode the bytes first"
            )
        if model.lacks_bytes:
            raise UserError(
                f"byte {start} is no UTF-8, and this tokenizer's vocabulary lacks some of the 256 bytes"
            )
        ids: list[int] = []
        last = 0
        text = words.normalize(content[:start].decode("utf-8"))
        for block in words.blocks(text):
            for word in words.split(block):
                made = self._cache[word]
                ids.extend(made)
                last = len(made)
        if last and self._is_space(ids[-last]):
            while last < len(ids) and self._is_space(ids[-last - 1]):
                last += 1
        kept = len(ids) - last
        tail = b"".join(map(self._bytes.__getitem__, ids[kept:])) + content[start:]
        return [*ids[:kept], *model.encode_word(tail)]

    def _is_space(self, token_id: int) -> bool:
        return not self._bytes[token_id].strip(b" \n\t")

    @cached_property
    def special_around(self) -> tuple[list[int], list[int]]:
        """The ids that the files' post-processor puts before and after one text (`[CLS]`, `[SEP]`)."""
        around = tokens_around(self._post_processor)
        for token in (*around[0], *around[1]):
            if token not in self._ids:
                raise UserError(f"post_processor: {token!r} is not in the vocabulary")
        before, after = ([self._ids[token] for token in side] for side in around)
        return before, after

    def encode_processed(self, text: str, *, allow_special: AllowSpecial, first: bool) -> list[int]:
        """Ids of a text not yet normalized, in which early added tokens are no more looked for.

        first: nothing comes before it. For tokenizers whose text goes through `Processing`.
        """
        words, look_up = self.pretokenizer, self._cache.__getitem__
        assert isinstance(words, Processing)
        late = self._added.late(allow_special)
        ids: list[int] = []
        for block in words.blocks(text) if text else ():
            content = words.normalize(block)
            for piece in [content] if late is None else late.split(content):
                if isinstance(piece, int):
                    ids.append(piece)
                else:
                    ids.extend(chain.from_iterable(map(look_up, words.split(piece, first))))
                first = False
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text that is composed and in which no added token is looked for."""
        words, look_up = self.pretokenizer, self._cache.__getitem__
        if isinstance(words, Processing):
            return self.encode_processed(text, allow_special=False, first=True)
        if len(text) <= 1024:
            return list(chain.from_iterable(map(look_up, words.split(text))))
        ids: list[int] = []
        for block in words.blocks(text):
            ids.extend(chain.from_iterable(map(look_up, words.split(block))))
        return ids

    def encode_plain(self, text: str, *, allow_special: AllowSpecial = False) -> list[int]:
        """`encode` without blocks, caches or heaps; `encode` is tested against it."""
        words, late = self.pretokenizer, self._added.late(allow_special)
        ids: list[int] = []
        for n, piece in enumerate(self.split_added(_checked(text), allow_special=allow_special)):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            content = words.normalize(piece)
            for m, part in enumerate([content] if late is None else late.split(content)):
                if isinstance(part, int):
                    ids.append(part)
                    continue
                at = (n + m == 0,) if isinstance(words, Processing) else ()
                for word in words.split(part, *at):
                    ids += self.model.encode_word_plain(utf8(word))
        return ids

    def split_added(self, text: str, *, allow_special: AllowSpecial) -> list[Piece]:
        """The text cut at added tokens, these as ids; special ones only if `allow_special`."""
        pieces: list[Piece] = [text] if text else []
        for splitter in self._added.early(allow_special):
            pieces = [
                part
                for piece in pieces
                for part in ([piece] if isinstance(piece, int) else splitter.split(piece))
            ]
        return pieces

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        allow_special: AllowSpecial = False,
        workers: int = 1,
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> list[list[int]]:
        """Encode several texts, in order.

        `workers` > 1 shares the texts among that many processes (started afresh, so a script that
        asks for it needs `if __name__ == "__main__":`); it is faster from about ten megabytes on.
        `progress` is called with "encode", the texts done, and their number.
        """
        texts = list(texts)
        if workers < 1:
            raise UserError(f"workers = {workers}; use 1 or more")
        if workers > 1:
            encoded = encode_in_processes(self, texts, allow_special, workers)
        else:
            encoded = (self.encode(text, allow_special=allow_special) for text in texts)
        results = []
        for ids in encoded:
            results.append(ids)
            if progress is not None:
                progress("encode", len(results), len(texts))
        return results

    def encode_stream(
        self, chunks: Iterable[str], *, allow_special: AllowSpecial = False
    ) -> Iterator[int]:
        """Encode a text that arrives in arbitrary chunks; equal to `encode` of the whole text.

        Buffers only text whose encoding could still change; with a custom pattern that is the whole
        text.
        """
        joined = streaming.join_surrogates(map(_string, chunks))
        pieces: Iterable[Piece] = map(_checked, joined)
        for splitter in self._added.early(allow_special):
            pieces = splitter.split_stream(pieces)
        if isinstance(self.pretokenizer, Processing):
            return streaming.encode_processed(self, pieces, allow_special=allow_special)
        if self.pretokenizer.changes_text:
            pieces = streaming.normalize_stream(pieces, self)
        return streaming.encode_stream(self, pieces)

    # ---- ids to text ------------------------------------------------------------------------

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The concatenated bytes of ids."""
        if skip_special:
            ids = (number for number in ids if number not in self._special_ids)
        try:
            if self._decoder is not None:
                names = [self._shown[number] for number in ids]
                pairs = zip(names, [None, *names], strict=False)
                return b"".join(self._decoder.piece(name, before) for name, before in pairs)
            return b"".join(map(self._bytes.__getitem__, ids))
        except KeyError as error:
            raise UserError(
                f"token id {error.args[0]} is not in the vocabulary of {self.vocab_size}"
            ) from None

    def decode_step(
        self, token_id: int, previous: str | None, *, skip_special: bool = False
    ) -> tuple[bytes, str | None]:
        """The bytes of an id after the token `previous`, and what `previous` is for the next id."""
        if self._decoder is None or (skip_special and token_id in self._special_ids):
            return self.decode_bytes([token_id], skip_special=skip_special), previous
        if token_id not in self._names:
            self.token_bytes(token_id)  # says what is wrong
        name = self._shown[token_id]
        return self._decoder.piece(name, previous), name

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Decode ids to text; invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def stream_decoder(self, *, skip_special: bool = False) -> StreamDecoder:
        """Return a decoder that takes one id at a time."""
        return StreamDecoder(self, skip_special=skip_special)

    # ---- chats ------------------------------------------------------------------------------

    @cached_property
    def _chat(self) -> ChatTemplate:
        if self.chat_template is None:
            raise UserError("the tokenizer has no chat_template; add one to tokenizer_config.json")
        return ChatTemplate(self.chat_template, special_strings=self.roles)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Render a chat as one text. For ids use `encode_chat`: in the text, special tokens written
        by users cannot be distinguished.

        Tested against: transformers' `apply_chat_template`.
        """
        return self._chat.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> tuple[list[int], list[int]]:
        """Encode a chat; returns ids and a mask that is 1 for the assistant's tokens, which are
        trained on.

        The mask covers each answer from its first token to the token that ends its turn, and no
        header. Special tokens inside messages are text.
        """
        return self._chat.encode(self, messages, tools=tools, **variables)

    def encode_chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        check: Callable[[str], None] = lambda text: None,
        **variables: Any,
    ) -> list[int]:
        """Encode a chat up to the start of the assistant's turn: a prefix of the corresponding
        training example.

        check: called with the text before it is encoded; it may raise to reject it.
        """
        return self._chat.encode_prompt(self, messages, tools=tools, check=check, **variables)

    def with_chat_template(self, template: str | None) -> Tokenizer:
        """The same tokenizer with another chat template."""
        return Tokenizer.from_parts(replace(self.parts, chat_template=template))

    # ---- files ------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Load the tokenizer at a path or with a known name (`files.read_tokenizer`).

        `NAME_config.json` and `chat_template.jinja` next to `NAME.json` are read if they exist.
        """
        parts = files.read_tokenizer(path)
        try:
            return cls.from_parts(parts)
        except UserError as error:
            raise UserError(f"{error} (reading '{path}')") from None

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json (`files.write_tokenizer`).

        `tokenizers.Tokenizer.from_file` and `transformers.AutoTokenizer.from_pretrained` open them.
        """
        files.write_tokenizer(self.parts, folder)

    @classmethod
    def from_gpt2_files(cls, encoder_json: Path | str, vocab_bpe: Path | str) -> Tokenizer:
        """GPT-2 by the two files published with it: the vocabulary and the list of merges."""
        return cls.from_parts(files.read_gpt2(encoder_json, vocab_bpe))

    @classmethod
    def from_tiktoken(
        cls, path: Path | str, *, pattern: str, special_tokens: Mapping[str, int]
    ) -> Tokenizer:
        """A tiktoken rank file, with the pattern and the special tokens that it does not hold."""
        return cls.from_parts(read_ranks(path, pattern, special_tokens))

    def __reduce__(self) -> tuple[Any, ...]:
        # The cache stays behind: it is large, and a copy fills its own.
        return Tokenizer.from_parts, (self.parts,)


def _check_ids(vocab: Mapping[str, int]) -> None:
    """Raise UserError for ids that no file may have (see `AddedTokens`)."""
    if vocab and (min(vocab.values()) < 0 or max(vocab.values()) > 2 * len(vocab) + MAX_SPARE_IDS):
        raise UserError(
            f"the vocabulary of {len(vocab)} tokens has ids from {min(vocab.values())} to "
            f"{max(vocab.values())}; ids count up from 0"
        )


def _string(text: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"a {type(text).__name__} cannot be encoded; give a string")
    return text


def _checked(text: str) -> str:
    """The text, its surrogate pairs as the characters that they stand for; lone ones are left as they are."""
    if _string(text).isascii() or _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
