"""Much text out of a little, for measurements of memory and speed: the same every time.

Documents are sentences drawn from samples, with words that no sample holds: so many that distinct words
grow with the length of the text as they do in real text (Heaps' law), which a sample repeated would not
show. One document in eight is a copy of an earlier one with a few words changed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

FILE_BYTES = 50_000_000
# 2.3 MB of Wikipedia and C4 hold 36,000 distinct words (pattern gpt4), and with each doubling 1.5 to 1.6 times
# as many: about 1.6 million at 1 GB. Here 2 million, to be on the safe side.
WORDS_AT_THREE_MB, GROWTH = 40_000, 0.67


def read_samples(paths: list[Path]) -> list[str]:
    """The sentences of all samples: text, .jsonl with `text`, `question` or `answer`, or .json of such."""
    sentences: list[str] = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".jsonl":
            texts = [part for line in text.splitlines() for part in _strings(json.loads(line))]
        elif path.suffix == ".json":
            texts = _strings(json.loads(text))
        else:
            texts = text.splitlines()
        for part in texts:
            found = re.split(r"(?<=[.!?])\s+", part)
            sentences += [s for s in found if 4 < s.count(" ") < 80]
    return sentences


def _strings(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    if isinstance(content, dict):
        content = list(content.values())
    return [part for one in content for part in _strings(one)] if isinstance(content, list) else []


class Coined:
    """Words that no sample holds: the head of one and the tail of another, a third of them names."""

    def __init__(self, sentences: list[str], rng: random.Random) -> None:
        self.rng = rng
        words = {w for s in sentences[:200_000] for w in re.findall(r"[A-Za-z]{4,}", s)}
        self.parts = sorted(words)
        self.known = set(words)
        self.words: list[str] = []

    def new(self) -> str:
        """Another word."""
        rng = self.rng
        while True:
            head, tail = rng.choice(self.parts), rng.choice(self.parts)
            word = head[: rng.randint(2, 5)] + tail[-rng.randint(2, 5) :]
            word = word.capitalize() if rng.random() < 0.33 else word.lower()
            if word not in self.known:
                self.known.add(word)
                self.words.append(word)
                return word

    def old(self) -> str:
        """One of before, the earlier the more often."""
        return self.words[int(len(self.words) ** self.rng.random()) - 1]


def make_documents(sentences: list[str], size: int, seed: int = 0) -> Iterator[str]:
    """Documents of about `size` bytes in all."""
    rng = random.Random(seed)
    coined = Coined(sentences, rng)
    recent: list[str] = []
    written = 0
    while written < size:
        if recent and rng.random() < 1 / 8:
            words = rng.choice(recent).split(" ")
            for place in rng.sample(range(len(words)), min(3, len(words))):
                words[place] = rng.choice(words)
            text = " ".join(words)
        else:
            picked = rng.choices(sentences, k=rng.randint(10, 60))
            wanted = WORDS_AT_THREE_MB * (max(written, 1) / 3e6) ** GROWTH - WORDS_AT_THREE_MB
            missing = max(0, int(wanted) - len(coined.words))
            for _ in range(min(missing, 20)):
                place = rng.randrange(len(picked))
                picked[place] = _put(picked[place], coined.new(), rng)
            if coined.words:
                for place in range(0, len(picked), 3):
                    picked[place] = _put(picked[place], coined.old(), rng)
            text = "\n".join(" ".join(picked[i : i + 5]) for i in range(0, len(picked), 5))
            recent = [text, *recent[:99]]
        written += len(text.encode())
        yield text


def _put(sentence: str, word: str, rng: random.Random) -> str:
    """The sentence with the word at one of its spaces."""
    place = sentence.find(" ", rng.randrange(len(sentence)))
    return sentence[:place] + " " + word + sentence[place:] if place > 0 else f"{word} {sentence}"


def write_json_lines(sentences: list[str], megabytes: int, folder: Path) -> None:
    """A folder of files of 50 MB of JSON lines."""
    folder.mkdir(parents=True)
    texts = make_documents(sentences, megabytes * 1_000_000, megabytes)
    for number in count():
        size = 0
        with (folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") as stream:
            for text in texts:
                size += stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                if size >= FILE_BYTES:
                    break
            else:
                return
