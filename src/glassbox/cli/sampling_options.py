"""The options of sampling, in one place for every command that generates: SamplingParams' own words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from glassbox.inference.sampling.params import SamplingParams

OPTIONS: dict[str, tuple[type, str]] = {
    "max_tokens": (int, "Maximum number of new tokens."),
    "min_tokens": (int, "Minimum number of new tokens."),
    "temperature": (float, "Sampling temperature; 0 is greedy."),
    "top_k": (int, "Sample from the k most likely tokens; 0: all."),
    "top_p": (float, "Nucleus sampling: total probability kept."),
    "min_p": (float, "Minimum probability relative to the most likely token."),
    "typical_p": (float, "Locally typical sampling: total probability kept."),
    "epsilon_cutoff": (float, "Minimum probability (epsilon sampling)."),
    "eta_cutoff": (float, "Eta sampling: entropy-dependent cutoff."),
    "top_h": (float, "Top-H sampling: share of the entropy kept."),
    "repetition_penalty": (
        float,
        "Repetition penalty over prompt and output; above 1 repeats less.",
    ),
    "frequency_penalty": (float, "Penalty for each occurrence of a token in the output, -2 to 2."),
    "presence_penalty": (float, "Penalty for tokens that occur in the output, -2 to 2."),
    "logit_bias": (list[str], "ID=BIAS added to the logit of a token; may be repeated."),
    "no_repeat_ngram_size": (int, "Forbid repeated n-grams of this size; 0: allow."),
    "bad_words": (list[str], "Text that must not be generated; may be repeated."),
    "guidance_scale": (float, "Classifier-free guidance scale; above 1 turns it on."),
    "negative_prompt": (str, "Negative prompt for guidance."),
    "stop": (list[str], "Stop string; may be repeated."),
    "seed": (int, "Random seed."),
}


def sampling_options(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options above; it gets what the user said of them as the dict `sampling`.

    defaults: what --help names as each option's default, where it is not SamplingParams' own.
    `settings` makes the params of both.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        added = [_parameter(name, defaults.get(name)) for name in OPTIONS]

        @functools.wraps(command)
        def run(**words: Any) -> None:
            given = {name: words.pop(name) for name in OPTIONS}
            said = {name: value for name, value in given.items() if value not in (None, [])}
            command(**words, sampling=said)

        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "sampling"] + added
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(name: str, default: Any) -> inspect.Parameter:
    kind, help_ = OPTIONS[name]
    option = typer.Option(
        "--" + name.replace("_", "-"),
        help=help_ if default is None else f"{help_} [default: {default}]",
        rich_help_panel="Sampling",
        show_default=False,
    )
    annotation: Any = Annotated[kind | None, option]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def settings(command: str, given: dict[str, Any], **defaults: Any) -> SamplingParams:
    """What the user said, and the command's own defaults elsewhere. Raises UserError."""
    from glassbox.core.config import parse
    from glassbox.core.errors import UserError
    from glassbox.inference.sampling.params import SamplingParams

    raw = {**defaults, **given}
    if "logit_bias" in raw:
        pairs = [text.partition("=") for text in raw["logit_bias"]]
        for token, equals, bias in pairs:
            if not (token and equals and bias):
                raise UserError(f"--logit-bias {token}{equals}{bias}: write ID=BIAS, such as 42=-5")
        raw["logit_bias"] = {token: bias for token, _, bias in pairs}
    return parse(SamplingParams, raw, where=f"glassbox {command}")
