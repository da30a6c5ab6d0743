"""The page at the server's root: what this is, its endpoints, and a request to try, in two languages."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from starlette.responses import Response

_STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1b1b;background:#fff}code,pre{font:14px/1.5 ui-monospace,monospace}"
    "pre{background:#f4f4f4;padding:1rem;overflow-x:auto}table{border-collapse:collapse;width:100%}"
    "td{border-top:1px solid #ddd;padding:.4rem .6rem .4rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}pre{background:#262626}"
    "td{border-color:#444}a{color:#8ab4f8}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Language",
    }
)
_HOST = re.compile(r"[A-Za-z0-9.\-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


@dataclass(frozen=True)
class _Words:
    title: str
    what: str
    model: str
    hidden: str
    endpoints: str
    example: str
    key: str
    question: str
    paths: Mapping[str, str]


_ENGLISH = _Words(
    title="Glassbox server",
    what="This server answers OpenAI's API with a language model. Any client of that API can use it: "
    "set its base URL to <code>{url}/v1</code>.",
    model="Model: <code>{model}</code>",
    hidden="The model's name is listed at <code>GET /v1/models</code>, which needs the API key.",
    endpoints="Endpoints",
    example="Example",
    key="Requests need an API key: <code>Authorization: Bearer KEY</code>.",
    question="Hello!",
    paths=MappingProxyType(
        {
            "POST /v1/chat/completions": "Answer a chat; tools, JSON schemas, streaming",
            "POST /v1/completions": "Continue a text; log-probabilities, streaming",
            "POST /v1/embeddings": "Vectors of texts",
            "GET /v1/models": "The model and its adapters",
            "POST /tokenize": "Text or chat to token ids",
            "POST /detokenize": "Token ids to text",
            "GET /health": "Whether requests are answered",
            "GET /metrics": "Figures for Prometheus",
            "GET /openapi.json": "The schema of all requests",
        }
    ),
)
_CHINESE = _Words(
    title="Glassbox 推理服务",
    what="本服务通过 OpenAI 兼容的 API 提供语言模型推理。任何支持该 API 的客户端都可以使用，"
    "只需将 base URL 设为 <code>{url}/v1</code>。",
    model="模型：<code>{model}</code>",
    hidden="模型名称可通过 <code>GET /v1/models</code> 查询（需要 API key）。",
    endpoints="接口",
    example="示例",
    key="请求需要携带 API key：<code>Authorization: Bearer KEY</code>。",
    question="你好！",
    paths=MappingProxyType(
        {
            "POST /v1/chat/completions": "对话补全，支持工具调用、JSON Schema 约束和流式输出",
            "POST /v1/completions": "文本补全，支持返回对数概率和流式输出",
            "POST /v1/embeddings": "计算文本向量",
            "GET /v1/models": "列出模型及其适配器",
            "POST /tokenize": "将文本或对话编码为 token id",
            "POST /detokenize": "将 token id 解码为文本",
            "GET /health": "健康检查",
            "GET /metrics": "Prometheus 指标",
            "GET /openapi.json": "所有请求的 OpenAPI 描述",
        }
    ),
)


def root_page(*, host: str, accept_language: str, model: str | None, needs_key: bool) -> Response:
    """The page. `model` is None where its name is not to be told; `host` is what the client calls us."""
    chinese = prefers_chinese(accept_language)
    words = _CHINESE if chinese else _ENGLISH
    url = f"http://{host if _HOST.fullmatch(host) else '127.0.0.1:8000'}"
    asked = {
        "model": "MODEL" if model is None else model,
        "messages": [{"role": "user", "content": words.question}],
        "max_tokens": 50,
    }
    # in single quotes for a shell, which ends a quote to write one
    data = json.dumps(asked, ensure_ascii=False).replace("'", "'\\''")
    key = " \\\n  -H 'Authorization: Bearer KEY'" if needs_key else ""
    command = (
        f"curl {url}/v1/chat/completions \\\n  -H 'Content-Type: application/json'{key} \\\n"
        f"  -d '{data}'"
    )
    rows = "".join(
        f"<tr><td><code>{path}</code></td><td>{what}</td></tr>\n"
        for path, what in words.paths.items()
    )
    told = words.hidden if model is None else words.model.format(model=html.escape(model))
    text = (
        f'<!doctype html>\n<html lang="{"zh-CN" if chinese else "en"}">\n<head>\n'
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{words.title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{words.title}</h1>\n<p>{words.what.format(url=html.escape(url))}</p>\n"
        f"<p>{told}</p>\n" + (f"<p>{words.key}</p>\n" if needs_key else "") + f"<h2>{words.example}"
        f"</h2>\n<pre>{html.escape(command)}</pre>\n<h2>{words.endpoints}</h2>\n<table>\n{rows}"
        "</table>\n</body>\n</html>\n"
    )
    headers = {**_HEADERS, "Content-Language": "zh-CN" if chinese else "en"}
    return Response(
        text.encode("utf-8", "replace"), media_type="text/html; charset=utf-8", headers=headers
    )


def prefers_chinese(accept_language: str) -> bool:
    """Whether Chinese stands before English in an Accept-Language header.

    >>> prefers_chinese("zh-CN,zh;q=0.9,en;q=0.8"), prefers_chinese("en,zh;q=0.5"), prefers_chinese("")
    (True, False, False)
    """
    best = {"zh": 0.0, "en": 0.0}
    for part in accept_language[:1000].split(","):
        name, _, rest = part.strip().partition(";")
        language = name.strip().lower().partition("-")[0]
        weight = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", rest) if rest else None
        value = 1.0 if not rest else float(weight[1]) if weight else 0.0
        if language in best:
            best[language] = max(best[language], value)
    return best["zh"] > best["en"]
