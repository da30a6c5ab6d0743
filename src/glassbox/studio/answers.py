"""Answers under way: made in the model's thread, watched by any number of pages, saved as they grow."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from glassbox.core.errors import UserError
from glassbox.inference.chat import ChatPrompts
from glassbox.inference.detokenizer import TextStream
from glassbox.inference.plan import QueueFull
from glassbox.inference.requests import TokenEvent
from glassbox.inference.sampling.params import SamplingParams
from glassbox.serving.errors import ApiError, shutting_down
from glassbox.serving.token_log_probs import LEAST, token_bytes, token_text
from glassbox.serving.worker import Closed, Failure, Item, Job, Result, Token
from glassbox.studio.bodies import Changes
from glassbox.studio.inside import ChangedSteps
from glassbox.studio.models import Opened
from glassbox.studio.store import Json, Store
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.prefix import text_prefix

NUM_ALTERNATIVES = 10
_SAVE_SECONDS = 1.0
_log = logging.getLogger("glassbox.serving")


@dataclass(frozen=True)
class Prompt:
    """What a model reads: token ids, and how many turns were left out for want of context."""

    ids: list[int]
    left_out: int = 0


def build_prompt(
    opened: Opened,
    branch: Sequence[Mapping[str, Any]],
    system: str,
    max_tokens: int,
    *,
    plain: bool = False,
) -> Prompt:
    """The prompt of a branch that ends with the user's turn.

    With a chat template: the system message and as many of the latest turns as leave room for an
    answer of min(max_tokens, half the context). Without one, or where `plain`: the texts one after the
    other, to be continued. Raises UserError where the last turn alone is too long.
    """
    tokenizer, context = opened.tokenizer, opened.engine.context_length
    if plain or tokenizer.chat_template is None:
        text = "".join(str(message["content"]) for message in branch)
        ids = [*text_prefix(tokenizer), *tokenizer.encode(text)]
        if len(ids) >= context:
            raise UserError(f"the text has {len(ids)} tokens; the context is {context}: shorten it")
        return Prompt(ids or [tokenizer.eos_id])
    prompts = ChatPrompts(tokenizer)
    opening = [{"role": "system", "content": system}] if system else []
    turns = [{"role": one["role"], "content": one["content"]} for one in branch]
    room = context - min(max_tokens, context // 2)
    first = 0
    while True:
        ids = prompts.ids([*opening, *turns[first:]])
        following = next(
            (i for i in range(first + 1, len(turns)) if turns[i]["role"] == "user"), None
        )
        if len(ids) <= room or following is None:
            break
        first = following
    if len(ids) >= context:
        raise UserError(
            f"the message comes to {len(ids)} tokens; the context of {opened.name} is {context}: "
            "shorten it"
        )
    return Prompt(ids, first)


@dataclass
class Growing:
    """An answer under way. `tokens` only grows; whoever watches keeps a place in it.

    A token: i its id, t the text it adds, s its own name where that differs, l its log-probability,
    h the entropy, a the likeliest as [id, name, log-probability], m milliseconds since the one
    before, e whether it ended the answer, f whether it was chosen by hand.
    """

    message: str
    chat: str
    prompt: list[int]
    text: TextStream
    tokens: list[Json] = field(default_factory=list)
    status: str = "running"
    note: str | None = None
    job: Job | None = None
    latest: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(token["t"] for token in self.tokens)


def describe(tokenizer: Tokenizer, event: TokenEvent, text: str, milliseconds: float) -> Json:
    """A token as JSON for the page."""
    name = token_text(token_bytes(tokenizer, event.token_id))
    found: Json = {
        "i": event.token_id,
        "t": text,
        "l": None if event.log_prob is None else round(max(event.log_prob, LEAST), 6),
        "h": None if event.entropy is None else round(event.entropy, 6),
        "m": round(milliseconds, 2),
        "a": [
            [token, token_text(token_bytes(tokenizer, token)), round(max(value, LEAST), 6)]
            for token, value in event.top_log_probs or ()
        ],
    }
    if name != text:
        found["s"] = name
    if event.is_end:
        found["e"] = 1
    return found


class Answers:
    """All answers under way. Each is saved every second and at its end; a page that is closed or
    reloaded changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._growing: dict[str, Growing] = {}
        self._lock = threading.Lock()
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="save-answers")
        self._changed: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def close(self) -> None:
        """Stop all and wait until they are saved."""
        for one in list(self._growing.values()):
            self._finish(one, "interrupted", None)
        self._saver.shutdown(wait=True)

    @property
    def running(self) -> list[str]:
        """Ids of the messages under way."""
        return list(self._growing)

    def begin(
        self,
        opened: Opened,
        chat: str,
        parent: str,
        *,
        sampling: Mapping[str, Any],
        system: str = "",
        plain: bool = False,
        kept: Sequence[Json] = (),
        changes: Changes | None = None,
    ) -> Json:
        """Begin an answer to the user's turn `parent`; the new message.

        plain: the text is continued without the chat template.
        kept: tokens that it begins with, from another answer; the model goes on from them.
        changes: parts of the model that are switched off or steered for this answer alone.
        Raises UserError for settings and prompts that do not fit, ApiError 429 where the queue is full.
        """
        seed = sampling.get("seed")
        params = SamplingParams.model_validate(
            {
                **sampling,
                "seed": secrets.randbits(48) if seed is None else seed,
                "logprobs": True,
                "top_logprobs": NUM_ALTERNATIVES,
            }
        )
        prompt = build_prompt(
            opened, self._store.branch(parent), system, params.max_tokens, plain=plain
        )
        asked = params
        if opened.tokenizer.chat_template is not None and not plain:
            asked = ChatPrompts(opened.tokenizer).params(params)
        request = {
            "sampling": params.model_dump(mode="json", exclude_defaults=True),
            "system": system,
            "left_out": prompt.left_out,
            "kept": len(kept),
            **({"plain": True} if plain else {}),
            **({} if changes is None else {"changes": changes.model_dump(mode="json")}),
        }
        text = TextStream(opened.tokenizer, params.stop)
        for token in kept:
            text.push(token["i"])
        added = self._store.add_message(
            chat, parent, "assistant", "".join(token["t"] for token in kept),
            model=opened.name, status="running", request=request, prompt=prompt.ids, tokens=kept,
        )  # fmt: skip
        one = Growing(added["id"], chat, prompt.ids, text, list(kept))
        ids = [*prompt.ids, *(token["i"] for token in kept)]

        def deliver(item: Item) -> None:
            self._take(one, opened.tokenizer, item)

        if changes is None:
            one.job = Job([(ids, asked)], deliver)
        else:
            steps = ChangedSteps(opened, ids, asked, changes)
            one.job = Job([], deliver, work=steps())
        with self._lock:
            self._growing[one.message] = one
        try:
            opened.service.worker.submit(one.job)
        except QueueFull:
            self._finish(one, "failed", "the queue is full; try again later")
            raise ApiError(429, "the queue is full; try again later") from None
        except Closed:
            self._finish(one, "failed", "the model was closed")
            raise shutting_down() from None
        return self._store.message(one.message)

    def stop(self, opened: Opened, message: str) -> None:
        """Stop an answer; what it has so far stays. Nothing happens to one that has ended."""
        one = self._growing.get(message)
        if one is not None and one.job is not None:
            self._finish(one, "stopped", None)
            opened.service.worker.abort(one.job)

    # ---- in the engine's thread ----------------------------------------------------------------

    def _take(self, one: Growing, tokenizer: Tokenizer, item: Item) -> None:
        if one.status != "running":
            return
        if isinstance(item, Failure):
            self._finish(one, "failed", item.message)
            return
        if isinstance(item, Result):  # steps of a changed model
            for event in item.value:
                self._add(one, tokenizer, event)
        elif isinstance(item, Token):
            self._add(one, tokenizer, item.event)
        else:
            self._finish(one, "done", None)

    def _add(self, one: Growing, tokenizer: Tokenizer, event: TokenEvent) -> None:
        if event.finish_reason == "error":
            self._finish(one, "failed", event.error)
            return
        now = time.monotonic()
        text = "" if event.is_end else one.text.push(event.token_id)
        if event.finish_reason is not None:
            text += one.text.flush()
        one.tokens.append(describe(tokenizer, event, text, 1000 * (now - one.latest)))
        one.latest = now
        if event.finish_reason is not None:
            self._finish(one, "done", event.finish_reason)
        elif now - one.saved > _SAVE_SECONDS:
            one.saved = now
            self._save(one)
        self._tell()

    def _finish(self, one: Growing, status: str, note: str | None) -> None:
        with self._lock:
            if one.status != "running":
                return
            one.status, one.note = status, note
        done = self._save(one)
        done.add_done_callback(lambda _: self._growing.pop(one.message, None))
        self._tell()

    def _save(self, one: Growing) -> Any:
        count = len(one.tokens)
        return self._saver.submit(self._write, one, one.tokens[:count], one.status, one.note)

    def _write(self, one: Growing, tokens: list[Json], status: str, note: str | None) -> None:
        try:
            self._store.save_answer(
                one.message,
                content="".join(token["t"] for token in tokens),
                status=status,
                note=note,
                prompt=one.prompt,
                tokens=tokens,
            )
        except UserError as error:
            one.note = str(error)
            _log.error("an answer could not be saved: %s", error)

    def _tell(self) -> None:
        for loop, event in list(self._changed):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    # ---- for pages -----------------------------------------------------------------------------

    async def watch(self, chat: str, seen: Mapping[str, int]) -> AsyncIterator[list[Json]]:
        """What is new in a chat's answers, until none is under way.

        seen: message -> how many of its tokens the page has; the rest comes first, also of answers
        that have ended meanwhile.
        """
        place = dict(seen)
        told: set[str] = set()
        changed = asyncio.Event()
        entry = (asyncio.get_running_loop(), changed)
        self._changed.add(entry)
        try:
            while True:
                changed.clear()
                with self._lock:
                    live = {k: one for k, one in self._growing.items() if one.chat == chat}
                news = []
                for number in [k for k in place if k not in live and k not in told]:
                    message = await asyncio.to_thread(self._store.message, number)
                    told.add(number)
                    news.append(
                        _news(number, message["tokens"], place[number], message["status"], message["note"])
                    )  # fmt: skip
                for number, one in live.items():
                    status, note = one.status, one.note
                    tokens = one.tokens[: len(one.tokens)]
                    if number in told:
                        continue
                    if len(tokens) > place.get(number, 0) or status != "running":
                        news.append(_news(number, tokens, place.get(number, 0), status, note))
                    place[number] = len(tokens)
                    if status != "running":
                        told.add(number)
                if news:
                    yield news
                if all(number in told for number in live):
                    return
                await changed.wait()
        finally:
            self._changed.discard(entry)


def _news(message: str, tokens: list[Json], first: int, status: str, note: str | None) -> Json:
    return {
        "message": message,
        "first": first,
        "tokens": tokens[first:],
        "status": status,
        "note": note,
    }
