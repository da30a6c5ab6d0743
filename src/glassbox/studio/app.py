"""The studio's application: the page's files, and the paths under /api that it calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import FileResponse, StreamingResponse

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.version import __version__
from glassbox.inference.sampling.params import SamplingParams
from glassbox.serving.errors import ApiError, Json, add_handlers, json_bytes
from glassbox.serving.gate import Gate
from glassbox.serving.metrics import Metrics
from glassbox.studio import bodies, export, inside, launches, live, pieces, world
from glassbox.studio.answers import Answers
from glassbox.studio.guard import Guard, is_page
from glassbox.studio.models import Opened, Shelf
from glassbox.studio.store import Store
from glassbox.studio.trainings import Trainings

_MAX_BODY_BYTES = 4 << 20
_EVENTS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_SLOW_SECONDS = 15.0


class Studio:
    """State of the studio: chats, models, runs. Closes all of it with the application."""

    def __init__(self, store: Store, shelf: Shelf, trainings: Trainings) -> None:
        self.store = store
        self.shelf = shelf
        self.trainings = trainings
        self.answers = Answers(store)
        self.patterns = inside.Patterns()
        self.laws = world.Laws()
        self.launches = launches.Launches(store.path.parent / "logs")
        trainings.also(self.launches.folders)
        self.name = "the studio"
        self.draining = False
        self.metrics = Metrics()

    @property
    def idle(self) -> bool:
        """Whether no answer is under way."""
        return not self.answers.running

    def close(self) -> None:
        """Stop the answers, save them, close the models and the file."""
        self.answers.close()
        self.shelf.close()
        self.store.close()

    # ---- chats ------------------------------------------------------------------------------

    def send(self, chat: str, turn: bodies.Turn) -> dict[str, Any]:
        """Add the user's turn, once for all columns that have the same parent; begin the answers."""
        _check_sampling(turn.sampling)
        opened = [self.shelf.open(column.model) for column in turn.to]
        turns: dict[str | None, dict[str, Any]] = {}
        answers = []
        for column, model in zip(turn.to, opened, strict=True):
            said = turns.get(column.parent)
            if said is None:
                said = self.store.add_message(chat, column.parent, "user", turn.content)
                turns[column.parent] = said
            answers.append(
                self.answers.begin(
                    model,
                    chat,
                    said["id"],
                    sampling=turn.sampling,
                    system=turn.system,
                    plain=turn.plain,
                )
            )
        if not self.store.chat(chat)["title"]:
            self.store.change_chat(chat, title=" ".join(turn.content.split())[:60])
        return {"turns": list(turns.values()), "answers": answers}

    def answer(self, chat: str, body: bodies.Answer) -> dict[str, Any]:
        """Another answer to a turn: from its beginning, or from a token of an earlier one on."""
        _check_sampling(body.sampling)
        kept: list[dict[str, Any]] = []
        if body.source is not None:
            tokens = self.store.message(body.source)["tokens"]
            kept = tokens[: body.kept]
            if body.token is not None:
                kept = [*kept, _instead(tokens, body.kept, body.token)]
        opened = self.shelf.open(body.model)
        return self.answers.begin(
            opened, chat, body.parent,
            sampling=body.sampling, system=body.system, plain=body.plain,
            kept=_with_text(opened, kept), changes=body.changes,
        )  # fmt: skip

    def edit(self, chat: str, body: bodies.Edit) -> dict[str, Any]:
        """Another version of an answer, in the user's words."""
        old = self.store.message(body.message)
        return self.store.add_message(
            chat, old["parent"], old["role"], body.content, model=old["model"], status="edited"
        )

    def inside(self, message: str) -> tuple[Opened, list[int], int]:
        """The model of an answer, its token ids (prompt and answer), and where the answer begins.

        Raises UserError for a message without tokens.
        """
        found = self.store.message(message)
        if not found["model"] or not found["tokens"]:
            raise UserError("this message has no tokens; choose an answer that a model gave")
        ids = [*found["prompt"], *(token["i"] for token in found["tokens"])]
        return self.shelf.open(found["model"]), ids, len(found["prompt"])

    def stop(self, message: str) -> None:
        """Stop an answer."""
        found = self.store.message(message)
        if found["model"]:
            self.answers.stop(self.shelf.open(found["model"]), message)


def _instead(tokens: Sequence[Mapping[str, Any]], place: int, token: int) -> dict[str, Any]:
    """The token at `place` replaced by one of its alternatives."""
    if place >= len(tokens):
        raise UserError(f"the answer has {len(tokens)} tokens, none at place {place}")
    there = tokens[place]
    for other, name, log_prob in there["a"]:
        if other == token:
            return {**there, "i": other, "t": name, "l": log_prob, "m": 0.0, "f": 1}
    raise UserError(f"token {token} is not among the alternatives at place {place}")


def _with_text(opened: Opened, kept: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens with the text that each adds after those before it."""
    decoder = opened.tokenizer.stream_decoder(skip_special=True)
    found = []
    for token in kept:
        name = token.get("s", token["t"])
        text = decoder.push(token["i"])
        one = {key: value for key, value in token.items() if key not in ("s", "e")} | {"t": text}
        found.append(one if name == text else {**one, "s": name})
    return found


def _check_sampling(values: Mapping[str, Any]) -> None:
    parse(SamplingParams, dict(values), where="sampling")


def build_app(studio: Studio, *, page: Path, keys: Sequence[str] = ()) -> FastAPI:
    """The application. page: the folder of the built front end, with its index.html."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(studio.close)

    app = FastAPI(title="Glassbox studio", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(
        Gate,
        keys=keys,
        max_body_bytes=_MAX_BODY_BYTES,
        max_bodies_bytes=8 * _MAX_BODY_BYTES,
        draining=lambda: studio.draining,
        is_open=is_page,
    )
    app.add_middleware(Guard)  # outermost
    add_handlers(app, {})
    _add_chats(app, studio)
    _add_inside(app, studio)
    _add_models(app, studio)
    _add_runs(app, studio)
    _add_launches(app, studio)
    _add_page(app, page)
    return app


def _add_chats(app: FastAPI, studio: Studio) -> None:
    store = studio.store

    @app.get("/api/chats")
    def chats() -> Response:
        return Json({"chats": store.chats(), "bytes": store.num_bytes, "most": store.max_bytes})

    @app.post("/api/chats")
    def new_chat(body: bodies.NewChat) -> Response:
        return Json(store.add_chat(body.title, body.settings))

    @app.get("/api/chats/{chat}")
    def chat(chat: str) -> Response:
        return Json({"chat": store.chat(chat), "messages": store.messages(chat)})

    @app.patch("/api/chats/{chat}")
    def change(chat: str, body: bodies.ChatChange) -> Response:
        return Json(store.change_chat(chat, title=body.title, settings=body.settings))

    @app.delete("/api/chats/{chat}")
    def delete(chat: str) -> Response:
        for message in store.messages(chat):
            if message["status"] == "running":
                studio.stop(message["id"])
        store.delete_chat(chat)
        return Json({})

    @app.post("/api/chats/{chat}/turns")
    def turns(chat: str, body: bodies.Turn) -> Response:
        return Json(studio.send(chat, body))

    @app.post("/api/chats/{chat}/answers")
    def answers(chat: str, body: bodies.Answer) -> Response:
        return Json(studio.answer(chat, body))

    @app.post("/api/chats/{chat}/edits")
    def edits(chat: str, body: bodies.Edit) -> Response:
        return Json(studio.edit(chat, body))

    @app.post("/api/messages/{message}/stop")
    def stop(message: str) -> Response:
        studio.stop(message)
        return Json(store.message(message))

    @app.get("/api/chats/{chat}/events")
    async def events(chat: str, seen: str = "") -> Response:
        """seen: MESSAGE:COUNT,... of answers that the page has in part."""
        await asyncio.to_thread(store.chat, chat)
        places = _places(seen)

        async def stream() -> AsyncIterator[bytes]:
            async for news in studio.answers.watch(chat, places):
                for one in news:
                    yield b"data: " + json_bytes(one) + b"\n\n"
            yield b"event: end\ndata: {}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers=_EVENTS)

    @app.get("/api/messages/{message}/export")
    def exported(message: str, form: str = "html") -> Response:
        branch = store.branch(message)
        title = store.chat(branch[-1]["chat"])["title"] or "Glassbox"
        name = f"glassbox-{message}"
        if form == "html":
            content, kind, ending = export.as_page(title, branch), "text/html", "html"
        elif form == "python":
            model = branch[-1]["model"]
            if branch[-1]["role"] != "assistant" or not model or branch[-1]["status"] == "edited":
                raise UserError("choose an answer of a model: an edited one cannot be made again")
            if branch[-1]["request"].get("changes"):
                raise UserError("an answer of a changed model is exported as a page alone")
            has_template = studio.shelf.open(model).tokenizer.chat_template is not None
            chats = has_template and not branch[-1]["request"].get("plain")
            content, kind, ending = export.as_python(branch, chats=chats), "text/x-python", "py"
        else:
            raise UserError(f"form = {form[:40]!r}: use html or python")
        disposition = f'attachment; filename="{name}.{ending}"'
        return Response(
            content.encode("utf-8", "replace"),
            media_type=f"{kind}; charset=utf-8",
            headers={"content-disposition": disposition},
        )

    @app.get("/api/settings")
    def settings() -> Response:
        return Json({"version": __version__, "values": store.settings()})

    @app.put("/api/settings")
    def change_settings(body: bodies.Settings) -> Response:
        return Json({"values": store.change_settings(body.values)})


def _add_inside(app: FastAPI, studio: Studio) -> None:
    compute = inside.in_engine_thread

    @app.get("/api/messages/{message}/inside")
    def overview(message: str, place: int) -> Response:
        """place: the token's, counted from the answer's first."""
        opened, ids, first = studio.inside(message)
        return Json(compute(opened, lambda: inside.overview(opened, ids, first + place)))

    @app.get("/api/messages/{message}/influence")
    def influence(message: str, place: int) -> Response:
        opened, ids, first = studio.inside(message)
        return Json(compute(opened, lambda: inside.influence(opened, ids, first + place)))

    @app.get("/api/messages/{message}/truth")
    def truth(message: str, place: int) -> Response:
        opened, ids, first = studio.inside(message)
        return Json(compute(opened, lambda: world.truth(opened, studio.laws, ids, first + place)))

    @app.get("/api/messages/{message}/attention")
    def attention(message: str, place: int, layer: int) -> Response:
        opened, ids, first = studio.inside(message)
        patterns = studio.patterns
        return Json(compute(opened, lambda: patterns.rows(opened, ids, first + place, layer)))

    @app.get("/api/messages/{message}/tile")
    def tile(message: str, layer: int, head: int, row: int = 0, column: int = 0) -> Response:
        opened, ids, _ = studio.inside(message)
        at = (layer, head, max(0, row), max(0, column))
        return Json(compute(opened, lambda: studio.patterns.tile(opened, ids, *at)))


def _add_models(app: FastAPI, studio: Studio) -> None:
    shelf = studio.shelf

    @app.get("/api/models")
    def models() -> Response:
        return Json({"models": shelf.cards()})

    @app.post("/api/models/open")
    def open_model(body: bodies.TextOf) -> Response:
        return Json({"name": body.model, **shelf.open(body.model).facts()})

    @app.post("/api/tokenize")
    def tokenize(body: bodies.TextOf) -> Response:
        return Json(pieces.tokenize(shelf.open(body.model).tokenizer, body.text))

    @app.post("/api/mask")
    def mask(body: bodies.ChatOf) -> Response:
        return Json(pieces.mask_of(shelf.open(body.model).tokenizer, body.messages))

    @app.get("/api/live")
    def engines() -> Response:
        return Json({"engines": [live.snapshot(one) for one in shelf.opened()]})


def _add_runs(app: FastAPI, studio: Studio) -> None:
    trainings = studio.trainings

    @app.get("/api/runs")
    def runs() -> Response:
        return Json({"runs": trainings.cards()})

    @app.get("/api/run")
    def run(name: str) -> Response:
        return Json(trainings.details(name))

    @app.get("/api/run/metrics")
    def metrics(name: str, offset: int = 0) -> Response:
        return Json(trainings.metrics(name, max(0, offset)))


def _add_launches(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/recipes")
    def recipes() -> Response:
        return Json({"recipes": launches.recipes()})

    @app.get("/api/recipe")
    def recipe(name: str) -> Response:
        return Json({"fields": launches.form(name)})

    @app.get("/api/launches")
    def started() -> Response:
        return Json({"launches": studio.launches.cards()})

    @app.post("/api/launches")
    def start(body: bodies.Start) -> Response:
        return Json(studio.launches.start(body.recipe, body.changes))

    @app.post("/api/launches/{number}/stop")
    def stop(number: int) -> Response:
        return Json(studio.launches.stop(number))


def _add_page(app: FastAPI, page: Path) -> None:
    root = page.resolve()

    @app.get("/api/{rest:path}", include_in_schema=False)
    async def unknown(rest: str) -> Response:
        raise ApiError(404, f"there is no /api/{rest[:100]}")

    @app.get("/{path:path}", include_in_schema=False)
    async def file(path: str, request: Request) -> Response:
        """A file of the page; every other path is a view of it."""
        found = (root / path).resolve()
        if path.startswith("assets/"):
            if found.is_relative_to(root / "assets") and found.is_file():
                forever = {"cache-control": "public, max-age=31536000, immutable"}
                return FileResponse(found, headers=forever)
            raise ApiError(404, "there is no such file")
        return FileResponse(root / "index.html", headers={"cache-control": "no-store"})


def _places(seen: str) -> dict[str, int]:
    """MESSAGE:COUNT,... as a mapping.

    >>> _places("a1:3,b2:0")
    {'a1': 3, 'b2': 0}
    """
    places = {}
    for part in seen.split(",")[:64]:
        message, _, count = part.partition(":")
        if message and count.isdecimal():
            places[message] = int(count[:9])
    return places
