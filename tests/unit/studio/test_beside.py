"""The studio beside the server: one engine, each path answered by one of the two, both ended together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.serving.app import build_app as build_server
from glassbox.serving.service import Service
from glassbox.studio.app import build_app
from glassbox.studio.beside import Both, studio_of
from support.studio import OWN
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture
def both(tmp_path: Path) -> Both:
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    engine = Engine(model, tokenizer, max_batch=4, keep_prefixes=True)
    service = Service(engine, tokenizer, name="tiny", model=model)
    studio = studio_of(service, tmp_path, data=tmp_path / "data")
    (tmp_path / "index.html").write_text("<title>page</title>", encoding="utf-8")
    return Both(build_server(service), service, build_app(studio, page=tmp_path), studio)


def test_each_path_has_its_own_and_the_engine_is_one(both: Both) -> None:
    with TestClient(both, base_url="http://localhost", headers=OWN) as client:
        assert "<title>page" in client.get("/").text
        assert "<title>page" in client.get("/chat/1").text
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert [one["name"] for one in client.get("/api/models").json()["models"]] == ["tiny"]
        asked = {"model": "tiny", "temperature": 0, "max_tokens": 6, "logprobs": True}
        said = {"messages": [{"role": "user", "content": "Where is the ball?"}]}
        through_api = client.post("/v1/chat/completions", json={**asked, **said}).json()
        chat = client.post("/api/chats", json={}).json()["id"]
        turn = {
            "content": "Where is the ball?", "to": [{"model": "tiny"}],
            "sampling": {"temperature": 0.0, "max_tokens": 6},
        }  # fmt: skip
        answer = client.post(f"/api/chats/{chat}/turns", json=turn).json()["answers"][0]["id"]
        found = _ended(client, chat, answer)
        theirs = [one["logprob"] for one in through_api["choices"][0]["logprobs"]["content"]]
        assert [token["l"] for token in found["tokens"]] == pytest.approx(theirs, abs=1e-4)
        assert both.idle
        assert (
            client.post("/api/chats", json={}, headers={"origin": "http://evil"}).status_code == 403
        )
        both.draining = True
        assert client.get("/v1/models").status_code == 503
        assert client.get("/api/models").status_code == 503
    worker = both._service.worker
    assert not worker.alive


def _ended(client: TestClient, chat: str, message: str) -> Any:
    for _ in range(2000):
        messages = client.get(f"/api/chats/{chat}").json()["messages"]
        found = next(one for one in messages if one["id"] == message)
        if found["status"] != "running":
            return found
        time.sleep(0.01)
    raise AssertionError("it never ended")


def test_a_server_without_its_model_has_no_studio(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    service = Service(Engine(tiny_chat_model(tokenizer), tokenizer), tokenizer, name="tiny")
    with pytest.raises(UserError, match="needs the model"):
        studio_of(service, tmp_path, data=tmp_path)
