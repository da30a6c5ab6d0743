"""Bodies are read in bounded time, and read as FastAPI reads them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassbox.serving.bodies import CompletionBody, DetokenizeBody, Limits, TokenizeBody
from glassbox.serving.chat_body import ChatBody
from glassbox.serving.errors import ApiError
from glassbox.serving.reading import count_values, parse_body

LIMITS = Limits()
SECONDS = 2.0
"""Far more than any of these bodies takes (under 0.1 s), far less than explaining each fault did (4-28 s)."""
SIZE = 4_000_000


def refused(content: bytes, kind: Any) -> ApiError:
    begun = time.perf_counter()
    with pytest.raises(ApiError) as found:
        parse_body(content, kind, LIMITS)
    assert time.perf_counter() - begun < SECONDS
    assert found.value.status_code == 400
    assert len(found.value.param or "") <= 200
    return found.value


def filled(before: str, element: str, after: str, size: int = SIZE) -> bytes:
    """A body that repeats one element, with commas between, up to a size."""
    count = (size - len(before) - len(after)) // (len(element) + 1)
    return (before + ",".join([element] * count) + after).encode()


HOSTILE = {
    "stops": (CompletionBody, '{"prompt": "a", "stop": [', "1", "]}"),
    "stop tokens": (CompletionBody, '{"prompt": "a", "stop_token_ids": [', '"a"', "]}"),
    "prompts of faults": (CompletionBody, '{"prompt": [', "[-1.5]", "]}"),
    "choices": (CompletionBody, '{"prompt": "a", "guided_choice": [', "null", "]}"),
    "messages": (ChatBody, '{"messages": [', "5", "]}"),
    "tools": (ChatBody, '{"messages": [], "tools": [', '{"x":1}', "]}"),
    "tokens": (DetokenizeBody, '{"tokens": [', '"x"', "]}"),
    "an object for a list": (CompletionBody, '{"prompt": "a", "stop": {"a": [', "1", "]}}"),
    "deep": (TokenizeBody, '{"messages": [', "[" * 200 + "]" * 200, "]}"),
    "texts": (TokenizeBody, '{"messages": ["', '","', '"]}'),
}


@pytest.mark.parametrize("size", [200_000, SIZE])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_many_faults_is_refused_in_bounded_time(name: str, size: int) -> None:
    kind, before, element, after = HOSTILE[name]
    error = refused(filled(before, element, after, size), kind)
    assert len(str(error.detail)) < 20_000


def test_many_names_are_refused_in_bounded_time() -> None:
    names = ",".join(f'"prompt{n}": 1' for n in range(200_000))
    assert "object with 200001 keys" in str(
        refused(b'{"prompt": "a",' + names.encode() + b"}", CompletionBody).detail
    )
    few = ",".join(f'"prompt{n}": 1' for n in range(90))
    message = str(refused(b'{"prompt": "a",' + few.encode() + b"}", CompletionBody).detail)
    assert message.count("is not supported") == 20
    long = b'{"prompt": "a", "' + b"p" * SIZE + b'": 1}'
    assert len(str(refused(long, CompletionBody).detail)) < 300


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": ' + b"1" * SIZE + b"}",
        b'{"prompt": ' + b"1." + b"1" * SIZE + b"}",
        b'{"prompt": "' + b"\\" * SIZE,
        b'{"prompt": "' + b"\\u0041" * (SIZE // 6),
        b" " * SIZE,
        b"[" * SIZE,
        b'{"a":' * (SIZE // 5),
        b'"' * SIZE,
        b"\xff" * SIZE,
    ],
    ids=["digits", "decimals", "backslashes", "escapes", "blank", "[", "{", "quotes", "no UTF-8"],
)
def test_what_is_no_json_is_refused_in_bounded_time(content: bytes) -> None:
    refused(content, CompletionBody)


def test_long_texts_and_many_ids_are_read() -> None:
    text = 'a, "b" \\ [1] {2}' * 200_000
    body = parse_body(json.dumps({"prompt": text}).encode(), CompletionBody, LIMITS)
    assert isinstance(body, CompletionBody)
    assert body.prompt == [text]
    ids = [[n % 50_000 for n in range(8192)]] * 24
    body = parse_body(json.dumps({"prompt": ids}).encode(), CompletionBody, LIMITS)
    assert isinstance(body, CompletionBody)
    assert body.prompt == ids


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=60,
)


def number_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(number_of, value.values()))
    return 1 + sum(map(number_of, value)) if isinstance(value, list) else 1


@given(VALUES, st.booleans())
def test_values_are_counted_as_no_fewer_than_they_are(value: Any, escape: bool) -> None:
    content = json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    many = b"[" + b"[]," * 5000 + content + b"]"  # the careful way of counting
    assert count_values(content) >= number_of(value)
    assert 10_002 + number_of(value) > count_values(many) - 5000
    assert count_values(many) >= 5001 + number_of(value)
