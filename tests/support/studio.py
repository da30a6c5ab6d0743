"""A studio over a random model, in the test's process, and pages that a browser can open."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from glassbox.inference import Engine
from glassbox.models.causal_lm import CausalLM
from glassbox.serving.bodies import Limits
from glassbox.serving.server import address, listen
from glassbox.serving.service import Service
from glassbox.studio.app import Studio, build_app
from glassbox.studio.models import Opened, Shelf
from glassbox.studio.store import Store
from glassbox.studio.trainings import Trainings
from glassbox.tokenizers import Tokenizer
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

OWN = {"x-glassbox-studio": "1"}


def opening(model: CausalLM, tokenizer: Tokenizer, *, slow: float = 0.0) -> Any:
    """What opens any name as this model. With `slow`, so many seconds pass before each step of its
    engine, and answers end by their length alone."""

    def open_it(name: str, device: str) -> Opened:
        engine = Engine(model, tokenizer, max_batch=8, keep_prefixes=True)
        if slow:
            step = engine.step

            def slowly() -> Any:
                time.sleep(slow)
                return step()

            add = engine.add

            def endless(prompt: Any, params: Any = None, **more: Any) -> int:
                change = {"ignore_eos": True, "stop_token_ids": ()}
                return add(prompt, params.model_copy(update=change), **more)

            engine.step = slowly  # type: ignore[method-assign]
            engine.add = endless  # type: ignore[method-assign]
        service = Service(engine, tokenizer, name=name, model=model, limits=Limits(max_running=8))
        return Opened(name, model, tokenizer, engine, service, Path(name))

    return open_it


def make_studio(
    folder: Path,
    *,
    names: Sequence[str] = ("alpha", "beta"),
    runs: Sequence[Path] = (),
    context_length: int = 256,
    slow: float = 0.0,
    tokenizer: Tokenizer | None = None,
    max_bytes: int = 64 << 20,
) -> Studio:
    """A studio whose chats lie in `folder`."""
    tokenizer = tokenizer or tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=context_length)
    trainings = Trainings(runs)
    shelf = Shelf(
        names,
        runs=lambda: list(trainings.paths()),
        opening=opening(model, tokenizer, slow=slow),
    )
    return Studio(Store(folder, max_bytes=max_bytes), shelf, trainings)


@contextmanager
def serving(
    studio: Studio, page: Path, *, port: int = 0, keys: list[str] | None = None
) -> Iterator[str]:
    """The studio's address while it is served in a thread."""
    keys = keys or []
    with listen("127.0.0.1", port, keys=keys) as listening:
        app = build_app(studio, page=page, keys=keys)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield address(listening)
        finally:
            server.should_exit = True
            thread.join()
