"""Catalogue of named data sets: content, source, size and licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "chats", "pairs", "problems"]


@dataclass(frozen=True)
class NamedSet:
    """An entry of the catalogue.

    hub: `owner/name` of a data set on the hub, or `owner/name/folder`, whose files have checksums.
        url, sha256: a file elsewhere instead. split: the default split. megabytes: approximate size
        of the download.
    """

    name: str
    kind: Kind
    about: str
    megabytes: float
    licence: str
    hub: str = ""
    split: str = "train"
    url: str = ""
    sha256: str = ""

    @property
    def where(self) -> str:
        """Where it comes from, in a word."""
        return f"hf:{self.hub}" if self.hub else self.url


_RAW = "https://raw.githubusercontent.com"

_SETS = (
    NamedSet(
        "tinystories", "text", "2.1 million stories in the words of small children, by GPT-3.5 and GPT-4 "
        "(arXiv:2305.07759)", 1_000, "CDLA-Sharing-1.0", hub="roneneldan/TinyStories",
    ),
    NamedSet(
        "tinyshakespeare", "text", "40,000 lines of Shakespeare in one file", 1.1, "public domain",
        url=f"{_RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    NamedSet(
        "the-verdict", "text", "a short story by Edith Wharton (1908)", 0.02, "public domain",
        url=f"{_RAW}/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
        sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
    NamedSet(
        "wikitext-2", "text", "good articles of Wikipedia, 2 million words (arXiv:1609.07843)", 7,
        "CC-BY-SA-3.0", hub="Salesforce/wikitext/wikitext-2-raw-v1",
    ),
    NamedSet(
        "wikitext-103", "text", "the same, 103 million words", 310, "CC-BY-SA-3.0",
        hub="Salesforce/wikitext/wikitext-103-raw-v1",
    ),
    NamedSet(
        "fineweb-edu", "text", "10 billion tokens of educational web pages (arXiv:2406.17557)", 28_500,
        "ODC-By-1.0", hub="HuggingFaceFW/fineweb-edu/sample/10BT",
    ),
    NamedSet(
        "fineweb-edu-part", "text", "the first file of the same: about 700 million tokens", 2_150,
        "ODC-By-1.0", hub="HuggingFaceFW/fineweb-edu/sample/10BT/000_00000.parquet",
    ),
    NamedSet(
        "openwebtext", "text", "8 million pages that Reddit linked to, after GPT-2's WebText", 24_000,
        "CC0-1.0", hub="Skylion007/openwebtext",
    ),
    NamedSet(
        "alpaca", "chats", "52,002 instructions with answers by text-davinci-003", 24, "CC-BY-NC-4.0",
        hub="tatsu-lab/alpaca",
    ),
    NamedSet(
        "alpaca-cleaned", "chats", "the same with mistakes mended", 44, "CC-BY-4.0",
        hub="yahma/alpaca-cleaned",
    ),
    NamedSet(
        "ultrachat", "chats", "200,000 conversations of several turns (arXiv:2305.14233)", 740, "MIT",
        hub="HuggingFaceH4/ultrachat_200k", split="train_sft",
    ),
    NamedSet(
        "no-robots", "chats", "10,000 instructions and answers written by people", 11, "CC-BY-NC-4.0",
        hub="HuggingFaceH4/no_robots",
    ),
    NamedSet(
        "hh", "pairs", "161,000 pairs, helpful and harmless (arXiv:2204.05862)", 90, "MIT",
        hub="Anthropic/hh-rlhf",
    ),
    NamedSet(
        "ultrafeedback", "pairs", "61,000 pairs judged by GPT-4 (arXiv:2310.01377)", 225, "MIT",
        hub="HuggingFaceH4/ultrafeedback_binarized", split="train_prefs",
    ),
    NamedSet(
        "gsm8k", "problems", "7,473 sums in words, with their solutions (arXiv:2110.14168)", 2.3, "MIT",
        hub="openai/gsm8k/main",
    ),
)  # fmt: skip

CATALOGUE = {entry.name: entry for entry in _SETS}
"""Every named set."""
