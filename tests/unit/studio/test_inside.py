"""Inside a token: what the page shows equals the model's own numbers, and changes are as said."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from glassbox.inference import Engine, SamplingParams
from glassbox.studio import inside
from glassbox.studio.app import Studio, build_app
from glassbox.studio.bodies import Changes
from glassbox.studio.inside import describe
from support.studio import OWN, make_studio

SAMPLING = {"temperature": 0.0, "max_tokens": 8}


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return make_studio(tmp_path / "data")


@pytest.fixture
def client(studio: Studio, tmp_path: Path) -> Iterator[TestClient]:
    app = build_app(studio, page=tmp_path)
    with TestClient(app, base_url="http://localhost", headers=OWN) as client:
        yield client


def finished(studio: Studio, message: str) -> dict[str, Any]:
    for _ in range(2000):
        found = studio.store.message(message)
        if found["status"] != "running":
            return found
        time.sleep(0.01)
    raise AssertionError("it never ended")


@pytest.fixture
def answer(client: TestClient, studio: Studio) -> dict[str, Any]:
    chat = client.post("/api/chats", json={}).json()["id"]
    body = {"content": "Where is the ball?", "to": [{"model": "alpha"}], "sampling": SAMPLING}
    told = client.post(f"/api/chats/{chat}/turns", json=body).json()
    return finished(studio, told["answers"][0]["id"])


def ids_of(answer: dict[str, Any]) -> list[int]:
    return [*answer["prompt"], *(token["i"] for token in answer["tokens"])]


def test_the_lens_ends_at_the_models_own_and_the_parts_sum_to_the_logit(
    client: TestClient, studio: Studio, answer: dict[str, Any]
) -> None:
    place = 3
    told = client.get(f"/api/messages/{answer['id']}/inside?place={place}").json()
    token = answer["tokens"][place]
    model = studio.shelf.open("alpha").model
    assert len(told["lens"]) == len(model.blocks) + 1
    last = told["lens"][-1]
    assert last["own"] == pytest.approx(token["l"], abs=2e-4)
    assert last["rank"] == 1  # greedy
    assert [entry[0] for entry in last["top"]] == [other[0] for other in token["a"][:5]]
    ids = ids_of(answer)
    position = len(answer["prompt"]) + place - 1
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0, position]
    assert sum(value for _, value in told["parts"]) == pytest.approx(
        float(logits[token["i"]]), abs=2e-3
    )
    assert len(told["tokens"]) == position + 1
    hidden = model.hidden_states(torch.tensor([ids[: position + 1]]))
    assert hidden.shape[1] == position + 1
    assert len(told["norms"]["residual"]) == len(model.blocks) + 1


def test_heads_rows_sum_to_one_and_tiles_are_the_same_matrix(
    client: TestClient, studio: Studio, answer: dict[str, Any]
) -> None:
    from glassbox.inspection import attention_patterns

    ids = ids_of(answer)
    position = len(answer["prompt"]) + 3 - 1
    model = studio.shelf.open("alpha").model
    url = f"/api/messages/{answer['id']}"
    told = client.get(f"{url}/attention?place=3&layer=1").json()
    patterns = attention_patterns(model, torch.tensor([ids]), layers=[1])[1][0]  # (H, T, T)
    for head, row in enumerate(told["weights"]):
        assert sum(row) == pytest.approx(1, abs=1e-3)
        expected = patterns[head, position, : position + 1].tolist()
        assert row == pytest.approx(expected, abs=2e-5)
    tile = client.get(f"{url}/tile?layer=1&head=1&row=2&column=1").json()
    expected = (patterns[1, 2:, 1:] * 255).round()
    assert tile["size"] == len(ids)
    assert torch.equal(torch.tensor(tile["rows"]), expected[:256, :256].long())
    for query in ("tile?layer=1&head=9", "attention?place=3&layer=99", "inside?place=999"):
        assert client.get(f"{url}/{query}").status_code == 400, query


def test_influences_sum_to_what_the_whole_text_does(
    client: TestClient, studio: Studio, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from glassbox.inspection import inspect

    # these random weights bend the path more than trained ones
    monkeypatch.setattr(inside, "GRADIENT_STEPS", 400)
    told = client.get(f"/api/messages/{answer['id']}/influence?place=3").json()
    ids = ids_of(answer)[: len(answer["prompt"]) + 3]
    token = answer["tokens"][3]["i"]
    model = studio.shelf.open("alpha").model
    baseline = model.embedding.weight.detach().mean(0)
    with torch.no_grad(), inspect(model, patch={"embedding": baseline}):
        there = model(torch.tensor([ids]))[0, -1].log_softmax(-1)[token]
    difference = answer["tokens"][3]["l"] - float(there)
    assert len(told["values"]) == len(ids)
    assert sum(told["values"]) == pytest.approx(difference, abs=0.02)


def test_an_answer_without_a_head_is_that_of_a_model_without_it(
    client: TestClient, studio: Studio, answer: dict[str, Any]
) -> None:
    body = {"parent": answer["parent"], "model": "alpha", "sampling": SAMPLING}
    changes = {"heads": [[0, 1]], "parts": ["blocks.1.ffn"]}
    url = f"/api/chats/{answer['chat']}/answers"
    told = client.post(url, json={**body, "changes": changes}).json()
    without = finished(studio, told["id"])
    assert without["status"] == "done"
    opened = studio.shelf.open("alpha")
    other = copy.deepcopy(opened.model)
    mixer, ffn = other.blocks[0].mixer, other.blocks[1].ffn
    with torch.no_grad():
        size = mixer.head_dim
        mixer.output.weight[:, size : 2 * size] = 0
        for name, weight in ffn.named_parameters():
            if name.startswith(("down", "output")):
                weight.zero_()
    params = SamplingParams(**SAMPLING, stop_token_ids=tuple(_ends(opened)))
    (expected,) = Engine(other, opened.tokenizer).generate([answer["prompt"]], params)
    assert [token["i"] for token in without["tokens"]] == expected.token_ids
    assert expected.token_ids != [token["i"] for token in answer["tokens"]]
    assert without["request"]["changes"]["heads"] == [[0, 1]]
    # and nothing of it stays
    again = finished(studio, client.post(url, json=body).json()["id"])
    before = [token["l"] for token in answer["tokens"]]
    # its prompt now comes from the prefix cache, which rounds otherwise
    assert [token["l"] for token in again["tokens"]] == pytest.approx(before, abs=1e-5)
    for wrong in ({"heads": [[9, 9]]}, {"parts": ["blocks.77"]}):
        failed = finished(studio, client.post(url, json={**body, "changes": wrong}).json()["id"])
        assert failed["status"] == "failed"
        assert "none of this model" in failed["note"]


def test_steering_moves_the_stream_and_zero_moves_nothing(
    client: TestClient, studio: Studio, answer: dict[str, Any]
) -> None:
    body = {"parent": answer["parent"], "model": "alpha", "sampling": SAMPLING}
    found = {}
    for scale in (0.0, 8.0):
        steer = {"layer": 0, "toward": "fox", "away": "girl", "scale": scale}
        told = client.post(
            f"/api/chats/{answer['chat']}/answers", json={**body, "changes": {"steer": steer}}
        ).json()
        found[scale] = [token["l"] for token in finished(studio, told["id"])["tokens"]]
    assert found[0.0] == pytest.approx([token["l"] for token in answer["tokens"]], abs=1e-4)
    assert found[8.0][0] != pytest.approx(answer["tokens"][0]["l"], abs=1e-3)


def test_changes_are_said_in_words() -> None:
    changes = Changes(heads=[(2, 1)], parts=["blocks.3.ffn"])
    assert describe(changes.model_dump()) == "without head 2.1, blocks.3.ffn"


def _ends(opened: Any) -> list[int]:
    from glassbox.inference.chat import end_of_turn_ids

    return end_of_turn_ids(opened.tokenizer)
