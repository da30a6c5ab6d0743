"""lm-evaluation-harness's side of the comparison, and the record of its requests that is committed.

`python -m support.harness` (with lm_eval 0.4.13 installed) writes the record anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from support.harness_rows import TASKS, make

RECORD = Path(__file__).parents[1] / "parity" / "evaluation" / "harness_requests.json"
SEED = 1234


def write_rows(folder: Path, name: str) -> dict[str, str]:
    """A task's splits as `folder/NAME/SPLIT.jsonl`."""
    row, splits, _ = TASKS[name]
    files = {}
    for split, rows in make(row, splits).items():
        file = folder / name / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        files[split] = str(file)
    return files


def render_chat(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A plain chat template, the same for both sides."""
    text = "".join(f"<{one['role']}>{one['content']}</{one['role']}>" for one in messages)
    if add_generation_prompt:
        return text + "<assistant>"
    return text.removesuffix("</assistant>")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two examples": {"num_fewshot": 2},
    "one turn": {"num_fewshot": 2, "system": "Be brief.", "chat": True},
    "turns": {"num_fewshot": 2, "chat": True, "multiturn": True},
}


def variants(name: str) -> list[str]:
    """Those that a task has: no examples where it has no documents for them, or none by its author."""
    if name in ("truthfulqa_mc1", "truthfulqa_mc2", "humaneval", "wikitext"):
        return ["plain"]
    if name in ("lambada_openai", "wsc273"):  # examples are of the evaluated split
        return ["plain", "two examples", "turns"]
    return list(VARIANTS)


def load_task(name: str, files: dict[str, str]) -> Any:
    """The harness's task on these files."""
    import types

    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    # CoQA's module imports SQuAD's metrics, which transformers has no more; requests need none
    for module in ("transformers.data.metrics", "transformers.data.metrics.squad_metrics"):
        sys.modules.setdefault(module, types.ModuleType(module))
    sys.modules["transformers.data.metrics"].squad_metrics = sys.modules[  # type: ignore[attr-defined]
        "transformers.data.metrics.squad_metrics"
    ]
    path = Path(lm_eval.__file__).parent / "tasks" / TASKS[name][2]
    code = name != "humaneval"  # its module loads a metric from the hub
    config = load_yaml(path, resolve_func=code)
    if not code:
        config.update(metric_list=None, filter_list=None)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": files})
    return ConfigurableTask(config=config)


def build(task: Any, variant: dict[str, Any]) -> list[Any]:
    """The harness's requests."""
    if "num_fewshot" in variant and task.config.num_fewshot != 0:
        task.config.num_fewshot = variant["num_fewshot"]
    elif "num_fewshot" not in variant:
        task.config.num_fewshot = 0
    task.set_fewshot_seed(SEED)
    task.build_all_requests(
        system_instruction=variant.get("system"),
        apply_chat_template=bool(variant.get("chat")),
        fewshot_as_multiturn=bool(variant.get("multiturn")),
        chat_template=render_chat if variant.get("chat") else None,
    )
    return list(task.instances)


def digest(arguments: Any) -> str:
    """Short hash of a request's arguments."""
    content = json.dumps(arguments, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def main(folder: str) -> None:
    record: dict[str, Any] = {}
    for name in TASKS:
        files = write_rows(Path(folder), name)
        for variant in variants(name):
            requests = [list(one.args) for one in build(load_task(name, files), VARIANTS[variant])]
            record.setdefault(name, {})[variant] = {
                "first": requests[0],
                "digests": [digest(one) for one in requests],
            }
        print(name, {key: len(value["digests"]) for key, value in record[name].items()})
    RECORD.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
