"""The HTTP API: OpenAI's paths and shapes, answered by one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware

from glassbox.serving.bodies import (
    Body,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)
from glassbox.serving.chat_body import ChatBody
from glassbox.serving.errors import Json, add_handlers
from glassbox.serving.gate import Gate
from glassbox.serving.logs import RequestLog, caller
from glassbox.serving.metrics import CONTENT_TYPE
from glassbox.serving.page import root_page
from glassbox.serving.reading import BodyReader, BodyRoute
from glassbox.serving.service import Service

_BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/embeddings": EmbeddingBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
PATHS = frozenset({*_BODIES, "/", "/docs", "/health", "/metrics", "/v1/models", "/openapi.json"})
"""Every path without parameters."""
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": _ERROR}}}
    for status, what in {
        400: "Invalid request",
        401: "Missing or invalid API key",
        403: "Host name not allowed",
        404: "No such model",
        413: "The body is too large",
        422: "Invalid request",
        429: "Queue full; see Retry-After",
        503: "The server is shutting down",
    }.items()
}


def build_app(
    service: Service, *, keys: Sequence[str] = (), origins: Sequence[str] = ()
) -> FastAPI:
    """The application; the engine thread starts and ends with it.

    origins: CORS origins whose pages may read responses.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)
            app.state.body_reader.close()

    # the pages that FastAPI would add fetch scripts from elsewhere
    app = FastAPI(
        title="Glassbox", lifespan=lifespan, docs_url=None, redoc_url=None, responses=_ERRORS
    )
    app.add_middleware(
        Gate,
        keys=keys,
        max_body_bytes=service.limits.max_body_bytes,
        max_bodies_bytes=service.limits.max_bodies_bytes,
        draining=lambda: service.draining,
    )
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(RequestLog, metrics=service.metrics, paths=PATHS)  # outermost
    add_handlers(app, _BODIES)
    app.state.body_reader = BodyReader(service.limits, _BODIES)
    app.router.route_class = BodyRoute
    _add_paths(app, service)
    _add_page(app, service, needs_key=bool(keys))
    return app


def _add_page(app: FastAPI, service: Service, *, needs_key: bool) -> None:
    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def page(request: Request) -> Response:
        return root_page(
            host=request.headers.get("host", ""),
            accept_language=request.headers.get("accept-language", ""),
            model=None if needs_key else service.name,  # not disclosed without a key
            needs_key=needs_key,
        )


def _add_paths(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        return service.health()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": service.model_cards()})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        return Json(service.model_card(service.chosen(model)))

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await service.complete(body, caller(request.scope))

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        return await service.chat(body, caller(request.scope))

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        return await service.embed(body, caller(request.scope))

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        return Json(await service.tokenize(body))

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Response:
        return Json(await service.detokenize(body))
