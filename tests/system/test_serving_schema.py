"""Requests made up from the server's own OpenAPI schema, and bodies bent out of shape: no 5xx."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from glassbox.inference import Engine
from glassbox.serving.app import build_app
from glassbox.serving.bodies import Limits
from glassbox.serving.service import Service
from support.malformed import malformed
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
URL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    model = tiny_chat_model(TOKENIZER)
    limits = Limits(max_tokens=16, max_choices=8, max_body_bytes=100_000)
    service = Service(Engine(model, TOKENIZER), TOKENIZER, name="tiny", model=model, limits=limits)
    with TestClient(build_app(service), base_url=URL) as opened:
        yield opened
        assert service.idle


def test_what_the_schema_allows_is_never_the_servers_fault(client: TestClient) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    statuses: dict[int, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            asked = case.as_transport_kwargs(base_url=URL)
            sent = requests.Request(**asked).prepare()
            assert sent.method is not None
            assert sent.url is not None
            response = client.request(
                sent.method, sent.url, content=sent.body, headers=dict(sent.headers)
            )
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text

        check()
    assert statuses[200] > 10
    assert statuses[400] > 10


def test_no_malformed_body_is_answered_or_harms(client: TestClient) -> None:
    rng = random.Random(5)
    statuses: dict[int, int] = {}
    for path, content, kind in (malformed(rng) for _ in range(300)):
        response = client.post(path, content=content, headers={"Content-Type": kind})
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert 400 <= response.status_code < 500, (path, content[:300], response.text)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert statuses[400] > 200
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
