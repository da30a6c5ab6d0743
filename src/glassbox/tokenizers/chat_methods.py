"""What a tokenizer does with chats; a part of `Tokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from glassbox.core.errors import UserError
from glassbox.tokenizers.chat import ChatTemplate, Message

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer


class Chats:
    """Chats as text and as ids, by the tokenizer's template and special tokens."""

    roles: dict[str, str]
    _chat_template: str | Mapping[str, str] | None

    def _whole(self) -> Tokenizer:
        return cast("Tokenizer", self)

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        """The Jinja source of the chat template, or several by name."""
        return self._chat_template

    @cached_property
    def _chat(self) -> ChatTemplate:
        if self._chat_template is None:
            raise UserError("the tokenizer has no chat_template; add one to tokenizer_config.json")
        return ChatTemplate(self._chat_template, special_strings=self.roles)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A chat as one text. For ids use `encode_chat`: in a text, users' words can pass for control.

        Tested against: transformers' `apply_chat_template`.
        """
        return self._chat.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole chat, and 1 where a token is to be learned: what the assistant says.

        The mask covers each answer from its first token to the token that ends its turn, and no
        header. Special tokens inside messages are text.
        """
        return self._chat.encode(self._whole(), messages, tools=tools, **variables)

    def encode_chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Ids of a chat up to where the assistant is to speak: a prefix of what it was trained on."""
        return self._chat.encode_prompt(self._whole(), messages, tools=tools, **variables)
