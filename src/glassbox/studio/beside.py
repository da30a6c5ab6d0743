"""The studio and the OpenAI-compatible server in one process, over one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import platformdirs
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.serving.app import PATHS
from glassbox.serving.metrics import Metrics
from glassbox.serving.service import Service
from glassbox.studio.app import Studio
from glassbox.studio.models import Opened, Shelf
from glassbox.studio.store import Store
from glassbox.studio.trainings import Trainings


def studio_of(service: Service, path: Path, *, data: Path | None = None) -> Studio:
    """A studio whose one model is that of a server, in the server's engine and thread.

    data: the folder of the chats; default: the user's data folder.
    Raises UserError for a server without a model.
    """
    engine = service.engine
    if service.model is None or not isinstance(engine, Engine):
        raise UserError("the studio needs the model, which this server does not have")
    opened = Opened(
        service.name, service.model, service.tokenizer, engine, service, path, shared=True
    )
    folder = Path(platformdirs.user_data_dir("glassbox", appauthor=False)) if data is None else data
    shelf = Shelf([service.name], opening=lambda name, device: opened)
    return Studio(Store(folder), shelf, Trainings([]))


class Both:
    """An application of two: the server's paths go to the server, all others to the studio.

    `Served` of both: draining ends both, and it is idle when both are.
    """

    def __init__(self, server: FastAPI, service: Service, page: FastAPI, studio: Studio) -> None:
        self.server = server
        self.page = page
        self._service = service
        self._studio = studio
        self.metrics: Metrics = service.metrics
        self.name = f"{service.name} and its studio"
        self._lifespans: ASGIApp = FastAPI(lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] == "lifespan":
            await self._lifespans(scope, receive, send)
            return
        path: str = scope["path"]
        served = path in _SERVED or path.startswith("/v1/")
        await (self.server if served else self.page)(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with (
            self.server.router.lifespan_context(self.server),
            self.page.router.lifespan_context(self.page),
        ):
            yield

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._service.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._service.draining = self._studio.draining = value

    @property
    def idle(self) -> bool:
        """Whether neither has a request or an answer under way."""
        return self._service.idle and self._studio.idle


_SERVED = PATHS - {"/"}
