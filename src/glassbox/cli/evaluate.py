"""glassbox eval: measure models, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval", rich_help_panel="Look")(evaluate)


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Runs, checkpoints, model folders, or URLs of servers."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="Tasks and groups, as hellaswag,arc_easy (see --list), or your own, as my.py:task.",
        ),
    ] = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="List tasks and groups.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="A folder of the tasks' documents; else they come from the hub."
        ),
    ] = None,
    task_file: Annotated[
        list[str] | None,
        typer.Option(
            "--task-file", help="YAML file of a task for lm-evaluation-harness; may be repeated."
        ),
    ] = None,
    include_path: Annotated[
        list[str] | None,
        typer.Option("--include-path", help="Folder of such files, whose tasks --tasks can name."),
    ] = None,
    allow_code: Annotated[
        list[str] | None,
        typer.Option("--allow-code", help="Folder whose Python code those files may run."),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", help="Number of few-shot examples.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Maximum number of items of each task; 0: all.")
    ] = 0,
    apply_chat_template: Annotated[
        bool,
        typer.Option("--apply-chat-template", help="Apply the model's chat template to prompts."),
    ] = False,
    fewshot_as_multiturn: Annotated[
        bool,
        typer.Option("--fewshot-as-multiturn", help="Format few-shot examples as turns of a chat."),
    ] = False,
    system_prompt: Annotated[
        str | None, typer.Option("--system-prompt", help="System prompt.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for results and answers; an interrupted evaluation is resumed."
        ),
    ] = None,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="With --out: log one line per item.")
    ] = False,
    contamination: Annotated[
        list[str] | None,
        typer.Option(
            "--contamination",
            help="Report overlap with training shards: auto (of the model's run), a run, a shard; "
            "may be repeated.",
        ),
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", help="Maximum number of tokens per forward pass.")
    ] = 4096,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", help="Maximum length of generated answers; default: the task's."
        ),
    ] = None,
    bos: Annotated[
        str,
        typer.Option(
            "--bos",
            help="Begin texts with the BOS token: auto (as the tokenizer does), always, never.",
        ),
    ] = "auto",
    reproduce: Annotated[
        Path | None,
        typer.Option(
            "--reproduce", help="Repeat the evaluation of a results.json, and print differences."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="A story-world folder; default: that of the quickstart."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Compute the loss on this text instead.")
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", help="Token before each document of --text: auto, eos, bos or none."
        ),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the results as JSON.")
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            "--code",
            help="FILE.py:NAME of a layer of your own that a model has (or a task, with --reproduce).",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """The story world's figures, the loss on a text, or the field's tasks (--tasks).

    Example: `glassbox eval runs/quickstart/sft runs/quickstart/grpo --limit 100`

    Example: `glassbox eval smollm2 --tasks hellaswag,arc_easy --data DIR --limit 100 --out evals`
    """
    from rich.console import Console

    from glassbox.core.config import parse
    from glassbox.core.errors import UserError
    from glassbox.core.files import write_json

    if list_tasks:
        from glassbox.evaluation.tasks.config import TaskSources
        from glassbox.reports.task_table import list_table

        Console().print(
            list_table(TaskSources(include_paths=tuple(include_path or ())).catalogue())
        )
        return
    if reproduce is not None:
        from glassbox.reports.task_table import task_table
        from glassbox.runs.tasks import reproduce as run_again

        again, lines = run_again(
            reproduce, model=models[0] if models else None, data=data, out=out, code=code or ()
        )
        Console().print(task_table({again["model"]["name"]: again}))
        print("\n".join(lines) if lines else "the same figures")
        if lines:
            raise typer.Exit(1)
        return
    if not models:
        raise UserError("name a model to evaluate: a run, a checkpoint, a model folder or a file")
    from glassbox.runs.tasks import Asking

    asking = parse(
        Asking,
        {"bos": bos, "batch_tokens": batch_tokens, "max_tokens": max_tokens, "device": device},
        where="options",
    )
    if tasks is not None or task_file:
        from glassbox.evaluation.tasks.config import TaskSources
        from glassbox.evaluation.tasks.run import EvaluationSettings
        from glassbox.reports.task_table import contamination_table, task_table
        from glassbox.runs.tasks import evaluate_on_tasks

        if log_samples and out is None:
            raise UserError("--log-samples needs --out DIR")
        settings = {
            "num_fewshot": num_fewshot,
            "limit": limit,
            "apply_chat_template": apply_chat_template,
            "fewshot_as_multiturn": fewshot_as_multiturn,
            "system_prompt": system_prompt,
        }
        names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
        sources = TaskSources(
            tasks=names,
            data=data,
            task_files=tuple(task_file or ()),
            include_paths=tuple(include_path or ()),
            allow_code=tuple(allow_code or ()),
        )
        results = evaluate_on_tasks(
            models,
            sources,
            parse(EvaluationSettings, settings, where="options"),
            asking,
            out=out,
            log_samples=log_samples,
            code=code or (),
            contamination=contamination or (),
        )
        Console().print(task_table(results))
        if contamination:
            Console().print(contamination_table(results))
        if out is not None:
            print(f"written to {out}", file=sys.stderr)
    else:
        if contamination:
            raise UserError("--contamination needs --tasks or --task-file")
        from glassbox.reports.table import comparison_table
        from glassbox.runs.evaluate import evaluate_models
        from glassbox.tokenizers.prefix import check_prefix

        results = evaluate_models(
            models,
            corpus=corpus,
            text=text,
            limit=limit,
            prefix=check_prefix(prefix),
            device=device,
            code=code or (),
        )
        Console().print(comparison_table(results))
    if output is not None:
        write_json(output, results)
        print(f"written to {output}", file=sys.stderr)
