"""Bodies that a server must refuse: every one of them is at fault, each in a way of its own."""

from __future__ import annotations

import json
import random
from typing import Any

CHAT = [{"role": "user", "content": "Where is the fox?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SOUND: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "The fox", "max_tokens": 2, "stop": ["a"], "n": 1},
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": 2, "tools": [TOOL]},
    "/v1/embeddings": {"input": "The fox", "encoding_format": "float"},
    "/tokenize": {"prompt": "The fox"},
    "/detokenize": {"tokens": [5, 6]},
}
NEEDED = {
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/tokenize": "prompt",
    "/detokenize": "tokens",
}
_WRONG: list[Any] = [
    -1,
    2**70,
    1e308,
    "\ud800",
    "x" * 9000,
    [[]],
    [None],
    {"a": {"b": [1]}},
    [True],
    [-5],
    [10**8],
    {},
    [{}],
    [[["deep"]]],
    3.7,
]
_VALUES: dict[str, list[Any]] = {  # wrong for everyone who has the name
    "n": [0, -3, "2", 1.5, 10**6, [1], {}],
    "max_tokens": [-1, "7", 1.5, 10**9, [], {}],
    "temperature": [-0.1, "hot", 101, [], {}, 1e-200],
    "top_p": [0, -1, 1.01, "all", []],
    "stop": [5, [5], [""], ["x"] * 40, "y" * 999, {}],
    "seed": [-1, 2**64, "x", 1.5],
    "stream": [1, "yes", [], {}],
    "logit_bias": [{"a": 1}, {"5": "x"}, {"5": 1e9}, [1], {"999999": 1}, {"-1": 0}],
    "frequency_penalty": [3, -3, "x", []],
    "tool_choice": [
        "must",
        5,
        {"type": "function"},
        {"type": "function", "function": {"name": "no"}},
    ],
    "response_format": [5, {"type": "xml"}, {"type": "json_schema"}, "json"],
    "messages": [
        [],
        "hello",
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        [{"role": "ghost", "content": "boo"}],
        [{"role": "user\n", "content": "a"}],
        [{"role": "assistant", "tool_calls": "x"}],
        [{"role": "user", "content": "\udfff"}],
        [{"role": "user", "content": "long " * 2000}],
    ],
    "tools": [
        5,
        [5],
        [{"type": "gun"}],
        [{**TOOL, "x": 1}],
        [{"type": "function", "function": {}}],
    ],
    "dimensions": [0, -1, 10**6, "x"],
    "encoding_format": ["hex", 5, []],
    "guided_regex": ["(", 5, "(a{1000}){1000}", "*", ""],
    "guided_choice": [[], [""], 5, [5]],
    "guided_json": [5, {"type": 5}, {"$ref": "#/nowhere"}, {"type": "imaginary"}],
    "best_of": [0, -1, "x", 10**6],
    "logprobs": [-1, 99, "x", 1.5],
    "stream_options": [5, {"x": 1}, [], "x"],
    "user": [5, [], {}],
    "model": [5, [], "another"],
}


def malformed(rng: random.Random) -> tuple[str, bytes, str]:
    """A path, a body that it must refuse, and the content type to send it under."""
    path = rng.choice(list(SOUND))
    way = rng.randrange(7)
    kind = "application/json"
    if way == 0:  # not JSON
        whole = json.dumps(SOUND[path]).encode()
        content = whole[: rng.randrange(len(whole))]
    elif way == 1:  # bytes
        content = b"{" + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
    elif way == 2:  # JSON, but no object
        content = rng.choice(
            [b"[]", b"null", b"5", b'"prompt"', b"[" * 20_000, b'{"a":' * 5000, b"true", b"NaN"]
        )
    elif way == 3:  # what is needed is missing
        body = {key: value for key, value in SOUND[path].items() if key != NEEDED[path]}
        content = json.dumps(body).encode()
    elif way == 4:  # what is needed is wrong
        content = json.dumps({**SOUND[path], NEEDED[path]: _needed_wrong(path, rng)}).encode()
    elif way == 5:  # a value is wrong, or its name unknown
        name = rng.choice(list(_VALUES))
        content = json.dumps({**SOUND[path], name: rng.choice(_VALUES[name])}).encode()
    else:
        content = json.dumps(SOUND[path]).encode()
        wrong = rng.choice(["text/plain", "application/x-www-form-urlencoded", "extra", "size"])
        if wrong == "extra":
            name = "".join(rng.choice("abcdefgh_") for _ in range(rng.randrange(1, 40)))
            content = json.dumps({**SOUND[path], f"x{name}": rng.choice(_WRONG)}).encode()
        elif wrong == "size":
            content = json.dumps({**SOUND[path], "user": "u" * 5_000_000}).encode()
        else:
            kind = wrong
    return path, content, kind


def _needed_wrong(path: str, rng: random.Random) -> Any:
    if path == "/v1/chat/completions":
        return rng.choice(_VALUES["messages"])
    if path == "/detokenize":
        return rng.choice([-1, "5", [-5], [10**8], ["a"], [1.5], [True], {}, [[5]]])
    if path == "/tokenize":
        return rng.choice([5, "\ud800", ["a"], {}, True])
    return rng.choice([*_WRONG[:4], *_WRONG[5:], "\ud800", [5] * 100_000])
