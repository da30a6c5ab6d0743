"""Drawing from the story world: split by split, item by item, over any number of processes."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache

from glassbox.core.errors import UserError
from glassbox.data.storyworld.chats import make_chat, make_preference, make_problem, make_question
from glassbox.data.storyworld.choice import Redraw, Sampler
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.programs import DOCUMENT_KINDS, World, build_world, write_document
from glassbox.data.storyworld.records import (
    ArithmeticProblem,
    Chat,
    Document,
    Preference,
    Question,
    json_line,
)

Item = Document | Chat | Question | Preference | ArithmeticProblem
Progress = Callable[[int, int], None]

SPLITS = ("train", "heldout", "unseen")
KINDS = ("document", *DOCUMENT_KINDS, "chat", "question", "preference", "problem")
NUM_BUCKETS = 32
HELDOUT_BUCKET = 0
_CHUNK = 256


def bucket(opening: str) -> int:
    """Which of 32 buckets a document falls in, by the blake2b hash of its opening.

    The opening is a story's first paragraph or a problem's statement. Bucket 0 is held out, the
    others are for training: so no held-out document, nor even its opening, is ever trained on.
    """
    return hashlib.blake2b(opening.encode("utf-8"), digest_size=8).digest()[0] % NUM_BUCKETS


def _admit_train(opening: str) -> bool:
    return bucket(opening) != HELDOUT_BUCKET


def _admit_heldout(opening: str) -> bool:
    return bucket(opening) == HELDOUT_BUCKET


@lru_cache(maxsize=8)
def _world(config: StoryWorldConfig, mode: str) -> World:
    return build_world(config, mode)


def draw(config: StoryWorldConfig, kind: str, split: str, index: int) -> Item:
    """The item number `index` of a kind and split: a function of its arguments and nothing else.

    A draw that falls outside the split is drawn again. A document's `log_prob` is that of the
    generator before the split by hash, since no model can know the hash. For `unseen` it is that
    of the unrestricted generator, and only documents about a reserved pair are kept.
    Raises UserError for an unknown kind or split.
    """
    if split not in SPLITS:
        raise UserError(f"split = {split!r}: known splits are {', '.join(SPLITS)}")
    if kind not in KINDS:
        raise UserError(f"kind = {kind!r}: known kinds are {', '.join(KINDS)}")
    if split == "unseen" and kind in ("arithmetic", "problem"):
        raise UserError(f"kind = {kind!r}: split 'unseen' holds stories; ask for train or heldout")
    world = _world(config, "only" if split == "unseen" else "exclude")
    admit = {"train": _admit_train, "heldout": _admit_heldout, "unseen": None}[split]
    key = f"{config.seed}|{config.language}|{split}|{kind}|{index}".encode()
    rng = random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))
    while True:
        sampler = Sampler(rng, admit)
        try:
            return _make(world, sampler, rng, kind, split)
        except Redraw:
            continue


def _make(world: World, sampler: Sampler, rng: random.Random, kind: str, split: str) -> Item:
    if kind == "chat":
        return make_chat(world, sampler, rng, split)
    if kind == "question":
        return make_question(world, sampler, rng)
    if kind == "preference":
        return make_preference(world, sampler, rng)
    if kind == "problem":
        return make_problem(world, sampler)
    facts = write_document(world, sampler, None if kind == "document" else kind)
    return Document(sampler.text, sampler.log_prob, str(facts.pop("kind")), facts)


def _draw_chunk(
    config: StoryWorldConfig, kind: str, split: str, first: int, count: int
) -> list[Item]:
    return [draw(config, kind, split, index) for index in range(first, first + count)]


def size_bytes(item: Item) -> int:
    """UTF-8 bytes of a document's text, or of any other item's JSON line."""
    if isinstance(item, Document):
        return len(item.text.encode("utf-8"))
    return len(json_line(item.to_json()))


def generate(
    config: StoryWorldConfig,
    kind: str,
    split: str,
    *,
    count: int | None = None,
    num_bytes: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Iterator[Item]:
    """Items 0, 1, 2, ... of a kind and split, the same for any number of workers.

    Stops after `count` items, or with the item that reaches `num_bytes` (see `size_bytes`),
    whichever is given; both is an error. `progress(done, total)` counts in the same unit.
    With more than one worker, processes are spawned: call it under `if __name__ == "__main__"`.
    """
    if (count is None) == (num_bytes is None):
        raise UserError(f"count = {count}, num_bytes = {num_bytes}: give one of the two")
    if workers < 1:
        raise UserError(f"workers = {workers}: give 1 or more")
    total = count if count is not None else num_bytes
    assert total is not None
    done = 0
    chunks = _chunks(config, kind, split, count, workers)
    try:
        for chunk in chunks:
            for item in chunk:
                done += 1 if count is not None else size_bytes(item)
                yield item
                if done >= total:
                    break
            if progress is not None:
                progress(min(done, total), total)
            if done >= total:
                return
    finally:
        chunks.close()


def _chunks(
    config: StoryWorldConfig, kind: str, split: str, count: int | None, workers: int
) -> Generator[list[Item], None, None]:
    starts = itertools.count(0, _CHUNK) if count is None else range(0, count, _CHUNK)
    calls = (
        (config, kind, split, start, _CHUNK if count is None else min(_CHUNK, count - start))
        for start in starts
    )
    if workers == 1 or (count is not None and count <= _CHUNK):
        for call in calls:
            yield _draw_chunk(*call)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[list[Item]]] = deque()
        try:
            for call in itertools.islice(calls, 2 * workers):
                waiting.append(pool.submit(_draw_chunk, *call))
            while waiting:
                yield waiting.popleft().result()
                for call in itertools.islice(calls, 1):
                    waiting.append(pool.submit(_draw_chunk, *call))
        finally:
            for future in waiting:
                future.cancel()
