"""`glassbox.LLM`: the engine with text at both ends, and streams that share their steps."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
import torch

import glassbox
from glassbox.core.errors import UserError
from glassbox.inference.engine import Engine
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_chat_model(TOKENIZER).double().eval()
GREEDY = glassbox.SamplingParams(max_tokens=8, temperature=0)
SEEDED = glassbox.SamplingParams(max_tokens=8, seed=3)


def llm() -> glassbox.LLM:
    return glassbox.LLM.of(MODEL, TOKENIZER, block_size=4)


def test_importing_the_package_imports_no_torch():
    code = "import sys, glassbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nonsense"):
        glassbox.nonsense  # noqa: B018


def test_answers_equal_the_engines_also_from_kept_prefixes():
    ours, prompts = llm(), ["The fox", "The fox found", "A girl asked the fox"]
    expected = Engine(MODEL, TOKENIZER).complete(prompts, GREEDY)
    assert ours.generate(prompts, GREEDY) == expected
    assert ours.generate(prompts, GREEDY) == expected
    assert ours.engine.stats().prefix_hits > 0
    assert ours.engine.stats().blocks_free == ours.engine.stats().blocks_total
    assert ours.generate([TOKENIZER.encode(prompts[0])], GREEDY) == expected[:1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_is_that_of_the_weights(tmp_path, dtype):
    glassbox.save(MODEL.float(), tmp_path / "tiny", tokenizer=TOKENIZER)
    MODEL.double()
    ours = glassbox.LLM(tmp_path / "tiny", dtype=dtype, device="cpu")
    assert {p.dtype for p in ours.engine.model.parameters()} == {dtype}
    assert ours.engine.dtype is None, "no autocast, which would cast them in every step"
    loaded = glassbox.load(tmp_path / "tiny", dtype=dtype, device="cpu")
    expected = Engine(loaded.model, TOKENIZER).complete(["The fox", "A girl"], GREEDY)
    assert ours.generate(["The fox", "A girl"], GREEDY) == expected
    cached = ours.engine._runner.states[0].mixer.pools["keys"]
    assert cached.dtype == dtype


def test_a_model_in_memory_keeps_its_dtype():
    model = tiny_chat_model(TOKENIZER).float().eval()
    ours = glassbox.LLM.of(model, TOKENIZER, dtype=torch.bfloat16)
    ours.generate("The fox", GREEDY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert ours.engine.dtype == torch.bfloat16


def test_a_wider_dtype_is_the_engines(tmp_path):
    glassbox.save(tiny_chat_model(TOKENIZER).float(), tmp_path / "tiny", tokenizer=TOKENIZER)
    ours = glassbox.LLM(tmp_path / "tiny", dtype=torch.float64, device="cpu")
    assert {p.dtype for p in ours.engine.model.parameters()} == {torch.float32}
    assert ours.engine.dtype == torch.float64


def test_chat_asks_by_the_template_and_ends_with_the_turn():
    ours = llm()
    chat = [{"role": "user", "content": "Where is the ball?"}]
    prompt = TOKENIZER.encode_chat_prompt(chat)
    end = TOKENIZER.special_tokens["<|im_end|>"]
    params = GREEDY.model_copy(update={"stop_token_ids": (end,)})
    (expected,) = Engine(MODEL, TOKENIZER).generate([prompt], params)
    assert ours.chat(chat, GREEDY) == [expected]
    assert [c.token_ids for c in ours.chat([chat, chat], GREEDY)] == [expected.token_ids] * 2
    with pytest.raises(UserError, match="without messages"):
        ours.chat([])


def test_streams_run_together_and_say_what_generate_says():
    ours = llm()
    prompts = ["The fox", "A girl", "They played"]

    async def follow(prompt):
        return [event.token_id async for event in ours.stream(prompt, SEEDED)]

    async def together():
        return await asyncio.gather(*map(follow, prompts))

    for _ in range(2):  # each run has an event loop of its own
        assert asyncio.run(together()) == [c.token_ids for c in ours.generate(prompts, SEEDED)]


def test_a_stream_that_is_left_frees_what_it_held():
    ours = llm()

    async def leave():
        stream = ours.stream([{"role": "user", "content": "Where?"}], SEEDED)
        await stream.__anext__()
        await stream.aclose()
        with pytest.raises(UserError, match="empty"):
            await ours.stream([], SEEDED).__anext__()

    asyncio.run(leave())
    assert not ours.engine.has_work
    assert ours.engine.stats().blocks_free == ours.engine.stats().blocks_total


def test_embeddings_are_means_of_hidden_states_of_length_one():
    texts = ["The fox", "A girl asked the fox where the ball was", "tree"]
    vectors = llm().embed(texts)
    for vector, text in zip(vectors, texts, strict=True):
        with torch.no_grad():
            hidden = MODEL.hidden_states(torch.tensor([TOKENIZER.encode(text)]))[0].mean(0)
        expected = torch.nn.functional.normalize(hidden, dim=0).float()
        # float64 until the last step, where both are rounded to float32
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)


def test_a_stream_that_is_closed_before_its_turn_came_leaves_nothing():
    ours = llm()

    async def closed_while_adding() -> None:
        with ours._guard:  # another caller is at it
            stream = ours.stream("The fox", GREEDY)
            reading = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0.05)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    asyncio.run(closed_while_adding())  # waits for the thread that would have added it
    assert not ours.engine.has_work
    assert not ours._queues


def test_leaving_a_stream_waits_for_a_step_without_holding_up_the_loop():
    ours = llm()

    async def leave() -> int:
        stream = ours.stream("The fox", SEEDED)
        await stream.__anext__()
        entered, release = threading.Event(), threading.Event()

        def hold() -> None:
            with ours._guard:
                entered.set()
                release.wait(10)

        holding = asyncio.ensure_future(asyncio.to_thread(hold))
        await asyncio.to_thread(entered.wait, 10)
        closing = asyncio.ensure_future(stream.aclose())  # type: ignore[attr-defined]
        turns = 0
        for _ in range(5):  # would stand still until `hold` lets go
            await asyncio.sleep(0.01)
            turns += not closing.done()
        release.set()
        await asyncio.gather(closing, holding)
        return turns

    assert asyncio.run(leave()) == 5
    assert not ours.engine.has_work


def test_a_stream_gets_its_tokens_though_another_callers_steps_made_them():
    ours = llm()
    (expected,) = ours.generate("The fox", GREEDY)
    add = ours._add

    def overtaken(*words: object) -> None:
        add(*words)  # type: ignore[arg-type]
        ours.generate("A girl", GREEDY.model_copy(update={"max_tokens": 20}))

    ours._add = overtaken  # type: ignore[method-assign]

    async def read() -> list[int]:
        return [event.token_id async for event in ours.stream("The fox", GREEDY)]

    assert asyncio.run(asyncio.wait_for(read(), 20)) == expected.token_ids
