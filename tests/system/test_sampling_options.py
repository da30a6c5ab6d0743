"""The options of sampling and searching on the command line reach the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from glassbox.cli.main import main
from glassbox.cli.sampling_options import OPTIONS, settings
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.open_model import open_on
from glassbox.inference import Engine, SamplingParams
from glassbox.inference.search.beam import BeamParams
from glassbox.inference.search.contrastive import ContrastiveParams
from glassbox.inference.search.run import search, search_params
from glassbox.runs.prompts import plain_prompt
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), path, tokenizer=tokenizer)
    return path


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command writes."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command ends with, for exit code 2."""
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert done.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_every_option_is_a_setting_and_reaches_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0.6,
        "top_k": 9,
        "top_p": 0.8,
        "min_p": 0.01,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.002,
        "top_h": 0.95,
        "no_repeat_ngram_size": 3,
        "bad_words": "he",
        "guidance_scale": 1.2,
        "negative_prompt": "Who",
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.4,
        "logit_bias": "5=-2.5",
        "stop": "zz",
        "seed": 4,
    }
    assert values.keys() == OPTIONS.keys()
    words = [word for name, value in values.items() for word in (f"--{name}", value)]
    params = SamplingParams(**{**values, "logit_bias": {5: -2.5}})
    model, tokenizer, _ = open_on(folder, "cpu")
    (expected,) = Engine(model, tokenizer).generate([plain_prompt(tokenizer, "Who has")], params)
    seen: list[SamplingParams] = []
    stream = Engine.stream

    def watched(self, prompt, params=None, **more):  # type: ignore[no-untyped-def]
        seen.append(params)
        return stream(self, prompt, params, **more)

    monkeypatch.setattr(Engine, "stream", watched)
    shown = said(capsys, "generate", folder, "--prompt", "Who has", *words)
    assert shown == f"{expected.text}\n"
    assert seen == [params]


@pytest.mark.parametrize("stopping", ["true", "false", "never"])
def test_beams_and_contrast_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], stopping: str
) -> None:
    model, tokenizer, _ = open_on(folder, "cpu")
    engine, prompt = Engine(model, tokenizer), plain_prompt(tokenizer, "Who has")
    params = SamplingParams(max_tokens=6)
    word: bool | str = {"true": True, "false": False}.get(stopping, stopping)
    beams = BeamParams(
        num_beams=3,
        length_penalty=0.5,
        early_stopping=word,  # type: ignore[arg-type]
        num_return_sequences=2,
    )
    found = search(engine, prompt, beams, params)
    assert len(found) == 2
    assert found[0].score >= found[1].score  # type: ignore[operator]
    shown = said(
        capsys, "generate", folder, "--prompt", "Who has", "--num-beams", 3, "--max-tokens", 6,
        "--length-penalty", 0.5, "--early-stopping", stopping, "--num-return-sequences", 2,
    )  # fmt: skip
    assert shown == "".join(f"{one.text}\n" for one in found)
    (contrasted,) = search(engine, prompt, ContrastiveParams(penalty_alpha=0.4, top_k=6), params)
    assert contrasted.score is None
    shown = said(
        capsys, "generate", folder, "--prompt", "Who has", "--penalty-alpha", 0.4, "--top-k", 6,
        "--max-tokens", 6,
    )  # fmt: skip
    assert shown == f"{contrasted.text}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", 2], "'top_p' = 2.0"),
        (["--logit-bias", "5"], "--logit-bias 5: write ID=BIAS"),
        (["--logit-bias", "x=1"], "logit_bias"),
        (["--min-tokens", 9, "--max-tokens", 8], "min_tokens = 9 is above max_tokens = 8"),
        (["--num-beams", 0], "'num_beams' = 0"),
        (["--num-beams", 2, "--early-stopping", "maybe"], "early_stopping"),
        (["--num-beams", 2, "--num-return-sequences", 3], "raise num_beams"),
        (["--num-beams", 2, "--temperature", 0.3], "temperature = 0.3: beam search does not draw"),
        (["--length-penalty", 2], "--length-penalty 2.0 is of beam search: give --num-beams"),
        (["--penalty-alpha", 0.5, "--num-beams", 2], "no --penalty-alpha"),
        (
            ["--penalty-alpha", 0.5, "--ngram-drafts", 4],
            "--ngram-drafts: a search takes no guesses",
        ),
        (["--num-beams", 2, "--draft", "x"], "--draft: a search takes no guesses"),
        (["--penalty-alpha", 1.5], "'penalty_alpha' = 1.5"),
        (["--penalty-alpha", 0.5, "--top-p", 0.5], "top_p = 0.5: contrastive search has no use"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[object], message: str
) -> None:
    assert message in refusal(capsys, "generate", folder, "--prompt", "x", *words)


def test_a_commands_own_defaults_yield_to_what_is_said() -> None:
    assert settings("chat", {}, temperature=0.7).temperature == 0.7
    assert settings("chat", {"temperature": 0.0}, temperature=0.7).temperature == 0.0
    assert search_params({}, penalty_alpha=None, num_beams=1) is None
