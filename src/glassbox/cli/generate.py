"""glassbox generate: continue a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from glassbox.cli.sampling_options import sampling_options, settings
from glassbox.core.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate", rich_help_panel="Use")(generate)


@sampling_options(max_tokens=200, temperature=0.8)
def generate(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    sampling: dict[str, Any],
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Text to continue; - reads standard input.")
    ] = "",
    num_beams: Annotated[
        int, typer.Option("--num-beams", help="Number of beams; above 1: beam search.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help="Beam search: above 0 favours long texts.")
    ] = 1.0,
    early_stopping: Annotated[
        str, typer.Option("--early-stopping", help="Beam search: stop early: true, false or never.")
    ] = "false",
    num_return_sequences: Annotated[
        int,
        typer.Option(
            "--num-return-sequences", help="Beam search: number of texts printed, best first."
        ),
    ] = 1,
    penalty_alpha: Annotated[
        float | None,
        typer.Option("--penalty-alpha", help="Contrastive search, --top-k candidates (4)."),
    ] = None,
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", help="JSON schema file: the text is valid under it."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option("--regex", help="The whole text matches this pattern.")
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option("--choice", help="The text is one of these; may be repeated."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", help="An adapter's folder or run, on top of MODEL."),
    ] = None,
    draft: Annotated[
        str | None, typer.Option("--draft", help="Draft model for speculative decoding; same text.")
    ] = None,
    num_drafts: Annotated[
        int, typer.Option("--num-drafts", min=1, help="Number of draft tokens of --draft.")
    ] = 4,
    ngram_drafts: Annotated[
        int,
        typer.Option(
            "--ngram-drafts", min=0, help="Draft this many tokens by n-grams of the text so far."
        ),
    ] = 0,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Round weights: int8, int8-dynamic, int4, nf4, fp8, mxfp4, q8_0, q4_0, q4_1; file.",
        ),
    ] = None,
    kv_cache: Annotated[
        str, typer.Option("--kv-cache", help="Data type of the KV cache: auto, int8, int4.")
    ] = "auto",
    code: Annotated[
        list[str] | None,
        typer.Option("--code", help="FILE.py:NAME of a layer of your own that MODEL has."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Continue a text; prints the continuation to standard output as it is generated.

    Example: `glassbox generate runs/quickstart --prompt "Once upon a time" --temperature 0.7`
    """
    from glassbox.formats.open_model import find_adapter, open_on
    from glassbox.inference import Engine
    from glassbox.inference.constraints.specs import read_constraint
    from glassbox.inference.search.run import search, search_params
    from glassbox.runs.prompts import plain_prompt
    from glassbox.runs.speculation import open_proposer

    how = search_params(
        sampling,
        penalty_alpha=penalty_alpha,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        num_return_sequences=num_return_sequences,
    )
    if how is not None and (draft or ngram_drafts):
        words = "--draft" if draft else "--ngram-drafts"
        raise UserError(f"{words}: a search takes no guesses; leave it out")
    heat = {"temperature": 0.8} if how is None else {}
    constraint = read_constraint(json_schema, regex, choice or [])
    params = settings("generate", sampling, max_tokens=200, constraint=constraint, **heat)
    adapters = {} if adapter is None else {"chosen": find_adapter(adapter)}
    chosen = next(iter(adapters), None)
    loaded, tokenizer, _ = open_on(model, device, code=code or (), quantize=quantize)
    ids = plain_prompt(tokenizer, sys.stdin.read() if prompt == "-" else prompt)
    proposer, count = open_proposer(loaded, tokenizer, draft, num_drafts, ngram_drafts)
    engine = Engine(
        loaded, tokenizer, proposer=proposer, num_drafts=count, adapters=adapters, kv_cache=kv_cache
    )
    if how is not None:
        for found in search(engine, ids, how, params, adapter=chosen):
            sys.stdout.write(f"{found.text}\n")
        return
    for event in engine.stream(ids, params, adapter=chosen):
        sys.stdout.write(event.text or "")
        sys.stdout.flush()
    sys.stdout.write("\n")
