"""From the command line to the running studio."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from glassbox.serving.server import address, listen, read_keys, run
from glassbox.studio.app import Studio, build_app
from glassbox.studio.building import page_folder
from glassbox.studio.models import Shelf, look_at
from glassbox.studio.store import Store
from glassbox.studio.trainings import Trainings

_DRAIN_SECONDS = 2
DEFAULT_RUNS = "runs"


def run_studio(
    what: Sequence[str],
    *,
    port: int,
    data: Path | None,
    key_file: Path | None,
    browser: bool,
    device: str,
) -> None:
    """Serve the studio until Ctrl-C, on the loopback address alone.

    what: models, runs and folders of runs; without any, the folder `runs` of the working directory.
    Raises UserError for what cannot be found, opened or listened on.
    """
    keys = read_keys(key_file)
    models, folders = look_at(what or [DEFAULT_RUNS])
    page = page_folder()
    folder = Path(platformdirs.user_data_dir("glassbox", appauthor=False)) if data is None else data
    with listen("127.0.0.1", port, keys=keys) as listening:
        trainings = Trainings(folders)
        shelf = Shelf(models, runs=lambda: list(trainings.paths()), device=device)
        studio = Studio(Store(folder), shelf, trainings)
        app = build_app(studio, page=page, keys=keys)
        if browser:
            threading.Timer(0.5, webbrowser.open, [address(listening)]).start()
        run(app, listening, studio, drain_seconds=_DRAIN_SECONDS)
