"""A conversation keeps its history, fits the context, and ends its turns."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.inference.chat import ChatSession, end_of_turn_ids
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.chat import DEFAULT_CHAT_TEMPLATE
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer

IM_END = 258


def tokenizer(template: str | None = DEFAULT_CHAT_TEMPLATE) -> Tokenizer:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Tokenizer(
        BytePairModel({char: i for i, char in enumerate(BYTE_TO_CHAR)}, []),
        PreTokenizer.named("gpt2"),
        [AddedToken(name, 256 + i) for i, name in enumerate(names)],
        roles={"eos_token": "<|endoftext|>"},
        chat_template=template,
    )


class Recorder(Engine):
    """An engine that remembers the prompts it was given."""

    prompts: list[list[int]]

    def stream(self, prompt, params=None, **options):
        self.prompts.append(list(prompt))
        return super().stream(prompt, params, **options)


def engine(context_length: int = 256) -> Recorder:
    mixer = GroupedQuery(num_heads=2, positions=Rotary())
    config = ModelConfig(
        vocab_size=259,
        hidden_size=16,
        context_length=context_length,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=SwiGlu(size=16)), times=1)],
    )
    model = CausalLM(config).double()
    model.initialize(torch.Generator().manual_seed(0))
    made = Recorder(model, tokenizer())
    made.prompts = []
    return made


def test_the_turn_ends_with_the_token_that_the_template_ends_answers_with():
    assert end_of_turn_ids(tokenizer()) == [IM_END]
    other = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    assert end_of_turn_ids(tokenizer(other)) == [256]
    none = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert end_of_turn_ids(tokenizer(none)) == []
    session = ChatSession(engine(), tokenizer(), params=SamplingParams(stop_token_ids=(7,)))
    assert session.params.stop_token_ids == (7, IM_END)


def test_turns_join_the_history_and_are_read_again():
    used = engine()
    params = SamplingParams(max_tokens=6, seed=1)
    session = ChatSession(used, tokenizer(), system="Be brief.", params=params)
    first = "".join(session.send("Hello"))
    second = "".join(session.send("And now?"))
    assert session.history == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": second},
    ]
    system = {"role": "system", "content": "Be brief."}
    expected = tokenizer().encode_chat_prompt([system, *session.history[:3]])
    assert used.prompts[1] == expected
    repeated = ChatSession(used, tokenizer(), system="Be brief.", params=params)
    assert ["".join(repeated.send(text)) for text in ("Hello", "And now?")] == [first, second]
    session.undo()
    assert len(session.history) == 2
    session.reset()
    assert session.history == []
    assert session.system == system
    session.undo()


def test_the_oldest_turns_leave_first_and_the_system_message_never():
    used = engine(context_length=200)
    params = SamplingParams(max_tokens=8, temperature=0)
    session = ChatSession(used, tokenizer(), system="Stay.", params=params)
    for i in range(6):
        list(session.send(f"turn {i}, a question longer than its answer"))
        text = tokenizer().decode(used.prompts[-1])
        assert len(used.prompts[-1]) + 8 <= 200
        assert text.startswith("<|im_start|>system\nStay.<|im_end|>\n<|im_start|>user\nturn")
        assert f"turn {i}, a question longer than its answer<|im_end|>" in text
        kept = [j for j in range(i + 1) if f"turn {j}" in text]
        assert kept == list(range(kept[0], i + 1))  # the latest ones, without a gap
    assert kept[0] > 0
    assert len(session.history) == 12  # nothing said is forgotten


def test_a_message_too_long_is_refused_and_leaves_no_trace():
    session = ChatSession(engine(context_length=64), tokenizer(), system="Stay.")
    with pytest.raises(UserError, match="the model's context is 64: shorten it"):
        session.send("x" * 80)
    assert session.history == []
    list(session.send("hi"))  # little room, but some
    assert len(session.history) == 2


def test_an_answer_broken_off_is_kept_as_far_as_it_got():
    params = SamplingParams(max_tokens=50, seed=3, ignore_eos=True)
    session = ChatSession(engine(), tokenizer(), params=params)
    never_begun = session.send("Hello")
    never_begun.close()
    assert session.history == []
    stream = session.send("Hello")
    said = next(stream)
    stream.close()
    assert session.history[-1] == {"role": "assistant", "content": said}


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(UserError, match="chat_template"):
        ChatSession(engine(), tokenizer(None))
