"""Chat sessions: message history, prompts that fit the context, streamed answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glassbox.core.errors import UserError
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.randomness import derive_seed

if TYPE_CHECKING:
    from glassbox.inference.engine import Engine
    from glassbox.tokenizers.tokenizer import Tokenizer

Message = dict[str, str]


class ChatSession:
    """A multi-turn chat with one model.

    `history` has all messages. The prompt is the system message and as many of the latest turns as
    leave room for an answer of min(max_tokens, half the context) tokens.
    adapter: the name of a loaded adapter; None for the base model.
    Raises UserError if the tokenizer has no chat template.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        system: str | None = None,
        params: SamplingParams | None = None,
        adapter: str | None = None,
    ) -> None:
        self.engine = engine
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.system: Message | None = (
            None if system is None else {"role": "system", "content": system}
        )
        self.params = ChatPrompts(tokenizer).params(SamplingParams() if params is None else params)
        self.history: list[Message] = []
        self.first_sent = 0

    def send(self, text: str) -> Iterator[str]:
        """Send a message and stream the answer, which is added to the history at its end.

        If the iterator is closed, the partial answer is added; if it is closed before the first
        token, neither question nor answer is. Raises UserError if the message is too long.
        """
        question = {"role": "user", "content": text}
        prompt, first = self._prompt(question)
        params = self.params
        if params.seed is not None:
            turn_seed = derive_seed(params.seed, len(self.history))
            params = params.model_copy(update={"seed": turn_seed})
        return self._answer(question, prompt, first, params)

    def _answer(
        self, question: Message, prompt: list[int], first: int, params: SamplingParams
    ) -> Iterator[str]:
        said: list[str] = []
        begun = False
        try:
            for event in self.engine.stream(prompt, params, adapter=self.adapter):
                begun = True
                if event.text:
                    said.append(event.text)
                    yield event.text
        finally:
            if begun:
                self.first_sent = first
                self.history += [question, {"role": "assistant", "content": "".join(said)}]

    def undo(self) -> None:
        """Remove the last turn."""
        while self.history and self.history.pop()["role"] != "user":
            pass
        self.first_sent = min(self.first_sent, len(self.history))

    def reset(self) -> None:
        """Remove everything except the system message."""
        self.history.clear()
        self.first_sent = 0

    def _prompt(self, question: Message) -> tuple[list[int], int]:
        """Token ids of the turns that fit, and the index in the history of the first one."""
        context = self.engine.context_length
        room = context - min(self.params.max_tokens, context // 2)
        first = self.first_sent
        while True:
            opening = [] if self.system is None else [self.system]
            messages = [*opening, *self.history[first:], question]
            ids = self.tokenizer.encode_chat_prompt(messages)
            if len(ids) <= room:
                return ids, first
            if first >= len(self.history):
                if len(ids) < context:  # leave room for a shorter answer
                    return ids, first
                raise UserError(
                    f"the message comes to {len(ids)} tokens with the system message; the model's "
                    f"context is {context}: shorten it"
                )
            first = self._next_turn(first)

    def _next_turn(self, first: int) -> int:
        """Index of the turn after the one at `first`."""
        later = range(first + 1, len(self.history))
        return next((i for i in later if self.history[i]["role"] == "user"), len(self.history))


class ChatPrompts:
    """Token ids and stop tokens for chats with a model.

    Called with messages and sampling settings, it returns the ids of the chat up to the answer, and
    the settings with the template's end-of-turn token among the stop tokens: `<|im_end|>` in our
    template, `<end_of_turn>` in Gemma's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.stop_token_ids = tuple(end_of_turn_ids(tokenizer))

    def ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a chat and the header of the assistant's turn."""
        return self.tokenizer.encode_chat_prompt([dict(message) for message in messages])

    def params(self, params: SamplingParams) -> SamplingParams:
        """The settings with the template's end-of-turn token as a stop token."""
        ends = {*params.stop_token_ids, *self.stop_token_ids}
        return params.model_copy(update={"stop_token_ids": tuple(sorted(ends))})

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams
    ) -> tuple[list[int], SamplingParams]:
        """Ids and settings of one request."""
        return self.ids(messages), self.params(params)


def end_of_turn_ids(tokenizer: Tokenizer) -> list[int]:
    """The control token that ends an answer in the chat template, such as `<|im_end|>`; [] if there
    is none.
    """
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    ids, mask = tokenizer.encode_chat(chat)
    learned = [token for token, flag in zip(ids, mask, strict=True) if flag]
    return [t for t in learned[-1:] if t in tokenizer.special_tokens.values()]
