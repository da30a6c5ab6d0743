"""glassbox reason: spend more tokens on an answer, and see what they buy."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reason", rich_help_panel="Use")(reason)


def reason(
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder, a file, a name.")],
    question: Annotated[str, typer.Option("--prompt", "-p", help="A question.")] = "",
    problems: Annotated[
        str | None, typer.Option("--problems", help="JSON lines of prompt and answer instead.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Number of answers to vote among.")] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Maximum number of tokens per answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Sampling temperature; 0: greedy.")
    ] = 0.7,
    think: Annotated[
        bool, typer.Option("--think", help="Force a thinking budget instead of a vote.")
    ] = False,
    min_thinking: Annotated[
        int, typer.Option("--min-thinking", help="Minimum number of thinking tokens.")
    ] = 0,
    max_thinking: Annotated[
        int, typer.Option("--max-thinking", help="Maximum number of thinking tokens.")
    ] = 512,
    end_of_thought: Annotated[
        str, typer.Option("--end-of-thought", help="Text that ends the thinking.")
    ] = "</think>",
    limit: Annotated[int, typer.Option("--limit", help="Number of problems; 0: all.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Answer by a majority vote over several answers, or with a thinking budget; on problems,
    report accuracy and tokens.

    Example: `glassbox reason runs/quickstart -p "What is 14 + 27?" --samples 16`
    """
    from glassbox.runs.reason import reason_about
    from glassbox.tuning.reasoning import ThinkingBudget

    budget = None
    if think:
        budget = ThinkingBudget(
            end_of_thought=end_of_thought,
            min_tokens=min_thinking,
            max_tokens=max_thinking,
            answer_tokens=max_tokens,
        )
    for line in reason_about(
        model,
        question=question,
        problems=problems,
        samples=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        budget=budget,
        limit=limit,
        seed=seed,
        device=device,
    ):
        print(line)
