"""The same task file, rows and weights in lm-evaluation-harness and here: requests, log-likelihoods, verdicts.

lm_eval needs packages that have no wheels, so it is no extra; where it is not installed this is skipped
and the committed record (`test_harness_requests.py`) stands in. Made with lm_eval 0.4.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.results import read_samples
from glassbox.evaluation.tasks.run import EvaluationSettings, evaluate_tasks
from glassbox.formats.huggingface import write_folder
from support.harness import write_rows
from support.harness_rows import TASKS, Rows
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval 0.4.13 is not installed")

# float32 log-softmax of two implementations over at most 300 tokens: rounding is about 1e-5
TOLERANCE = 1e-3
CONTEXT = 512


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LocalModel]:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=CONTEXT)
    write_folder(model, folder, tokenizer=tokenizer)
    theirs = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=16, max_length=CONTEXT
    )
    return theirs, LocalModel(model, tokenizer, "tiny")


def their_samples(model: Any, config: dict[str, Any], num_fewshot: int | None) -> tuple[Any, Any]:
    """Samples and figures by lm_eval."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    task = ConfigurableTask(config=config)
    if num_fewshot is not None and task.config.num_fewshot != 0:
        task.config.num_fewshot = num_fewshot
    task.set_fewshot_seed(1234)
    name = config["task"]
    found = evaluate(model, {"tasks": {name: task}, "groups": {}}, bootstrap_iters=0)
    return found["samples"][name], found["results"][name]


def their_config(path: Path, files: dict[str, str]) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=True)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": files})
    if config.get("output_type", "generate_until") == "generate_until":
        config["generation_kwargs"] = {
            **(config.get("generation_kwargs") or {}),
            "max_gen_toks": 24,
        }
    return config


def our_file(path: Path, files: dict[str, str], folder: Path, kind: str) -> Path:
    """A YAML file that includes the harness's own and names our rows."""
    change: dict[str, Any] = {
        "include": str(path),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }
    if kind == "generate_until":
        import yaml

        class Loader(yaml.SafeLoader):
            pass

        Loader.add_constructor("!function", lambda loader, node: None)
        options: dict[str, Any] = {}
        while True:
            config = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
            options = {**(config.get("generation_kwargs") or {}), **options}
            if "include" not in config or config.get("generation_kwargs"):
                break
            path = path.parent / config["include"]
        change["generation_kwargs"] = {**options, "max_gen_toks": 24}
    file = folder / "ours.yaml"
    file.write_text(json.dumps(change, ensure_ascii=False), encoding="utf-8")
    return file


def compare(
    both: tuple[Any, LocalModel], path: Path, files: dict[str, str], folder: Path, shots: int | None
) -> None:
    theirs, ours = both
    config = their_config(path, files)
    kind = config.get("output_type", "generate_until")
    allowed = [str(path.parent)] if path.parent.name == "arithmetic" else []
    file = our_file(path, files, folder, kind)
    catalogue = Catalogue.of(files=[str(file)], allow_code=allowed)
    specs, groups = catalogue.select(catalogue.named)
    (name,) = [spec.task for spec in specs]
    results = evaluate_tasks(
        ours,
        build_tasks(specs, Data(), num_fewshot=shots),
        groups,
        EvaluationSettings(num_fewshot=shots),
        folder=folder,
        log_samples=True,
    )
    expected, figures = their_samples(theirs, config, shots)
    found = list(read_samples(folder, name))
    assert len(found) == len(expected)
    order = lambda one: (one["filter"], one["doc_id"])  # noqa: E731
    close = 0
    for mine, other in zip(sorted(found, key=order), sorted(expected, key=order), strict=True):
        given = [list(one.values()) for one in mine["arguments"].values()]
        assert json.loads(json.dumps(given)) == json.loads(json.dumps(other["arguments"]))
        assert str(mine["target"]) == str(other["target"])
        scores = []
        for one, reference in zip(mine["resps"], other["resps"], strict=True):
            if kind == "generate_until":
                assert one == reference
            elif kind == "loglikelihood_rolling":
                assert one[0] == pytest.approx(reference[0], abs=TOLERANCE)
            else:
                assert one[0][0] == pytest.approx(reference[0][0], abs=TOLERANCE)
                scores.append(reference[0][0])
        gaps = np.diff(np.sort(scores)) if len(scores) > 1 else np.array([1.0])
        if gaps.min() < TOLERANCE:
            close += 1  # no verdict is owed between options that are that close
            continue
        for metric in other["metrics"]:
            value, reference = mine[metric], other[metric]
            if isinstance(reference, tuple | list):
                assert np.ravel(value[1:]) == pytest.approx(np.ravel(reference[1:]), abs=TOLERANCE)
            else:
                assert value == pytest.approx(reference, abs=TOLERANCE), (metric, mine["doc_id"])
    assert close < len(found) / 2
    for key, entry in results["tasks"][name]["metrics"].items():
        if key in figures and not close:
            assert entry["value"] == pytest.approx(figures[key], rel=1e-3, abs=TOLERANCE), key


def harness_file(name: str) -> Path:
    return Path(lm_eval.__file__).parent / "tasks" / name


BUILT_IN = [
    name for name in TASKS if name not in ("humaneval", "coqa")
]  # their modules do not load


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("shots", [0, 2])
def test_tasks_that_are_built_in(
    both: tuple[Any, LocalModel], name: str, shots: int, tmp_path: Path
) -> None:
    if shots and name in ("truthfulqa_mc1", "truthfulqa_mc2", "wikitext"):
        pytest.skip("takes no examples")
    compare(both, harness_file(TASKS[name][2]), write_rows(tmp_path, name), tmp_path, shots)


def any_row(r: Rows) -> dict[str, Any]:
    """Columns of many sets at once: a task's templates read those that they know."""
    text, other = r.phrase(), r.phrase()
    options = r.options(4)
    return {
        **{
            name: r.phrase() for name in ("premise", "sentence1", "context", "passage", "paragraph")
        },
        **{name: r.phrase() for name in ("hypothesis", "sentence2", "sentence", "sentence_good")},
        **dict.fromkeys(("sentence_bad", "completion", "correct_answer", "flores_passage"), other),
        **{
            name: r.question()
            for name in ("question", "question1", "question2", "Question", "input")
        },
        **{f"mc_answer{n + 1}": option for n, option in enumerate(options)},
        **{f"distractor{n + 1}": option for n, option in enumerate(options[:3])},
        **dict(zip("ABCD", options, strict=True)),
        "text": text,
        "support": other,
        "word": "fox",
        "answer_number": r.index(100),
        "correct_answer_num": str(r.index(4) + 1),
        "label": r.index(2),
        "answer": r.index(4),
        "choices": options,
        "idx": r.index(100),
    }


FILES = [
    *(f"glue/{name}/default.yaml" for name in ("cola", "mrpc", "qnli", "qqp", "rte", "wnli")),
    "glue/sst2/default.yaml", "anli/anli_r1.yaml", "anli/anli_r2.yaml", "anli/anli_r3.yaml",
    "super_glue/rte/default.yaml", "super_glue/boolq/seq2seq.yaml", "super_glue/boolq/t5-prompt.yaml",
    *(f"blimp/{name}.yaml" for name in (
        "adjunct_island", "anaphor_gender_agreement", "causative", "drop_argument", "wh_island")),
    *(f"arithmetic/arithmetic_{name}.yaml" for name in ("1dc", "2da", "3ds", "5da")),
    "sciq/sciq.yaml", "belebele/belebele_eng_Latn.yaml", "belebele/belebele_deu_Latn.yaml",
    "belebele/belebele_zho_Hans.yaml",
    *(f"mmlu/default/mmlu_{name}.yaml" for name in ("virology", "marketing", "philosophy")),
    *(f"mmlu/continuation/mmlu_{name}.yaml" for name in ("astronomy", "management")),
    "mmlu/generative/mmlu_sociology.yaml",
]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_files_of_the_harness(both: tuple[Any, LocalModel], file: str, tmp_path: Path) -> None:
    path = harness_file(file)
    if not path.is_file():
        pytest.skip("not in this version of lm_eval")
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    names = {config.get(f"{one}_split") for one in ("training", "validation", "test", "fewshot")}
    files = {}
    for number, split in enumerate(sorted(names - {None})):
        r = Rows(number)
        rows = [any_row(r) for _ in range(20)]
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(one) + "\n" for one in rows))
    compare(both, path, files, tmp_path, 2)


def test_what_is_longer_than_the_context(both: tuple[Any, LocalModel], tmp_path: Path) -> None:
    theirs, ours = both
    from lm_eval.api.instance import Instance

    from glassbox.evaluation.tasks.requests import Request

    long = " ".join(f"the fox found {n}" for n in range(400))
    pairs = [(long, " a ball"), ("", " the sun"), ("a  ", "tree "), (long + " \n", "x")]

    def instance(kind: str, arguments: tuple[Any, ...]) -> Any:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("t", 0, 1))

    def ask(requests: list[Request]) -> list[Any]:
        found: dict[int, Any] = {}
        for group in ours.plan(requests):
            found.update(ours.answer(requests, group, set(range(len(requests)))))
        return [found[n] for n in range(len(requests))]

    expected = theirs.loglikelihood([instance("loglikelihood", pair) for pair in pairs])
    for mine, other in zip(
        ask([Request("loglikelihood", pair) for pair in pairs]), expected, strict=True
    ):
        assert mine[0] == pytest.approx(other[0], abs=TOLERANCE)
        assert mine[1] == other[1]
    texts = [(long,), ("short",), (long[:1500],)]
    rolled = theirs.loglikelihood_rolling([instance("loglikelihood_rolling", one) for one in texts])
    mine = ask([Request("loglikelihood_rolling", one) for one in texts])
    # sums over some thousand tokens, each off by at most about 1e-6 of its value
    assert mine == pytest.approx(rolled, rel=1e-5)
    assert torch.is_tensor(torch.tensor(mine))


@pytest.mark.parametrize("name", ["arc_easy", "gsm8k", "wikitext"])
def test_our_model_in_the_harness(name: str, tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model

    from glassbox.evaluation import lm_eval_model

    tokenizer = tiny_tokenizer()
    folder = tmp_path / "tiny"
    write_folder(tiny_chat_model(tokenizer, context_length=CONTEXT), folder, tokenizer=tokenizer)
    assert get_model("glassbox") is lm_eval_model.GlassboxLM
    theirs = lm_eval_model.GlassboxLM(pretrained=str(folder), device="cpu")
    compare(
        (theirs, theirs.asked),
        harness_file(TASKS[name][2]),
        write_rows(tmp_path, name),
        tmp_path,
        0,
    )
