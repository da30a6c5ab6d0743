"""Adapters behind the HTTP API: a request's `model` names one; every answer is the engine's with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from fastapi.testclient import TestClient

from glassbox.adapters.attach import attach, detach
from glassbox.adapters.base import adapters_of
from glassbox.adapters.specs import Lora, PrefixTuning
from glassbox.api.llm import LLM
from glassbox.cli.main import main
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.peft import load_adapter, save_adapter
from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.inference.scoring import embed, score_prompts
from glassbox.models.causal_lm import CausalLM
from glassbox.serving.app import build_app
from glassbox.serving.service import Service
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CHAT: list[Any] = [{"role": "user", "content": "Where is the fox?"}]
URL = "http://127.0.0.1"
NAMES = ["tiny", "poet", "clerk"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, model = tmp_path_factory.mktemp("adapters"), tiny_chat_model(TOKENIZER)
    save_pretrained(model, root / "tiny", tokenizer=TOKENIZER)
    for seed, name in enumerate(NAMES[1:]):
        attach(model, Lora(rank=2))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in adapters_of(model).state().values():
                tensor.normal_(std=0.4, generator=generator)
        save_adapter(model, root / name)
        detach(model)
    attach(model, PrefixTuning(tokens=2))
    save_adapter(model, root / "prefix")
    return {name: root / name for name in (*NAMES, "prefix")}


def alone(folders: dict[str, Path], name: str) -> CausalLM:
    """The model with this adapter attached to all of it."""
    model = tiny_chat_model(TOKENIZER)
    if name != "tiny":
        load_adapter(model, folders[name])
    return model


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    model = tiny_chat_model(TOKENIZER)
    adapters = {name: folders[name] for name in NAMES[1:]}
    engine = Engine(model, TOKENIZER, adapters=adapters, keep_prefixes=True, block_size=4)
    service = Service(engine, TOKENIZER, name="tiny", model=model, adapters=list(adapters))
    with TestClient(build_app(service), base_url=URL) as found:
        yield found


def test_the_openai_client_chooses_an_adapter_by_model_name(client, folders):
    told = openai.OpenAI(base_url=f"{URL}/v1", api_key="k", max_retries=0, http_client=client)
    assert [card.id for card in told.models.list()] == NAMES
    assert told.models.retrieve("poet").model_dump()["parent"] == "tiny"

    def ask(case: tuple[str, int]) -> str:
        name, seed = case
        chat = told.chat.completions.create(model=name, messages=CHAT, seed=seed, max_tokens=30)
        assert chat.model == name
        return chat.choices[0].message.content or ""

    cases = [(name, seed) for seed in range(3) for name in NAMES]
    with ThreadPoolExecutor(len(cases)) as pool:  # all in one batch
        texts = list(pool.map(ask, cases))
    assert len(set(texts)) == len(texts)
    prompt, ends = TOKENIZER.encode_chat_prompt(CHAT), tuple(end_of_turn_ids(TOKENIZER))
    for (name, seed), text in zip(cases, texts, strict=True):
        params = SamplingParams(seed=seed, max_tokens=30, stop_token_ids=ends)
        engine = Engine(alone(folders, name), TOKENIZER)
        assert text == engine.generate([prompt], params)[0].text


@pytest.mark.parametrize("name", NAMES)
def test_streams_scores_and_embeddings_are_the_adapters_too(client, folders, name):
    model, ids = alone(folders, name), TOKENIZER.encode("The fox found")
    body = {"model": name, "prompt": ids, "max_tokens": 6, "temperature": 0}
    scored = client.post("/v1/completions", json={**body, "echo": True, "logprobs": 1}).json()
    (scores,) = filter(None, score_prompts(model, [ids]))
    found = scored["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
    assert found == pytest.approx(scores.log_probs[1:], abs=1e-4)
    params = SamplingParams(max_tokens=6, temperature=0)
    text = Engine(model, TOKENIZER).generate([ids], params)[0].text
    streamed = client.post("/v1/completions", json={**body, "stream": True}).text
    assert f'"model":"{name}"' in streamed
    assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == text
    asked = {"model": name, "input": ids, "encoding_format": "base64"}
    answer = client.post("/v1/embeddings", json=asked).json()
    assert answer["model"] == name
    vector = torch.frombuffer(
        bytearray(base64.b64decode(answer["data"][0]["embedding"])), dtype=torch.float32
    )
    ((_, expected),) = embed(model, [ids])
    torch.testing.assert_close(vector, expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("path", ["completions", "chat/completions", "embeddings"])
def test_an_unknown_name_is_no_model(client, path):
    body = {
        "completions": {"prompt": "a"},
        "chat/completions": {"messages": CHAT},
        "embeddings": {"input": "a"},
    }[path]
    answer = client.post(f"/v1/{path}", json={"model": "nobody", **body})
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "no model 'nobody'; this server has 'tiny', 'poet', 'clerk'",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert client.get("/v1/models/nobody").status_code == 404


def test_the_command_refuses_in_one_line_what_is_no_adapter(folders, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders["poet"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "adapter_model.safetensors").write_bytes(b"rubbish")
    wrong = {
        "poet": "NAME=PATH",
        "poet=": "NAME=PATH",
        f"tiny={folders['poet']}": "is taken",
        f"a b={folders['poet']}": "letters, digits",
        f"poet={tmp_path / 'nothing'}": "no adapter at",
        f"poet={folders['tiny']}": "holds a model and no adapter; give it as MODEL",
        f"poet={broken}": "adapter_model.safetensors",
        f"poet={folders['prefix']}": "kind 'prefix' cannot be chosen a request",
    }
    for words, reason in wrong.items():
        arguments = ["serve", str(folders["tiny"]), "--port", "0", "--adapters", words]
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        said = capsys.readouterr()
        assert reason in said.err, said.err
        assert said.out == ""
        assert "Traceback" not in said.err
        assert len(said.err.strip().splitlines()) == 1, said.err


def test_the_command_serves_an_adapter_and_generates_with_one(folders):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "glassbox", "--threads", "1"]
    serve = ["serve", str(folders["tiny"]), "--port", "0", "--device", "cpu"]
    for name in NAMES[1:]:
        serve += ["--adapters", f"{name}={folders[name]}"]
    options = ["--max-tokens", "8", "--temperature", "0", "--device", "cpu"]
    adapter = ["--adapter", str(folders["poet"])]
    process = subprocess.Popen(words + serve, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = subprocess.run(
            [*words, "generate", str(folders["tiny"]), "-p", "The fox", *options, *adapter],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        ).stdout
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        told = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        answer = told.completions.create(
            model="poet", prompt="The fox", max_tokens=8, temperature=0
        )
        assert [card.id for card in told.models.list()] == NAMES
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    assert said == answer.choices[0].text + "\n"
    assert answer.model == "poet"


def test_llm_takes_adapters(folders):
    llm = LLM(folders["tiny"], device="cpu", adapters={"poet": folders["poet"]})
    params = SamplingParams(max_tokens=8, temperature=0)
    answers = llm.generate(["The fox"] * 2, params, adapter=[None, "poet"])
    for name, answer in zip(("tiny", "poet"), answers, strict=True):
        engine = Engine(alone(folders, name), TOKENIZER)
        assert answer.text == engine.complete("The fox", params)[0].text
    answer = llm.chat(CHAT, params, adapter="poet")[0].text
    assert answer != llm.chat(CHAT, params)[0].text

    async def streamed(adapter: str | None) -> str:
        return "".join([e.text or "" async for e in llm.stream(CHAT, params, adapter=adapter)])

    assert asyncio.run(streamed("poet")) == answer
    expected = next(embed(alone(folders, "poet"), [TOKENIZER.encode("The fox")]))[1]
    torch.testing.assert_close(llm.embed("The fox", adapter="poet"), expected)
    assert not torch.allclose(llm.embed("The fox"), expected, atol=1e-3)
    # a conversation in the terminal, and what the command makes of a wrong one
    words = ["chat", str(folders["tiny"]), "--temperature", "0", "--max-tokens", "8"]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("sys.stdin", io.StringIO(CHAT[0]["content"]))
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--device", "cpu", "--adapter", str(folders["poet"])])
    assert answer in said.getvalue()
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--adapter", "nowhere"])
