"""lm-evaluation-harness's own task files, read as they are: tasks, groups, tags, includes.

YAML alone decides what is done. A tag `!function` names Python code: the functions of some well-known
tasks are built in, those of a folder that the user allows are imported from there, any other is refused
by name when its task is asked for. Templates are rendered in a process of their own.
Source: lm-evaluation-harness 0.4.13, `docs/task_guide.md`. Tested against: it, request by request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from glassbox.core.config import as_yaml, parse
from glassbox.core.errors import UserError
from glassbox.core.files import read_limited
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.spec import GroupSpec
from glassbox.evaluation.tasks.task import TaskSpec

MOST_BYTES = 8 << 20
MOST_VALUES = 200_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

IGNORED = frozenset(
    [
        "should_decontaminate",
        "doc_to_decontamination_query",
        "unsafe_code",
        "task_list",
        "tag",
        "recipe",
    ]
)
"""Keys that decide no request and no verdict."""
UNSUPPORTED = MappingProxyType(
    {
        "class": "is a Python class",
        "custom_dataset": "is a Python function",
        "use_prompt": "takes prompts of the package promptsource",
        "doc_to_image": "asks about images",
        "doc_to_audio": "asks about sound",
    }
)
KNOWN = frozenset(
    [
        "task",
        "task_alias",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        "training_split",
        "validation_split",
        "test_split",
        "fewshot_split",
        "process_docs",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "process_results",
        "description",
        "target_delimiter",
        "fewshot_delimiter",
        "fewshot_config",
        "num_fewshot",
        "metric_list",
        "output_type",
        "generation_kwargs",
        "repeats",
        "filter_list",
        "gen_prefix",
        "metadata",
    ]
)
GROUP_KEYS = frozenset(["group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"])


@dataclass(frozen=True)
class _Code:
    """A `!function` and the folder of the file that names it."""

    name: str
    folder: Path


@dataclass(frozen=True)
class _Built:
    """A built-in function, and the hashes of the files whose function of this name it is."""

    function: str
    digests: tuple[str, ...]


def _built(module: str, digest: str, **names: str) -> dict[str, _Built]:
    """`FOLDER/FILE` with a hash of FILE.py, and its functions' names here."""
    return {f"{module}.{name}": _Built(function, (digest,)) for name, function in names.items()}


BUILT_IN: Mapping[str, _Built] = MappingProxyType(
    {
        **_built("hellaswag/utils", "aca5986168f2d17a", process_docs="hellaswag:clean"),
        **_built(
            "copa/utils",
            "b854bab596707386",
            doc_to_text="copa:text",
            doc_to_target="copa:target",
            doc_to_choice="copa:choices",
        ),
        **_built(
            "winogrande/preprocess_winogrande",
            "d9e42d68f9de547d",
            doc_to_text="winogrande:text",
            doc_to_target="winogrande:target",
            doc_to_choice="winogrande:choices",
        ),
        **_built("wsc273/utils", "eb0b513323bdc68a", process_doc="winograd:clean"),
        **_built("truthfulqa/utils", "5a28295bee65c1f0", process_results_mc2="truthfulqa:mc2"),
        **_built(
            "humaneval/utils",
            "c68dfc718a885ac5",
            pass_at_k="humaneval:pass_at_k",
            build_predictions="humaneval:complete",
            build_predictions_instruct="humaneval:complete_fenced",
        ),
        **_built(
            "wikitext/preprocess_wikitext",
            "72078b8b89ebe834",
            wikitext_detokenizer="wikitext:plain",
            process_results="wikitext:figures",
        ),
        **_built(
            "coqa/utils",
            "bd4ca3a684f353db",
            doc_to_text="reading:coqa_text",
            doc_to_target="reading:coqa_target",
            process_results="reading:coqa_results",
        ),
    }
)


def source_digest(source: str) -> str:
    """Hash of a file's lines without comments and blank lines."""
    lines = [line.rstrip() for line in source.splitlines()]
    kept = [line for line in lines if line and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _make_loader(folder: Path) -> Any:
    class Loader(_Base):
        pass

    def code(loader: Any, node: Any) -> _Code:
        return _Code(str(loader.construct_scalar(node)), folder)

    Loader.add_constructor("!function", code)
    return Loader


def read_file(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping, `!function`s as their names. Raises UserError for any other tag."""
    try:
        content = read_limited(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"no task file at '{path}': {error.strerror}") from None
    try:
        found = yaml.load(content, Loader=_make_loader(path.parent))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" line {mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"'{path}'{where}: {problem}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"'{path}' is no task file: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(f"'{path}' is no task file: expected a mapping of keys")
    _check_size(found, path)
    return found


def _check_size(content: Any, path: Path) -> None:
    """Aliases can make a small file endless: its values are counted as often as they are reached."""
    left, stack = MOST_VALUES, [content]
    while stack:
        one = stack.pop()
        left -= 1
        if left < 0:
            raise UserError(f"'{path}' has more than {MOST_VALUES:,} values; is that a task file?")
        if isinstance(one, dict):
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


@dataclass
class _Entry:
    path: Path
    config: dict[str, Any]


@dataclass
class HarnessTasks:
    """The tasks and groups of YAML files and folders of them, converted when they are asked for.

    allow_code: folders whose Python the user allows to be imported and run.
    """

    allow_code: Sequence[Path] = ()
    tasks: dict[str, _Entry] = field(default_factory=dict)
    groups: dict[str, _Entry] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    _included: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def add_file(self, path: Path) -> str:
        """Read a task or a group; its name. Raises UserError."""
        return self._add(path, self._resolved(path, ()))

    def add_folder(self, folder: Path) -> None:
        """Read all `*.yaml` below a folder; those that are neither tasks nor groups are passed over."""
        if not folder.is_dir():
            raise UserError(f"--include-path '{folder}' is no folder")
        for path in sorted(folder.rglob("*.yaml")):
            config = self._resolved(path, ())
            if "task" in config or "group" in config:
                self._add(path, config)

    def _add(self, path: Path, config: dict[str, Any]) -> str:
        entry = _Entry(path, config)
        if isinstance(config.get("group"), str):
            self.groups[config["group"]] = entry
            return str(config["group"])
        name = config.get("task")
        if not isinstance(name, str):
            raise UserError(f"'{path}': 'task' = {as_yaml(name)}: give the task's name")
        self.tasks[name] = entry
        tags = config.get("tag") or []
        for tag in [tags] if isinstance(tags, str) else tags:
            self.tags.setdefault(str(tag), []).append(name)
        return name

    def _resolved(self, path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
        """A file over those that it includes."""
        path = Path(path).resolve()
        if path in including:
            chain = " -> ".join(one.name for one in (*including, path))
            raise UserError(f"'{path}' includes itself ({chain}); take one include out")
        if path not in self._included:
            config = read_file(path)
            names = config.pop("include", None) or []
            merged: dict[str, Any] = {}
            for name in [names] if isinstance(names, str) else names:
                merged.update(self._resolved(path.parent / str(name), (*including, path)))
            merged.pop("task_list", None)
            self._included[path] = {**merged, **config}
        return dict(self._included[path])

    # ---- groups -----------------------------------------------------------------------------

    def convert(self, name: str) -> tuple[list[TaskSpec], list[GroupSpec]] | None:
        """The specs behind a name of a task, group or tag; None where it is none of these."""
        if name in self.tasks:
            entry = self.tasks[name]
            return [self.task(entry.config, entry.path)], []
        if name in self.groups:
            entry = self.groups[name]
            return self._group(name, entry.config, entry.path, {})
        if name in self.tags:
            specs = [
                self.task(self.tasks[one].config, self.tasks[one].path)
                for one in sorted(self.tags[name])
            ]
            return specs, [GroupSpec(group=name, tasks=tuple(one.task for one in specs))]
        return None

    def _group(
        self, name: str, config: Mapping[str, Any], path: Path, overrides: Mapping[str, Any]
    ) -> tuple[list[TaskSpec], list[GroupSpec]]:
        inherited = {key: value for key, value in config.items() if key not in GROUP_KEYS}
        overrides = {**inherited, **overrides}
        tasks: list[TaskSpec] = []
        groups: list[GroupSpec] = []
        members: list[str] = []
        listed = config.get("task") or []
        for item in [listed] if isinstance(listed, str) else listed:
            found, inner = self._member(name, item, path, overrides)
            tasks += found
            groups += inner
            members += [inner[-1].group] if inner else [one.task for one in found]
        metrics = []
        raw = config.get("aggregate_metric_list") or []
        for one in [raw] if isinstance(raw, dict) else raw:
            if not isinstance(one, dict) or one.get("aggregation", "mean") != "mean":
                raise UserError(
                    f"'{path}': aggregate_metric_list has {as_yaml(one)}; only 'mean' is supported"
                )
            filters = one.get("filter_list") or ()
            metrics.append(
                {
                    "metric": one.get("metric"),
                    "weight_by_size": one.get("weight_by_size", True),
                    "filters": [filters] if isinstance(filters, str) else filters,
                }
            )
        whole = {
            "group": name,
            "alias": config.get("group_alias"),
            "tasks": members,
            "metrics": metrics,
        }
        groups.append(parse(GroupSpec, whole, where=f"'{path}'"))
        return tasks, groups

    def _member(
        self, group: str, item: Any, path: Path, overrides: Mapping[str, Any]
    ) -> tuple[list[TaskSpec], list[GroupSpec]]:
        own: dict[str, Any] = {}
        if isinstance(item, dict):
            own = dict(item)
            if "group" in item:
                name = str(own.pop("group"))
                if name in self.groups:
                    entry = self.groups[name]
                    return self._group(name, entry.config, entry.path, {**overrides, **own})
                return self._group(f"{group}::{name}", item, path, overrides)
            item = own.pop("task", None)
        if not isinstance(item, str):
            raise UserError(
                f"'{path}': group '{group}' has {as_yaml(item)}; name a task, group or tag"
            )
        changes = {**overrides, **own}
        if item in self.tasks:
            entry = self.tasks[item]
            return [self.task({**entry.config, **changes, "task": item}, entry.path)], []
        if item in self.groups:
            entry = self.groups[item]
            return self._group(item, entry.config, entry.path, changes)
        if item in self.tags:
            specs = []
            for one in sorted(self.tags[item]):
                entry = self.tasks[one]
                specs.append(self.task({**entry.config, **changes, "task": one}, entry.path))
            return specs, []
        if own:
            return [self.task({**changes, "task": f"{group}::{item}"}, path)], []
        raise UserError(
            f"'{path}': group '{group}' names '{item}', which no file defines; --include-path?"
        )

    # ---- tasks ------------------------------------------------------------------------------

    def task(self, config: Mapping[str, Any], path: Path) -> TaskSpec:
        """The spec of a task's keys. Raises UserError for what is not supported, by name."""
        where = f"'{path}'"
        for key, what in UNSUPPORTED.items():
            if config.get(key) is not None:
                raise UserError(f"{where}: '{key}' {what}, which is not supported")
        unknown = [str(key) for key in config if key not in KNOWN | IGNORED | {"include"}]
        if unknown:
            raise UserError(f"{where}: unknown key '{unknown[0]}' of a task")
        get = {
            key: self._plain(value, where) for key, value in config.items() if key not in IGNORED
        }.get
        kind = get("output_type") or "generate_until"
        shots = dict(get("fewshot_config") or {})
        delimiter = get("fewshot_delimiter", "\n\n")
        raw: dict[str, Any] = {
            "task": get("task"),
            "alias": get("task_alias"),
            "version": _version(get("metadata")),
            "documents": {
                "path": get("dataset_path"),
                "name": get("dataset_name"),
                "kwargs": _without(get("dataset_kwargs") or {}, "trust_remote_code"),
                "test": get("test_split"),
                "validation": get("validation_split"),
                "train": get("training_split"),
                "process": get("process_docs"),
            },
            "prompt": _given(
                text=get("doc_to_text"),
                target=get("doc_to_target"),
                choices=_choices(get("doc_to_choice")),
                description=get("description"),
                gen_prefix=get("gen_prefix"),
                target_delimiter=get("target_delimiter"),
                fewshot_delimiter=delimiter,
            ),
            "fewshot": _fewshot(shots, get("num_fewshot"), get("fewshot_split"), where),
            "output": {"kind": kind},
            "metrics": [_metric(one, where) for one in get("metric_list") or ()],
            "results": get("process_results"),
        }
        if kind == "generate_until":
            options = dict(
                get("generation_kwargs")
                or {"temperature": 0.0, "do_sample": False, "max_gen_toks": 256}
            )
            if "temperature" in options:
                options["temperature"] = float(options["temperature"])
            options.setdefault("until", [delimiter])
            raw["output"] |= {"generation_kwargs": options, "repeats": get("repeats") or 1}
        if get("filter_list") is not None:
            raw["filters"] = get("filter_list")
        return parse(TaskSpec, raw, where=where)

    def _plain(self, value: Any, where: str) -> Any:
        """A value with its `!function`s as specs."""
        if isinstance(value, _Code):
            return self._function(value, where).model_dump()
        if isinstance(value, dict):
            return {key: self._plain(item, where) for key, item in value.items()}
        if isinstance(value, list):
            return [self._plain(item, where) for item in value]
        return value

    def _function(self, code: _Code, where: str) -> Function:
        module, _, name = code.name.rpartition(".")
        file = code.folder / f"{module.replace('.', '/')}.py"
        if any(file.resolve().is_relative_to(Path(one).resolve()) for one in self.allow_code):
            if not file.is_file():
                raise UserError(f"{where}: !function {code.name}: no file '{file}'")
            return Function(function=f"{file}:{name}")
        built = BUILT_IN.get(f"{code.folder.name}/{code.name}")
        if built is not None:
            if not file.is_file():
                return Function(function=built.function)
            if source_digest(file.read_text(encoding="utf-8")) in built.digests:
                return Function(function=built.function)
        raise UserError(
            f"{where}: !function {code.name} names Python code, which is not run; read '{file}', and if "
            f"it may run: --allow-code {code.folder}"
        )


def _fewshot(shots: Mapping[str, Any], count: Any, split: Any, where: str) -> dict[str, Any]:
    names = {
        "sampler": "sampler",
        "split": "split",
        "samples": "samples",
        "process_docs": "process",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "target",
        "gen_prefix": "gen_prefix",
        "target_delimiter": "target_delimiter",
        "fewshot_delimiter": "fewshot_delimiter",
    }
    found: dict[str, Any] = {"count": count, "split": split}
    for key, value in shots.items():
        if key not in names:
            raise UserError(f"{where}: unknown key '{key}' of fewshot_config")
        found[names[key]] = value
    if "choices" in found:
        found["choices"] = _choices(found["choices"])
    return found


def _metric(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or "metric" not in raw:
        raise UserError(f"{where}: metric_list has {as_yaml(raw)}; give a mapping with 'metric'")
    if raw.get("hf_evaluate"):
        raise UserError(
            f"{where}: metric '{raw['metric']}' is one of the package evaluate, not supported"
        )
    own = ("metric", "aggregation", "higher_is_better", "hf_evaluate")
    found = {key: raw[key] for key in own[:3] if raw.get(key) is not None}
    return {**found, "options": {key: value for key, value in raw.items() if key not in own}}


def _choices(value: Any) -> Any:
    """Options: a template or a function as it is, a list or a mapping's values as texts."""
    if isinstance(value, dict) and set(value) != {"function"}:
        value = list(value.values())
    return [str(one) for one in value] if isinstance(value, list) else value


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _without(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in names}


def _version(metadata: Any) -> Any:
    version = metadata.get("version") if isinstance(metadata, dict) else None
    return version if isinstance(version, int | float | str) else 1


def names_of(tasks: HarnessTasks) -> Iterator[str]:
    """All names that can be asked for."""
    yield from tasks.tasks
    yield from tasks.groups
    yield from tasks.tags
