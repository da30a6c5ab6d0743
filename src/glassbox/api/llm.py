"""`glassbox.LLM`: batched and streaming generation from Python."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.formats.open_model import open_on
from glassbox.inference.chat import ChatPrompts
from glassbox.inference.engine import Completion, Engine, TokenEvent
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.scoring import embed
from glassbox.layers.wide_weights import NARROW
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


@dataclass(eq=False)
class _Asked:
    """A streaming request: its id once the engine has assigned one, and whether the consumer has
    closed the stream.
    """

    queue: asyncio.Queue[TokenEvent | Exception] = field(default_factory=asyncio.Queue)
    number: int | None = None
    gone: bool = False


class LLM:
    """A model, its tokenizer and an engine, for batched and streaming generation.

    model: what commands accept as MODEL (a run, a checkpoint, a folder, a file, a name). Options
        other than `device`, `code` and `quantize` (see `glassbox.load`) are those of `Engine`.
        The prefix cache is kept between calls, so that earlier turns of a chat and common prefixes
        are prefilled once. Calls from several threads wait for each other; concurrent `stream`s
        share one batch.
    dtype: bfloat16 or float16: the weights are read in it and kept in it, so that no step casts
        them; other values are the engine's. `LLM.of` leaves the weights of its model as they are
        and runs a narrower dtype under autocast.
        Tested against: `glassbox.load` with that dtype.
    Raises UserError if there is no such model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        code: Sequence[str] = (),
        quantize: str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        weights = dtype if dtype in NARROW else None
        loaded, tokenizer, _ = open_on(model, device, code=code, quantize=quantize, dtype=weights)
        if weights is None:
            options["dtype"] = dtype
        self._set_up(loaded, tokenizer, options)

    @classmethod
    def of(cls, model: CausalLM, tokenizer: Tokenizer, **options: Any) -> LLM:
        """Create an LLM from a model and a tokenizer in memory."""
        new = cls.__new__(cls)
        new._set_up(model.eval(), tokenizer, options)
        return new

    def _set_up(self, model: CausalLM, tokenizer: Tokenizer, options: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.engine = Engine(model, tokenizer, **{"keep_prefixes": True, **options})
        self._guard = threading.RLock()  # the engine serves one thread at a time
        self._queues: dict[int, asyncio.Queue[TokenEvent | Exception]] = {}
        self._pump: asyncio.Task[None] | None = None

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """Generate completions of texts or token ids as a batch, n for each prompt, in the order of
        the prompts.

        adapter: the name of a loaded adapter (`adapters` option), for all prompts or one for each;
            None for the base model.
        """
        many = [prompts] if isinstance(prompts, str) else list(prompts)
        with self._guard:
            ids = [self._ids(prompt) for prompt in many]
            return self.engine.generate(ids, params, adapter=adapter)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Generate the next turn of one or several conversations, as a batch."""
        if not messages:
            raise UserError("a conversation without messages; give at least one")
        single = isinstance(messages[0], Mapping)
        chats: Any = [messages] if single else messages
        ids = [self.tokenizer.encode_chat_prompt(chat) for chat in chats]
        with self._guard:
            return self.engine.generate(ids, self._for_chat(params), adapter=adapter)

    async def stream(
        self,
        prompt: Prompt | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """Generate one answer (or params.n) to a text, token ids or a conversation, token by token.

        adapter: the name of a loaded adapter; None for the base model.
        Streams that are open at the same time share every step. Closing a stream frees its cache.
        """
        if prompt and isinstance(prompt[0], Mapping):
            chat: Any = prompt
            ids, params = self.tokenizer.encode_chat_prompt(chat), self._for_chat(params)
        else:
            ids = self._ids(prompt)  # type: ignore[arg-type]
        left = 1 if params is None else params.num_samples
        asked = _Asked()
        try:
            await asyncio.to_thread(self._add, ids, params, adapter, asked)
            queue = asked.queue
            while left:
                if self._pump is None or self._pump.done():
                    self._pump = asyncio.get_running_loop().create_task(self._run())
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if event.error is not None:
                    raise UserError(event.error)
                yield event
                left -= event.finish_reason is not None
        finally:
            if self._guard.acquire(blocking=False):
                try:
                    self._leave(asked)
                finally:
                    self._guard.release()
            else:  # a step is under way, and the loop has others to serve while it lasts
                await asyncio.shield(asyncio.to_thread(self._leave, asked))

    def embed(
        self, texts: str | Sequence[Prompt], *, adapter: str | None = None
    ) -> Float[Tensor, "N D"]:
        """Embed texts: the mean of the final hidden states of a text's tokens, normalized to unit
        length (L2).

        adapter: the name of a loaded adapter; None for the base model.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        model = self.engine.model
        vectors = torch.empty(len(many), model.config.hidden_size)
        with self._guard:
            for places, batch in embed(model, [self._ids(text) for text in many], adapter=adapter):
                vectors[places] = batch
        return vectors

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _for_chat(self, params: SamplingParams | None) -> SamplingParams:
        """The same settings, with the end-of-turn token as a stop token."""
        params = SamplingParams() if params is None else params
        return ChatPrompts(self.tokenizer).params(params)

    def _add(
        self, ids: list[int], params: SamplingParams | None, adapter: str | None, asked: _Asked
    ) -> None:
        """Queue the request (in another thread); the stream may have been closed before the lock is
        acquired.
        """
        with self._guard:
            if not asked.gone:
                asked.number = self.engine.add(ids, params, adapter=adapter)
                self._queues[asked.number] = asked.queue  # before anybody's step can answer it

    def _leave(self, asked: _Asked) -> None:
        with self._guard:
            asked.gone = True
            if asked.number is not None:
                del self._queues[asked.number]
                self.engine.cancel(asked.number)

    def _step(self) -> list[TokenEvent]:
        with self._guard:
            return self.engine.step()

    async def _run(self) -> None:
        """Step while any stream is open; the event loop is not blocked while the model computes."""
        try:
            while self._queues:
                events = await asyncio.to_thread(self._step)
                for event in events:
                    queue = self._queues.get(event.request_id)  # another thread takes them out
                    if queue is not None:
                        queue.put_nowait(event)
                if not events and not self.engine.has_work:
                    return
        except Exception as error:
            for queue in list(self._queues.values()):
                queue.put_nowait(error)
