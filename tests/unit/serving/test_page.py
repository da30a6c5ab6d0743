"""The page at the server's root."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from glassbox.serving.app import build_app
from glassbox.serving.service import Service
from support.scripted import Scripted
from support.tiny_chat import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ENGLISH, CHINESE = "Glassbox server", "推理服务"


def client(name: str = "tiny", keys: tuple[str, ...] = ()) -> TestClient:
    service = Service(Scripted(TOKENIZER, [5, 6]), TOKENIZER, name=name)
    return TestClient(build_app(service, keys=keys), base_url="http://127.0.0.1:8000")


class Reader(HTMLParser):
    """Tags, attributes that fetch something, and the text of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.example = ""
        self.lang = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.fetched += [name for name in found if name in ("src", "href") or name.startswith("on")]
        self.lang = found.get("lang") or self.lang

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "pre":
            self.example += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize(
    ("accepted", "words", "lang"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", CHINESE, "zh-CN"),
        ("zh", CHINESE, "zh-CN"),
        ("en-GB,en;q=0.9,zh;q=0.8", ENGLISH, "en"),
        ("fr,zh;q=0.2,en;q=0.1", CHINESE, "zh-CN"),
        ("zh;q=0", ENGLISH, "en"),
        ("zh;q=x", ENGLISH, "en"),
        ("", ENGLISH, "en"),
        (",;,=" * 2000, ENGLISH, "en"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    path: str, accepted: str, words: str, lang: str
) -> None:
    with client() as opened:
        response = opened.get(path, headers={"Accept-Language": accepted})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-language"] == lang
    assert words in response.text
    assert read(response.text).lang == lang


def test_the_page_fetches_nothing_and_its_policy_allows_its_own_style_only() -> None:
    with client() as opened:
        response = opened.get("/")
    reader = read(response.text)
    assert "script" not in reader.tags
    assert reader.fetched == []
    (style,) = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["tiny", "it's", "a</pre><script>alert(1)</script>", "中\\n"])
def test_the_example_is_a_request_that_is_answered(name: str) -> None:
    with client(name) as opened:
        text = opened.get("/").text
        words = shlex.split(read(text).example.replace("\\\n", " "))
        assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
        body = json.loads(words[words.index("-d") + 1])
        assert body["model"] == name
        answer = opened.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
    assert "<script" not in text


def test_every_endpoint_that_is_listed_exists() -> None:
    with client() as opened:
        listed = re.findall(r"<td><code>(\w+) (/\S*)</code>", opened.get("/").text)
        schema: dict[str, Any] = opened.get("/openapi.json").json()["paths"]
    known = {(method.upper(), path) for path, methods in schema.items() for method in methods}
    known.add(("GET", "/openapi.json"))
    known.remove(("GET", "/v1/models/{model}"))
    assert set(listed) == known


def test_who_has_no_key_sees_the_page_but_not_the_models_name() -> None:
    with client("secret-model", keys=("key",)) as opened:
        response = opened.get("/")
        assert response.status_code == 200
        assert "secret-model" not in response.text
        assert "Authorization: Bearer KEY" in response.text
        assert opened.get("/v1/models").status_code == 401


def test_a_strange_host_is_not_repeated() -> None:
    with client(keys=("key",)) as opened:
        text = opened.get("/", headers={"Host": 'x"><script>alert(1)</script>'}).text
    assert "script" not in text
    assert "http://127.0.0.1:8000/v1" in text
