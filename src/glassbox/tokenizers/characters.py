"""A tokenizer whose tokens are characters, made from text in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from glassbox.core.errors import UserError
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, roles_and_template
from glassbox.tokenizers.char_bpe import CharacterModel
from glassbox.tokenizers.merge_learning import Progress
from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.sentencepiece import byte_piece
from glassbox.tokenizers.tokenizer import Tokenizer

UNKNOWN = "<unk>"
POLICIES = ("bytes", "token", "error")


def train_characters(
    texts: Iterable[str],
    vocab_size: int | None = None,
    *,
    unknown: str = "bytes",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    progress: Progress | None = None,
) -> Tokenizer:
    """Every character of the texts a token; with `vocab_size` only the most frequent ones.

    unknown: what becomes of another character. "bytes": its bytes, which are 256 tokens more, so that
    any text comes back; "token": the token `<unk>`; "error": UserError. Ids: the special tokens, what
    `unknown` adds, then the characters by code point. Raises UserError for a `vocab_size` without room.
    Tested against: `tokenizers` opening the file, the same ids.
    """
    if unknown not in POLICIES:
        raise UserError(f"unknown = {unknown!r}; use one of {', '.join(POLICIES)}")
    counts: Counter[str] = Counter()
    done = 0
    for text in texts:
        counts.update(text)
        done += len(text)
        if progress is not None:
            progress("count words", done, None)
    more = [UNKNOWN] if unknown == "token" else []
    if unknown == "bytes":
        more = [byte_piece(byte) for byte in range(256)]
    special = [*special_tokens, *more] if unknown == "token" else list(special_tokens)
    if any(len(token) < 2 for token in special):
        raise UserError("special_tokens holds one of fewer than two characters; use longer ones")
    room = len(counts) if vocab_size is None else vocab_size - len(special_tokens) - len(more)
    if room < 1:
        raise UserError(
            f"vocab_size = {vocab_size} has no room for characters: {len(special_tokens)} special "
            f"tokens and {len(more)} for unknown characters come first"
        )
    kept = sorted(counts, key=lambda char: (-counts[char], char))[:room]
    tokens = [*special_tokens, *more, *sorted(kept)]
    vocab = {token: number for number, token in enumerate(tokens)}
    model = CharacterModel(
        vocab,
        unknown=UNKNOWN if unknown == "token" else None,
        byte_fallback=unknown == "bytes",
        hidden=frozenset(special),
    )
    # Each character is a word, so that no cache holds whole texts.
    alone = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    roles, template = roles_and_template(special_tokens)
    if unknown == "token":
        roles["unk_token"] = UNKNOWN
    return Tokenizer(
        model,
        Processing(None, alone, {"type": "Sequence", "decoders": steps}),
        [AddedToken(token, vocab[token]) for token in special],
        roles=roles,
        chat_template=template,
    )
