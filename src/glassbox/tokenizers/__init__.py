"""Text to ids and back: byte-pair encoding, WordPiece, Unigram, characters; chat templates."""

from glassbox.tokenizers.added_tokens import AddedToken, AllowSpecial
from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, train_bpe, train_bpe_plain
from glassbox.tokenizers.characters import train_characters
from glassbox.tokenizers.chat import DEFAULT_CHAT_TEMPLATE, ChatTemplate, Message
from glassbox.tokenizers.merge_learning import Progress
from glassbox.tokenizers.patterns import PATTERNS, PreTokenizer
from glassbox.tokenizers.streaming import StreamDecoder
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.training import KINDS, train_tokenizer
from glassbox.tokenizers.unigram_training import train_unigram
from glassbox.tokenizers.wordpiece_training import train_wordpiece

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "KINDS",
    "PATTERNS",
    "SPECIAL_TOKENS",
    "AddedToken",
    "AllowSpecial",
    "ChatTemplate",
    "Message",
    "PreTokenizer",
    "Progress",
    "StreamDecoder",
    "Tokenizer",
    "train_bpe",
    "train_bpe_plain",
    "train_characters",
    "train_tokenizer",
    "train_unigram",
    "train_wordpiece",
]
