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
    "max_tokens": (int, "Most tokens to add."),
    "min_tokens": (int, "Fewest tokens before the text may end."),
    "temperature": (float, "0: always the likeliest."),
    "top_k": (int, "Only the k likeliest; 0: all."),
    "top_p": (float, "Only the likeliest of this total."),
    "min_p": (float, "Only those this share as likely as the likeliest."),
    "typical_p": (float, "Only those of about the expected surprise, of this total."),
    "epsilon_cutoff": (float, "Only those of at least this probability."),
    "eta_cutoff": (float, "As epsilon cutoff, lower where much is likely."),
    "top_h": (float, "Only the likeliest up to this share of the entropy."),
    "repetition_penalty": (float, "Above 1: repeat less of prompt and answer."),
    "frequency_penalty": (float, "Taken off for each time the answer has a token, -2 to 2."),
    "presence_penalty": (float, "Taken off where the answer has a token, -2 to 2."),
    "logit_bias": (list[str], "ID=BIAS, added to a token's logit; may be repeated."),
    "no_repeat_ngram_size": (int, "No run of so many tokens occurs twice; 0: any may."),
    "bad_words": (list[str], "Never write this; may be repeated."),
    "guidance_scale": (float, "Above 1: away from the negative prompt."),
    "negative_prompt": (str, "What guidance leads away from."),
    "stop": (list[str], "End before this text; may be repeated."),
    "seed": (int, "Same seed, same text."),
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
