"""Log-probabilities, embeddings, tools, forms of answers, ids, logs, metrics and origins of the API."""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.serving.app import build_app
from glassbox.serving.bodies import Limits
from glassbox.serving.chat_body import FunctionSpec
from glassbox.serving.logs import JsonLines
from glassbox.serving.service import Service
from glassbox.serving.token_log_probs import token_text
from glassbox.serving.tool_calls import CallReader, ToolCall, offer_in_words
from support.scripted import Scripted
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_chat_model(TOKENIZER, context_length=1000)
CHAT: list[dict[str, Any]] = [{"role": "user", "content": "What is 14+27?"}]
URL = "http://127.0.0.1"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Works out sums",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
WRITTEN = (
    '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo", "days": 2}}\n</tool_call>'
)


def plain(text: str) -> list[int]:
    return [TOKENIZER.eos_id, *TOKENIZER.encode(text)]


def serving(engine: Any = None, **options: Any) -> Service:
    return Service(
        Engine(MODEL, TOKENIZER) if engine is None else engine,
        TOKENIZER,
        name="tiny",
        model=MODEL,
        prompt_prefix=[TOKENIZER.eos_id],
        **options,
    )


def opened(service: Service, **options: Any) -> TestClient:
    return TestClient(build_app(service, **options), base_url=URL, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with opened(serving()) as found:
        yield found


def ask(client: TestClient, path: str, body: dict[str, Any]) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(client: TestClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    blocks = response.content.decode().split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def log_softmax(ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return MODEL(torch.tensor([ids]))[0].float().log_softmax(-1)


# ---- log-probabilities --------------------------------------------------------------------------


def test_an_echos_scores_are_the_models_as_harnesses_ask_for_them(client: TestClient) -> None:
    prompts = [plain("The fox found a red ball"), [5, 9, 3, 77, 5]]
    body = {"prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    answer = ask(client, "/v1/completions", {**body, "seed": 1234})
    assert answer["usage"]["completion_tokens"] == 2
    for choice, ids in zip(answer["choices"], prompts, strict=True):
        scores = choice["logprobs"]
        expected = log_softmax(ids)
        made = int(expected[-1].argmax())
        assert len(scores["tokens"]) == len(ids) + 1
        assert scores["token_logprobs"][0] is None
        assert scores["top_logprobs"][0] is None
        for place, token in enumerate([*ids[1:], made]):
            row = expected[place]
            score = scores["token_logprobs"][place + 1]
            assert score == pytest.approx(float(row[token]), abs=1e-4)  # float32, other sums
            greedy = score == max(scores["top_logprobs"][place + 1].values())
            assert greedy == (int(row.argmax()) == token)
        assert choice["text"].startswith(TOKENIZER.decode(ids))
        assert scores["tokens"] == [token_text(TOKENIZER.token_bytes(t)) for t in [*ids, made]]
    alone = ask(client, "/v1/completions", {**body, "max_tokens": 0})
    assert alone["usage"]["completion_tokens"] == 0
    for less, more in zip(alone["choices"], answer["choices"], strict=True):
        assert less["finish_reason"] == "length"
        assert less["logprobs"]["token_logprobs"] == more["logprobs"]["token_logprobs"][:-1]


def test_an_echo_of_text_tells_of_what_was_written_and_no_more(client: TestClient) -> None:
    text = "The 中 fox"
    body = {"prompt": text, "max_tokens": 3, "temperature": 0, "logprobs": 2, "echo": True}
    (choice,) = ask(client, "/v1/completions", body)["choices"]
    scores = choice["logprobs"]
    ids = TOKENIZER.encode(text)
    assert scores["tokens"][: len(ids)] == [token_text(TOKENIZER.token_bytes(i)) for i in ids]
    assert scores["token_logprobs"][0] is not None  # given the end-of-text before it
    starts = scores["text_offset"]
    assert starts[:3] == [0, *(len(TOKENIZER.decode(ids[:n])) for n in (1, 2))]
    assert sorted(starts) == starts
    assert any(token.startswith("bytes:") for token in scores["tokens"])
    chunks = [chunk["choices"][0] for chunk in streamed(client, "/v1/completions", body)]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for chunk in chunks for item in chunk["logprobs"][key]]
        assert joined == scores[key]
    assert "".join(chunk["text"] for chunk in chunks) == choice["text"]


def test_a_chats_log_probabilities_are_the_models(client: TestClient) -> None:
    body = {"messages": CHAT, "max_tokens": 8, "seed": 4, "logprobs": True, "top_logprobs": 3}
    prompt = TOKENIZER.encode_chat_prompt(CHAT)
    ends = tuple(end_of_turn_ids(TOKENIZER))
    params = SamplingParams(seed=4, max_tokens=8, logprobs=True, stop_token_ids=ends)
    (expected,) = Engine(MODEL, TOKENIZER).generate([prompt], params)
    (choice,) = ask(client, "/v1/chat/completions", body)["choices"]
    entries = choice["logprobs"]["content"]
    made = [t for t in expected.token_ids if t not in (*ends, TOKENIZER.eos_id)]
    assert [bytes(entry["bytes"]) for entry in entries] == [TOKENIZER.token_bytes(t) for t in made]
    assert len(entries) > 3
    assert expected.log_probs is not None
    rows = log_softmax([*prompt, *made])[len(prompt) - 1 :]
    for entry, value, row in zip(entries, expected.log_probs, rows, strict=False):
        assert entry["logprob"] == pytest.approx(value, abs=1e-5)
        best = row.topk(3)
        assert [one["logprob"] for one in entry["top_logprobs"]] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )
    chunks = [c["choices"][0] for c in streamed(client, "/v1/chat/completions", body)]
    told = [entry for c in chunks if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert told == entries
    none = ask(client, "/v1/chat/completions", {**body, "logprobs": False, "top_logprobs": None})
    assert none["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_that_ends_an_answer_is_listed_as_usage_counts_it(
    client: TestClient, stream: bool
) -> None:
    end = TOKENIZER.special_tokens["<|im_end|>"]
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}

    def listed(path: str, body: dict[str, Any], key: str) -> tuple[list[Any], str, int]:
        """The entries of the only choice, its text and the number of tokens that `usage` counts."""
        if not stream:
            answer = ask(client, path, body)
            (choice,) = answer["choices"]
            text = choice.get("text") or choice.get("message", {}).get("content", "")
            return choice["logprobs"][key], text, answer["usage"]["completion_tokens"]
        chunks = streamed(client, path, {**body, **options})
        said = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        entries = [one for c in said if c["logprobs"] for one in c["logprobs"][key]]
        text = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in said)
        return entries, text, chunks[-1]["usage"]["completion_tokens"]

    # text held back for a stop string comes with the ending token
    asked = {"guided_regex": "ab+", "logit_bias": {str(end): 100}, "stop": ["bX"], "seed": 1}
    body = {"messages": CHAT, **asked, "logprobs": True}
    entries, text, count = listed("/v1/chat/completions", body, "content")
    assert (text, count) == ("ab", len(entries))
    assert "".join(entry["token"] for entry in entries) == "ab<|im_end|>"
    asked |= {"logit_bias": {str(TOKENIZER.eos_id): 100}, "prompt": "The fox", "logprobs": 0}
    ending = TOKENIZER.token_bytes(TOKENIZER.eos_id).decode()
    entries, text, count = listed("/v1/completions", asked, "tokens")
    assert (text, count) == ("ab", len(entries))
    assert "".join(entries) == "ab" + ending

    # an answer without any text has one entry, its end
    nothing = {"logit_bias": {str(TOKENIZER.eos_id): 100}, "temperature": 0, "max_tokens": 3}
    asked = {**nothing, "prompt": "The fox", "logprobs": 1}
    entries, text, count = listed("/v1/completions", asked, "token_logprobs")
    assert (text, count, len(entries)) == ("", 1, 1)
    ids = plain("The fox")
    expected = float(log_softmax(ids)[-1][TOKENIZER.eos_id])
    assert entries[0] == pytest.approx(expected, abs=1e-4)  # float32, other sums
    asked = {**nothing, "messages": CHAT, "logprobs": True}
    asked["logit_bias"] = {str(end): 100}
    entries, text, count = listed("/v1/chat/completions", asked, "content")
    assert (text, count, len(entries)) == ("", 1, 1)
    assert entries[0]["token"] == "<|im_end|>"


def test_the_best_of_several_are_given(client: TestClient) -> None:
    body = {"prompt": "The", "max_tokens": 6, "seed": 3, "temperature": 1.5, "logprobs": 0}
    all_six = ask(client, "/v1/completions", {**body, "n": 6})
    best = ask(client, "/v1/completions", {**body, "n": 2, "best_of": 6})

    def mean(choice: dict[str, Any]) -> float:
        return float(np.mean(choice["logprobs"]["token_logprobs"]))

    ranked = sorted(all_six["choices"], key=mean, reverse=True)
    assert [one["text"] for one in best["choices"]] == [one["text"] for one in ranked[:2]]
    assert [one["index"] for one in best["choices"]] == [0, 1]
    assert best["usage"] == all_six["usage"]  # all six were made


@pytest.mark.parametrize(
    "setting",
    [
        {"frequency_penalty": 1.5},
        {"presence_penalty": -1.5},
        {"logit_bias": {"70": 8.0}},
        {"typical_p": 0.5},
        {"epsilon_cutoff": 0.03},
        {"eta_cutoff": 0.05},
        {"top_h": 0.3},
        {"no_repeat_ngram_size": 1},
        {"bad_words": ["e", "a"]},
        {"guidance_scale": 3.0, "negative_prompt": "The"},
        {"repetition_penalty": 1.8},
        {"min_p": 0.3, "top_k": 7},
    ],
)
def test_settings_reach_the_engine(client: TestClient, setting: dict[str, Any]) -> None:
    asked = {"max_tokens": 20, "seed": 1, "temperature": 0.9, **setting}
    told = {**asked, "logit_bias": {int(k): v for k, v in setting.get("logit_bias", {}).items()}}
    (expected,) = Engine(MODEL, TOKENIZER).generate([plain("The fox")], SamplingParams(**told))
    (choice,) = ask(client, "/v1/completions", {"prompt": "The fox", **asked})["choices"]
    assert choice["text"] == expected.text
    without = {key: asked[key] for key in ("max_tokens", "seed", "temperature")}
    (other,) = ask(client, "/v1/completions", {"prompt": "The fox", **without})["choices"]
    assert other["text"] != choice["text"]


def test_ends_can_be_chosen(client: TestClient) -> None:
    free = {"prompt": "The fox", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    engine = Engine(MODEL, TOKENIZER)
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    (long,) = engine.generate([plain("The fox")], params)
    assert ask(client, "/v1/completions", free)["usage"]["completion_tokens"] == 30
    end = long.token_ids[9]
    first = long.token_ids.index(end)
    cut = ask(client, "/v1/completions", {**free, "stop_token_ids": [end]})
    assert cut["usage"]["completion_tokens"] == first + 1
    assert cut["choices"][0]["finish_reason"] == "stop"
    later = ask(client, "/v1/completions", {**free, "stop_token_ids": [end], "min_tokens": 15})
    assert later["usage"]["completion_tokens"] >= 15


# ---- embeddings ---------------------------------------------------------------------------------


def test_embeddings_are_means_of_hidden_states(client: TestClient) -> None:
    texts = ["The fox", "A girl asked", "The fox"]
    answer = ask(client, "/v1/embeddings", {"input": texts, "model": "tiny"})
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    found = np.array([one["embedding"] for one in answer["data"]])
    for vector, text in zip(found, texts, strict=True):
        with torch.no_grad():
            mean = MODEL.hidden_states(torch.tensor([plain(text)]))[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    count = sum(len(plain(text)) for text in texts)
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    coded = ask(client, "/v1/embeddings", {"input": plain("The fox"), "encoding_format": "base64"})
    raw = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(raw, found[0], atol=1e-6)
    cut = ask(client, "/v1/embeddings", {"input": [plain("The fox")] * 2, "dimensions": 5})
    short = np.array(cut["data"][1]["embedding"])
    np.testing.assert_allclose(short, found[0][:5] / np.linalg.norm(found[0][:5]), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a", "dimensions": 17}, "dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [99_999]}, "input"),
        ({"input": [5] * 1001}, "input"),
        ({"input": ["a"] * 300}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({}, "input"),
    ],
)
def test_embeddings_refused(client: TestClient, body: dict[str, Any], param: str) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


# ---- tools --------------------------------------------------------------------------------------

OFFERED = [FunctionSpec(**WEATHER["function"]), FunctionSpec(**CALCULATOR["function"])]  # type: ignore[arg-type]


def read(text: str, cuts: list[int]) -> list[Any]:
    """What a reader makes of a text that comes in pieces; neighbouring texts joined."""
    reader = CallReader(OFFERED)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [part for a, b in itertools.pairwise(places) for part in reader.push(text[a:b])]
    joined: list[Any] = []
    for part in [*parts, *reader.flush()]:
        if isinstance(part, ToolCall):
            joined.append((part.name, json.loads(part.arguments)))
        elif joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


OSLO = ("weather", {"place": "Oslo", "days": 2})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no call at all ", ["no call at all "]),
        (WRITTEN, [OSLO]),
        (f"Let me see.\n\n{WRITTEN}\n{WRITTEN}\n", ["Let me see.", OSLO, OSLO]),
        (f"{WRITTEN}\n and then more", [OSLO, "and then more"]),
        ("so <tool>14+27</tool>", ["so", ("calculator", {"expression": "14+27"})]),
        ("<python>print(1)</python>", ["<python>print(1)</python>"]),  # not offered
        ("<tool_call>\nno json\n</tool_call>!", ["<tool_call>\nno json\n</tool_call>!"]),
        ('<tool_call>{"name": "other"}</tool_call>', ['<tool_call>{"name": "other"}</tool_call>']),
        ("<tool_call>[]</tool_call>", ["<tool_call>[]</tool_call>"]),
        ("a < b <tool", ["a < b <tool"]),
        (WRITTEN.removesuffix("</tool_call>"), [OSLO]),  # cut at the end by a stop string
        (WRITTEN[:-20], [WRITTEN[:-20]]),
        (
            '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 1}"}</tool_call>',
            [("weather", {"days": 1})],
        ),
    ],
)
@given(cuts=st.lists(st.integers(0, 300), max_size=12))
@settings(max_examples=25, deadline=None)
def test_calls_are_found_however_the_text_is_cut(
    text: str, expected: list[Any], cuts: list[int]
) -> None:
    assert read(text, cuts) == expected


def test_a_call_that_the_model_makes_reaches_the_caller() -> None:
    ids = TOKENIZER.encode(f"Let me see.\n{WRITTEN}")
    body = {"messages": CHAT, "tools": [WEATHER, CALCULATOR]}
    engine = Scripted(TOKENIZER, ids, context_length=2000)
    with opened(serving(engine)) as client:
        (choice,) = ask(client, "/v1/chat/completions", body)["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Let me see."
        (call,) = choice["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["id"].startswith("call_")
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]) == OSLO[1]
        deltas = [c["choices"][0] for c in streamed(client, "/v1/chat/completions", body)]
        said = "".join(d["delta"].get("content") or "" for d in deltas)
        calls = [call for d in deltas for call in d["delta"].get("tool_calls", [])]
        assert said == "Let me see."
        assert [(c["index"], c["function"]["name"]) for c in calls] == [(0, "weather")]
        assert json.loads(calls[0]["function"]["arguments"]) == OSLO[1]
        assert deltas[-1]["finish_reason"] == "tool_calls"
        # without leave, what looks like a call is text, and the tools are not spoken of
        none = ask(client, "/v1/chat/completions", {**body, "tool_choice": "none"})
        assert none["choices"][0]["message"]["content"] == f"Let me see.\n{WRITTEN}"
        assert none["choices"][0]["finish_reason"] == "stop"
    prompts = [TOKENIZER.decode(ids) for ids, _ in engine.prompts]
    assert '"name": "weather"' in prompts[0]
    assert "Works out sums" in prompts[0]
    assert "weather" not in prompts[2]


def test_only_one_call_where_only_one_is_wanted() -> None:
    engine = Scripted(TOKENIZER, TOKENIZER.encode(f"{WRITTEN}\n{WRITTEN}"), context_length=2000)
    body = {"messages": CHAT, "tools": [WEATHER]}
    with opened(serving(engine)) as client:
        both = ask(client, "/v1/chat/completions", body)["choices"][0]["message"]
        one = ask(client, "/v1/chat/completions", {**body, "parallel_tool_calls": False})
    assert len(both["tool_calls"]) == 2
    assert len({call["id"] for call in both["tool_calls"]}) == 2
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1
    assert one["usage"]["completion_tokens"] < 0.7 * len(engine.ids)


def test_the_story_worlds_calls_go_both_ways() -> None:
    engine = Scripted(TOKENIZER, TOKENIZER.encode("<tool>41+1</tool>"), context_length=2000)
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "calculator", "arguments": '{"expression": "14+27"}'},
    }
    chat = [
        *CHAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "41"},
    ]
    body = {"messages": chat, "tools": [CALCULATOR]}
    with opened(serving(engine, tool_format="tags")) as client:
        (choice,) = ask(client, "/v1/chat/completions", body)["choices"]
        must = ask(client, "/v1/chat/completions", {**body, "tool_choice": "required"})
    (made,) = choice["message"]["tool_calls"]
    assert made["function"]["name"] == "calculator"
    assert json.loads(made["function"]["arguments"]) == {"expression": "41+1"}
    assert choice["message"]["content"] is None
    prompt = TOKENIZER.decode(engine.prompts[0][0])
    assert "<tool>14+27</tool>" in prompt
    assert "tools" not in prompt  # the model knows its own
    forced_prompt, params = engine.prompts[1]
    assert TOKENIZER.decode(forced_prompt).endswith("<tool>")
    assert params.stop == ("</tool>",)
    assert must["choices"][0]["finish_reason"] == "tool_calls"


def test_a_template_without_tools_is_told_of_them_in_words() -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        *CHAT,
        {
            "role": "assistant",
            "content": "Hm.",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"days": 1}}}],
        },
        {"role": "tool", "content": "rain"},
    ]
    told = offer_in_words(chat, OFFERED)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"].startswith("Be kind.\n\nYou may call")
    assert '"weather"' in told[0]["content"]
    assert told[2] == {
        "role": "assistant",
        "content": 'Hm.\n<tool_call>\n{"name": "weather", "arguments": {"days": 1}}\n</tool_call>',
    }
    assert told[3]["content"] == "<tool_response>\nrain\n</tool_response>"
    assert offer_in_words(CHAT, OFFERED)[0]["role"] == "system"
    simple = TOKENIZER.with_chat_template(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    )
    engine = Scripted(simple, simple.encode(WRITTEN), context_length=2000)
    service = Service(engine, simple, name="tiny")
    with opened(service) as client:
        body = {"messages": chat[1:], "tools": [WEATHER]}
        (choice,) = ask(client, "/v1/chat/completions", body)["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert "You may call these functions" in simple.decode(engine.prompts[0][0])


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_must_be_made_is_made_and_fits_its_schema(
    client: TestClient, choice: Any
) -> None:
    body = {"messages": CHAT, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 200}
    for seed in range(2):
        (said,) = ask(client, "/v1/chat/completions", {**body, "seed": seed})["choices"]
        (call,) = said["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == {"place", "days"}
        assert arguments["place"] in ("Oslo", "Rome")
        assert arguments["days"] in (1, 2)
        assert said["message"]["content"] is None
        assert said["finish_reason"] == ("tool_calls" if choice == "required" else "stop")
    chunks = streamed(client, "/v1/chat/completions", {**body, "seed": 0})
    calls = [c for k in chunks for c in k["choices"][0]["delta"].get("tool_calls", [])]
    assert [json.loads(c["function"]["arguments"]) for c in calls]


SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "strict": True, "schema": {"enum": ["x", None]}},
}
FORMS = [
    ({"guided_regex": "[ab]{3}-[0-9]"}, r"[ab]{3}-[0-9]"),
    ({"guided_choice": ["left", "right"]}, r"left|right"),
    ({"guided_json": {"enum": [1, [2]]}}, r"1|\[\s*2\s*\]"),
    ({"response_format": SCHEMA_FORMAT}, r'"x"|null'),
]


@pytest.mark.parametrize(("form", "pattern"), FORMS)
def test_answers_have_the_form_that_was_asked_for(
    client: TestClient, form: dict[str, Any], pattern: str
) -> None:
    found = set()
    for seed in range(6):
        body = {"messages": CHAT, "seed": seed, "max_tokens": 200, **form}
        (said,) = ask(client, "/v1/chat/completions", body)["choices"]
        assert said["finish_reason"] == "stop"
        found.add(said["message"]["content"])
    assert all(re.fullmatch(pattern, text) for text in found), found
    assert len(found) > 1


def test_any_json_object(client: TestClient) -> None:
    body = {"messages": CHAT, "max_tokens": 100, "response_format": {"type": "json_object"}}
    whole = 0
    for seed in range(4):
        (said,) = ask(client, "/v1/chat/completions", {**body, "seed": seed})["choices"]
        assert said["message"]["content"].lstrip()[:1] == "{"
        if said["finish_reason"] == "stop":
            whole += 1
            assert isinstance(json.loads(said["message"]["content"]), dict)
    assert whole


# ---- ids, logs, metrics, origins ----------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the server logs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("glassbox.serving")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("log_prompts", [False, True])
def test_a_request_is_one_line_of_json_without_its_text(
    lines: io.StringIO, log_prompts: bool
) -> None:
    secret = "my secret question"
    key = "a-key-that-nobody-may-see"
    engine = Scripted(TOKENIZER, TOKENIZER.encode("the answer nobody may read"), fail_at=None)
    service = serving(engine, log_prompts=log_prompts)
    with opened(service, keys=[key]) as client:
        headers = {"X-Request-Id": "mine-1", "Authorization": f"Bearer {key}"}
        body = {"prompt": secret, "max_tokens": 5}
        answered = client.post("/v1/completions", json=body, headers=headers)
        assert answered.headers["x-request-id"] == "mine-1"
        bad = client.post(
            "/v1/completions", json={"prompt": 5}, headers={**headers, "X-Request-Id": "\n"}
        )
        assert bad.headers["x-request-id"].startswith("req-")
        engine.fail_at = 0
        failed = client.post("/v1/completions", json=body, headers=headers)
        assert failed.status_code == 500
        client.get("/v1/models", headers={"Authorization": "Bearer wrong-key"})
    text = lines.getvalue()
    found = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in found if line["message"] == "request"]
    assert [line["status"] for line in requests] == [200, 400, 500, 401]
    first = requests[0]
    assert (first["request_id"], first["method"], first["path"]) == (
        "mine-1",
        "POST",
        "/v1/completions",
    )
    assert first["prompt_tokens"] == len(plain(secret))
    assert first["completion_tokens"] == len(engine.ids)
    assert first["seconds"] > 0
    (fault,) = [line for line in found if "exception" in line]
    assert "secret detail" in fault["exception"]
    assert fault["request_id"] == "mine-1"
    assert (secret in text) == log_prompts
    assert "the answer" not in text
    assert key not in text
    assert "wrong-key" not in text


def test_what_callers_with_different_keys_ask_is_kept_apart() -> None:
    engine = Scripted(TOKENIZER, TOKENIZER.encode("yes"))
    with opened(serving(engine), keys=["one", "two"]) as client:
        for key in ("one", "two", "one"):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post("/v1/completions", json={"prompt": "a"}, headers=headers).is_success
    first, second, third = engine.tenants
    assert first == third != second
    assert "one" not in first


def test_metrics_tell_of_queue_cache_and_waits() -> None:
    engine = Scripted(TOKENIZER, TOKENIZER.encode("five or more words of text"))
    with opened(serving(engine)) as client:
        for _ in range(3):
            ask(client, "/v1/completions", {"prompt": "The fox", "n": 2})
        client.get("/nowhere/at/all")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    made = 6 * len(engine.ids)
    assert samples["glassbox_completion_tokens_total", ()] == made
    assert samples["glassbox_prompt_tokens_total", ()] == 3 * len(plain("The fox"))
    assert samples["glassbox_time_to_first_token_seconds_count", ()] == 6
    assert samples["glassbox_inter_token_seconds_count", ()] == made - 6
    assert samples["glassbox_requests_total", ("/v1/completions", "200")] == 3
    assert samples["glassbox_requests_total", ("other", "404")] == 1
    for name in ("requests_running", "requests_waiting", "cache_blocks", "cache_blocks_free"):
        assert samples[f"glassbox_{name}", ()] == 0
    assert samples["glassbox_prepacked_bytes", ()] == 0


def test_only_named_origins_may_read() -> None:
    with opened(serving(), origins=["https://example.org"], keys=["k"]) as client:
        asked = {
            "Origin": "https://example.org",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        leave = client.options("/v1/completions", headers=asked)  # browsers send no key with it
        assert leave.status_code == 200
        assert leave.headers["access-control-allow-origin"] == "https://example.org"
        other = client.options("/v1/completions", headers={**asked, "Origin": "https://evil.org"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        read = client.get(
            "/v1/models", headers={"Origin": "https://example.org", "Authorization": "Bearer k"}
        )
        assert read.headers["access-control-allow-origin"] == "https://example.org"


def test_a_server_that_is_about_to_end_takes_nothing_new() -> None:
    service = serving()
    with opened(service) as client:
        service.draining = True
        refused = client.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert refused.headers["retry-after"] == "30"
        assert client.get("/health").status_code == 503
        assert client.get("/health").json()["status"] == "draining"
        assert client.get("/metrics").status_code == 200


def test_a_template_that_fails_is_the_callers_to_know_of() -> None:
    strict = TOKENIZER.with_chat_template("{{ raise_exception('only cats may ask') }}")
    service = Service(
        Scripted(TOKENIZER, [5]), TOKENIZER, name="tiny", limits=Limits(max_tokens=50)
    )
    service.tokenizer = strict
    with opened(service) as client:
        response = client.post("/v1/chat/completions", json={"messages": CHAT})
    assert response.status_code == 400
    assert "only cats" in response.json()["error"]["message"]


def test_minus_infinity_is_a_number_in_json(client: TestClient) -> None:
    barred = {str(i): -100 for i in range(5, 200)}
    body = {"prompt": "The", "max_tokens": 4, "logprobs": 5, "logit_bias": barred, "seed": 1}
    (choice,) = ask(client, "/v1/completions", body)["choices"]
    assert all(math.isfinite(value) for value in choice["logprobs"]["token_logprobs"])
