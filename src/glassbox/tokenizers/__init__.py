"""Text to ids and back: byte-level BPE, pre-tokenization, chat templates."""

from glassbox.tokenizers.bpe_training import SPECIAL_TOKENS, Progress, train_bpe, train_bpe_plain
from glassbox.tokenizers.chat import DEFAULT_CHAT_TEMPLATE, ChatTemplate, Message
from glassbox.tokenizers.patterns import PATTERNS, PreTokenizer
from glassbox.tokenizers.streaming import StreamDecoder
from glassbox.tokenizers.tokenizer import Tokenizer
from glassbox.tokenizers.tokenizer_json import AddedToken

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "PATTERNS",
    "SPECIAL_TOKENS",
    "AddedToken",
    "ChatTemplate",
    "Message",
    "PreTokenizer",
    "Progress",
    "StreamDecoder",
    "Tokenizer",
    "train_bpe",
    "train_bpe_plain",
]
