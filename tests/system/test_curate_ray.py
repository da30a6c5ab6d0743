"""runner: ray gives the same bytes as local processes, however many tasks run at once."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.data.curation.ray_tasks import ray_cluster
from glassbox.data.curation.runner import Output, run_curation
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import Record
from glassbox.data.curation.tally import Tally
from support import curation_case as case

RECIPE = str(Path(__file__).parents[2] / "recipes/curate/curate-web.yaml")
STEPS = "steps=[{kind: normalize}, {kind: boilerplate_lines, min_documents: 5}, {kind: near_duplicates}]"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "web"
    case.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for `support`
        with ray_cluster(2):
            yield


def curate(corpus: Path, out: Path, workers: int, runner: str, steps=case.STEPS) -> Tally | None:  # type: ignore[no-untyped-def]
    sources = find_sources([FilesSource(path=str(corpus))], downloads=out / "downloads")
    (out / "documents").mkdir(parents=True)
    output = Output(out, shard_bytes=2048, keep_dropped=True)
    return run_curation(sources, steps, output, workers=workers, runner=runner)


class Fails:
    """Divides by zero at one record."""

    def __call__(self, record: Record) -> Record:
        return record if record.id != "web/part-0.jsonl:7" else 1 // 0


@pytest.mark.slow
def test_same_bytes_on_ray_whatever_the_number_of_workers(
    corpus: Path, cluster: None, tmp_path: Path
) -> None:
    whole = curate(corpus, tmp_path / "local", 1, "local")
    assert whole is not None
    assert len(list((tmp_path / "local/documents").iterdir())) > 4
    for workers in (1, 2, 4):
        tally = curate(corpus, tmp_path / f"ray-{workers}", workers, "ray")
        assert tally is not None
        assert case.contents(tmp_path / f"ray-{workers}") == case.contents(tmp_path / "local")
        assert case.counts(tally) == case.counts(whole)


@pytest.mark.slow
def test_a_recipe_on_ray_goes_on_locally(corpus: Path, cluster: None, tmp_path: Path) -> None:
    """A run begun by either runner is finished by the other: the runner is no part of the recipe."""

    def command(out: Path, runner: str) -> str:
        words = [f"source={corpus}", f"out={out}", f"runner={runner}", STEPS, "workers=2"]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main(["data", "curate", RECIPE, "shard_bytes=2048", *words])
        assert ended.value.code == 0, said.getvalue()
        return said.getvalue()

    command(tmp_path / "ray", "ray")
    assert "is finished; nothing was changed" in command(tmp_path / "ray", "local")
    command(tmp_path / "local", "local")
    assert case.contents(tmp_path / "ray") == case.contents(tmp_path / "local")
    reports = [(tmp_path / name / "report.json").read_bytes() for name in ("ray", "local")]
    assert reports[0] == reports[1]
    assert json.loads((tmp_path / "ray/timing.json").read_text())["runner"] == "ray"


@pytest.mark.slow
def test_what_fails_on_ray_is_named(corpus: Path, cluster: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"step 'fails' fails at record 'web/part-0.jsonl:7'"):
        curate(corpus, tmp_path / "out", 2, "ray", [("fails", Fails())])


def test_without_ray_the_extra_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install \"glassbox-lm\[cluster\]\""):
        curate(corpus, tmp_path / "out", 2, "ray")
