"""The paths under /api: answers and their tokens, branches, exports, runs, and who is refused."""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from glassbox.formats.huggingface import save_pretrained
from glassbox.serving.app import build_app as build_api
from glassbox.studio.app import Studio, build_app
from support.studio import OWN, make_studio, opening
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return make_studio(tmp_path / "data", runs=[tmp_path / "runs"])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page" / "assets").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<!doctype html><title>studio</title>")
    (tmp_path / "page" / "assets" / "a.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "page"


@pytest.fixture
def client(studio: Studio, page: Path) -> Iterator[TestClient]:
    app = build_app(studio, page=page)
    with TestClient(app, base_url="http://127.0.0.1:8100", headers=OWN) as client:
        yield client


def finished(client: TestClient, message: str) -> dict[str, Any]:
    """A message once it is no longer running."""
    chat = next(
        chat["id"]
        for chat in client.get("/api/chats").json()["chats"]
        if any(one["id"] == message for one in client.get(f"/api/chats/{chat['id']}").json()["messages"])
    )  # fmt: skip
    for _ in range(1000):
        messages = client.get(f"/api/chats/{chat}").json()["messages"]
        found: dict[str, Any] = next(one for one in messages if one["id"] == message)
        if found["status"] != "running":
            return found
        time.sleep(0.01)
    raise AssertionError("it never ended")


def ask(client: TestClient, content: str = "Where is the ball?", **more: Any) -> dict[str, Any]:
    """A chat with one answer by alpha, finished."""
    chat = client.post("/api/chats", json={}).json()["id"]
    body = {"content": content, "to": [{"model": "alpha"}], "sampling": GREEDY, **more}
    answered = client.post(f"/api/chats/{chat}/turns", json=body)
    assert answered.status_code == 200, answered.text
    return finished(client, answered.json()["answers"][0]["id"])


def test_tokens_have_the_log_probs_and_alternatives_that_the_api_gives(client: TestClient) -> None:
    answer = ask(client)
    tokenizer = tiny_tokenizer()
    service = opening(tiny_chat_model(tokenizer, context_length=256), tokenizer)("m", "cpu").service
    with TestClient(build_api(service), base_url="http://localhost") as api:
        told = api.post(
            "/v1/chat/completions",
            json={
                "model": "m", "messages": [{"role": "user", "content": "Where is the ball?"}],
                "temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 10,
            },
        ).json()  # fmt: skip
    entries = told["choices"][0]["logprobs"]["content"]
    shown = [token for token in answer["tokens"] if "e" not in token]
    assert len(shown) == len(entries) >= 5
    for token, entry in zip(shown, entries, strict=True):
        assert token.get("s", token["t"]) == entry["token"]
        assert token["l"] == pytest.approx(entry["logprob"], abs=2e-6)
        assert [(name, value) for _, name, value in token["a"]] == [
            (other["token"], pytest.approx(other["logprob"], abs=2e-6))
            for other in entry["top_logprobs"]
        ]
    assert answer["content"] == told["choices"][0]["message"]["content"]
    assert answer["content"] == "".join(token["t"] for token in answer["tokens"])


def test_the_entropy_is_that_of_the_whole_distribution(client: TestClient) -> None:
    import torch

    answer = ask(client)
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=256)
    ids = [*answer["prompt"], *(token["i"] for token in answer["tokens"])]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0, len(answer["prompt"]) - 1 : -1].double()
    log_probs = logits.log_softmax(-1)
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    assert [token["h"] for token in answer["tokens"]] == pytest.approx(entropies.tolist(), abs=1e-4)
    chosen = log_probs.gather(-1, torch.tensor([[token["i"]] for token in answer["tokens"]]))
    assert [token["l"] for token in answer["tokens"]] == pytest.approx(
        chosen.squeeze(-1).tolist(), abs=1e-4
    )


def test_an_answer_is_continued_from_an_alternative(client: TestClient) -> None:
    answer = ask(client)
    place = 2
    other, _, log_prob = next(
        a for a in answer["tokens"][place]["a"] if a[0] != answer["tokens"][place]["i"]
    )
    body = {
        "parent": answer["parent"], "model": "alpha", "sampling": GREEDY,
        "source": answer["id"], "kept": place, "token": other,
    }  # fmt: skip
    branch = client.post(f"/api/chats/{answer['chat']}/answers", json=body).json()
    branch = finished(client, branch["id"])
    ids = [token["i"] for token in branch["tokens"]]
    assert ids[:place] == [token["i"] for token in answer["tokens"][:place]]
    assert ids[place] == other
    assert branch["tokens"][place]["l"] == log_prob
    assert branch["tokens"][place]["f"] == 1
    assert len(ids) == place + 1 + GREEDY["max_tokens"]
    assert branch["content"] == tiny_tokenizer().decode(ids, skip_special=True)
    assert branch["parent"] == answer["parent"]
    wrong = client.post(f"/api/chats/{answer['chat']}/answers", json={**body, "token": 299})
    assert wrong.status_code == 400
    assert "alternatives" in wrong.json()["error"]["message"]


def test_two_models_side_by_side_share_one_turn_and_part_afterwards(client: TestClient) -> None:
    chat = client.post("/api/chats", json={}).json()["id"]
    body = {"content": "Hello", "to": [{"model": "alpha"}, {"model": "beta"}], "sampling": GREEDY}
    told = client.post(f"/api/chats/{chat}/turns", json=body).json()
    assert len(told["turns"]) == 1
    one, two = (finished(client, answer["id"]) for answer in told["answers"])
    assert one["parent"] == two["parent"]
    assert (one["model"], two["model"]) == ("alpha", "beta")
    to = [{"model": "alpha", "parent": one["id"]}, {"model": "beta", "parent": two["id"]}]
    told = client.post(f"/api/chats/{chat}/turns", json={**body, "to": to}).json()
    assert [turn["parent"] for turn in told["turns"]] == [one["id"], two["id"]]
    for answer in told["answers"]:
        finished(client, answer["id"])


def test_events_give_what_is_new_and_end(client: TestClient) -> None:
    answer = ask(client)
    chat = answer["chat"]
    with client.stream("GET", f"/api/chats/{chat}/events?seen={answer['id']}:3") as stream:
        text = "".join(stream.iter_text())
    first = json.loads(text.split("\n\n")[0].removeprefix("data: "))
    assert (first["message"], first["first"], first["status"]) == (answer["id"], 3, "done")
    assert first["tokens"] == answer["tokens"][3:]
    assert text.endswith("event: end\ndata: {}\n\n")


def test_an_answer_can_be_stopped_and_keeps_what_it_has(tmp_path: Path, page: Path) -> None:
    studio = make_studio(tmp_path / "data", slow=0.02)
    app = build_app(studio, page=page)
    with TestClient(app, base_url="http://localhost", headers=OWN) as client:
        chat = client.post("/api/chats", json={}).json()["id"]
        body = {"content": "Hello", "to": [{"model": "alpha"}], "sampling": {"max_tokens": 200}}
        answer = client.post(f"/api/chats/{chat}/turns", json=body).json()["answers"][0]["id"]
        while not studio.answers._growing[answer].tokens:
            time.sleep(0.01)
        client.post(f"/api/messages/{answer}/stop")
        stopped = finished(client, answer)
        assert stopped["status"] == "stopped"
        assert 0 < len(stopped["tokens"]) < 200
        while not studio.idle or studio.shelf.opened()[0].engine.has_work:
            time.sleep(0.01)  # its cache is free again
    again = make_studio(tmp_path / "data")
    assert again.store.message(answer)["tokens"] == stopped["tokens"]
    again.close()


def test_closing_in_mid_answer_keeps_it_as_interrupted(tmp_path: Path, page: Path) -> None:
    studio = make_studio(tmp_path / "data", slow=0.02)
    with TestClient(
        build_app(studio, page=page), base_url="http://localhost", headers=OWN
    ) as client:
        chat = client.post("/api/chats", json={}).json()["id"]
        body = {"content": "Hello", "to": [{"model": "alpha"}], "sampling": {"max_tokens": 200}}
        answer = client.post(f"/api/chats/{chat}/turns", json=body).json()["answers"][0]["id"]
        while len(studio.answers._growing[answer].tokens) < 3:
            time.sleep(0.01)
    again = make_studio(tmp_path / "data")
    found = again.store.message(answer)
    assert found["status"] == "interrupted"
    assert 3 <= len(found["tokens"]) < 200
    again.close()


def test_what_is_wrong_is_said_in_one_line(client: TestClient) -> None:
    chat = client.post("/api/chats", json={}).json()["id"]
    body = {"content": "Hello", "to": [{"model": "alpha"}], "sampling": GREEDY}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"watermark": {}}}, "watermark"),
        ({"sampling": {"max_tokens": 10**9}}, "max_tokens"),
        ({"to": [{"model": "/etc/passwd"}]}, "start glassbox studio with it"),
        ({"content": "word " * 5000}, "shorten it"),
        ({"to": []}, "to"),
    ]
    for change, said in cases:
        answer = client.post(f"/api/chats/{chat}/turns", json={**body, **change})
        assert answer.status_code == 400, change
        assert said in answer.json()["error"]["message"], change
    assert client.get("/api/chats/none").status_code == 400
    assert client.get("/api/nothing").status_code == 404


def test_who_is_not_the_page_is_refused(client: TestClient, studio: Studio, page: Path) -> None:
    own = client.post("/api/chats", json={})
    assert own.status_code == 200
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:8100"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        for method in ("GET", "POST"):
            answer = client.request(
                method, "/api/chats", json={} if method == "POST" else None, headers=headers
            )
            assert answer.status_code == 403, headers
    without = TestClient(client.app, base_url="http://127.0.0.1:8100")
    assert without.post("/api/chats", json={}).status_code == 403  # CSRF
    assert (
        without.post("/api/chats", content="{}", headers={"content-type": "text/plain"}).status_code
        == 403
    )
    assert without.get("/", headers={"host": "evil.example"}).status_code == 403  # rebinding
    fine = {"origin": "http://127.0.0.1:8100", "sec-fetch-site": "same-origin"}
    assert client.get("/api/chats", headers=fine).status_code == 200


def test_a_key_guards_all_but_the_page_itself(tmp_path: Path, page: Path) -> None:
    studio = make_studio(tmp_path / "data")
    app = build_app(studio, page=page, keys=["sesame"])
    with TestClient(app, base_url="http://localhost", headers=OWN) as client:
        assert client.get("/").status_code == 200
        assert client.get("/chat/anything").status_code == 200
        assert client.get("/api/models").status_code == 401
        assert client.get("/api/models", headers={"authorization": "Bearer x"}).status_code == 401
        right = {"authorization": "Bearer sesame"}
        assert client.get("/api/models", headers=right).status_code == 200


def test_the_page_has_a_policy_and_no_path_leaves_its_folder(client: TestClient) -> None:
    for path in ("/", "/chat/abc?m=1", "/runs", "/tokenizer"):
        answer = client.get(path)
        assert answer.text.startswith("<!doctype html>")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert client.get("/assets/a.js").text == "1"
    for path in (
        "/assets/../../secret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
    ):
        assert "secret" not in client.get(path).text


def test_the_python_export_gives_the_same_answer(tmp_path: Path, page: Path) -> None:
    tokenizer = tiny_tokenizer()
    save_pretrained(
        tiny_chat_model(tokenizer, context_length=256), tmp_path / "m", tokenizer=tokenizer
    )
    name = str(tmp_path / "m")
    studio = make_studio(tmp_path / "data", names=[name])
    with TestClient(
        build_app(studio, page=page), base_url="http://localhost", headers=OWN
    ) as client:
        chat = client.post("/api/chats", json={}).json()["id"]
        sampling = {"temperature": 1.0, "max_tokens": 10, "top_p": 0.9}
        body = {
            "content": "Hi 'there'",
            "to": [{"model": name}],
            "sampling": sampling,
            "system": "Be brief.",
        }
        told = client.post(f"/api/chats/{chat}/turns", json=body).json()
        answer = finished(client, told["answers"][0]["id"])
        other = answer["tokens"][1]["a"][3][0]
        branched = client.post(
            f"/api/chats/{chat}/answers",
            json={
                "parent": answer["parent"], "model": name, "sampling": sampling, "system": "Be brief.",
                "source": answer["id"], "kept": 1, "token": other,
            },
        ).json()  # fmt: skip
        branched = finished(client, branched["id"])
        for shown in (answer, branched):
            code = client.get(f"/api/messages/{shown['id']}/export?form=python").text
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(code, "export.py", "exec"), {})
            assert said.getvalue().startswith(shown["content"] + "\n")


def test_the_page_export_holds_text_as_text(client: TestClient, studio: Studio) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    answer = ask(client, content=evil)
    text = client.get(f"/api/messages/{answer['id']}/export?form=html").text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<img" not in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")  # nothing from elsewhere
    assert f"{math.exp(answer['tokens'][0]['l']):.4f}" in text


def test_metrics_come_as_they_are_written(client: TestClient, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    file = folder / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (run,) = client.get("/api/runs").json()["runs"]
    assert (run["name"], run["status"], run["step"], run["loss"]) == (
        str(folder),
        "running",
        1,
        2.0,
    )
    told = client.get("/api/run/metrics", params={"name": str(folder)}).json()
    assert told["records"] == [{"step": 1, "loss": 2.0}]
    with file.open("a") as stream:
        stream.write('ss": 1.5}\nnonsense\n{"step": 3, "loss": 1.0}\n')
    more = client.get(
        "/api/run/metrics", params={"name": str(folder), "offset": told["offset"]}
    ).json()
    assert more["records"] == [{"step": 2, "loss": 1.5}, {"step": 3, "loss": 1.0}]
    assert more["offset"] == file.stat().st_size
    file.write_text('{"step": 1, "loss": 9.0}\n')
    anew = client.get(
        "/api/run/metrics", params={"name": str(folder), "offset": more["offset"]}
    ).json()
    assert anew["restarted"]
    assert anew["records"] == [{"step": 1, "loss": 9.0}]
    for name in ("/etc", str(tmp_path), "../.."):
        assert client.get("/api/run", params={"name": name}).status_code == 400
    (folder / "DONE.json").write_text("{}")
    assert client.get("/api/runs").json()["runs"][0]["status"] == "finished"


def test_a_recipe_is_a_form_and_what_it_refuses_is_not_started(client: TestClient) -> None:
    names = [one["name"] for one in client.get("/api/recipes").json()["recipes"]]
    assert "pretrain/pretrain.yaml" in names
    told = client.get("/api/recipe", params={"name": "pretrain/pretrain.yaml"}).json()["fields"]
    fields = {one["key"]: one for one in told}
    assert fields["train.steps"]["kind"] == "integer"
    assert (fields["train.early_stop"]["kind"], fields["train.early_stop"]["value"]) == (
        "switch",
        False,
    )
    assert {"auto", "true", "false"} <= set(fields["train.compile"]["choices"])
    assert "bfloat16" in fields["train.precision"]["choices"]
    assert fields["train.lr"]["about"]
    for body, said in (
        ({"recipe": "/etc/passwd"}, "no recipe"),
        ({"recipe": names[0], "changes": {"no.such": 1}}, "no field"),
        ({"recipe": "pretrain/pretrain.yaml", "changes": {"train.steps": -1}}, "train.steps"),
    ):
        answer = client.post("/api/launches", json=body)
        assert answer.status_code == 400, body
        assert said in answer.json()["error"]["message"]
    assert client.get("/api/launches").json() == {"launches": []}
    assert client.post("/api/launches/1/stop").status_code == 400


def test_texts_are_cut_as_the_tokenizer_cuts_them_and_masks_say_what_is_learned(
    client: TestClient,
) -> None:
    tokenizer = tiny_tokenizer()
    text = "The fox found 狐狸 <|im_end|>"
    told = client.post("/api/tokenize", json={"model": "alpha", "text": text}).json()
    assert [piece["id"] for piece in told["pieces"]] == tokenizer.encode(text)
    assert told["bytes"] == len(text.encode())
    assert not any(piece["special"] for piece in told["pieces"])  # typed control tokens are text
    chat = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    ids, mask = tokenizer.encode_chat(chat)
    told = client.post("/api/mask", json={"model": "alpha", "messages": chat}).json()
    assert [piece["id"] for piece in told["pieces"]] == ids
    assert [piece["learned"] for piece in told["pieces"]] == [bool(flag) for flag in mask]
    assert told["learned"] == sum(map(bool, mask)) > 0


def test_the_engine_is_seen_while_it_works(tmp_path: Path, page: Path) -> None:
    studio = make_studio(tmp_path / "data", slow=0.02)
    with TestClient(
        build_app(studio, page=page), base_url="http://localhost", headers=OWN
    ) as client:
        assert client.get("/api/live").json() == {"engines": []}
        chat = client.post("/api/chats", json={}).json()["id"]
        body = {"content": "Hello", "to": [{"model": "alpha"}] * 2, "sampling": {"max_tokens": 200}}
        told = client.post(f"/api/chats/{chat}/turns", json=body).json()
        for _ in range(200):
            (engine,) = client.get("/api/live").json()["engines"]
            if len(engine["sequences"]) == 2 and engine["tokens_generated"] > 4:
                break
            time.sleep(0.01)
        assert engine["running"] == 2
        used = {block for one in engine["sequences"] for block in one["blocks"]}
        assert all(engine["blocks"][block] in "us" for block in used)
        assert len(used) == sum(engine["blocks"].count(letter) for letter in "us") > 0
        for answer in told["answers"]:
            client.post(f"/api/messages/{answer['id']}/stop")
