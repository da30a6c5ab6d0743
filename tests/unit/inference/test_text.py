"""Text as it comes: no half characters, no part of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glassbox.inference.detokenizer import StopStrings, TextStream, decode
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.patterns import PreTokenizer
from glassbox.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer(
    BytePairModel({char: i for i, char in enumerate(BYTE_TO_CHAR)}, []),
    PreTokenizer.named("gpt2"),
    [AddedToken("<|end|>", 256)],
    roles={"eos_token": "<|end|>"},
)
LETTERS = st.text(alphabet="abé", max_size=14)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3)


def first_match(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Add characters until some stop string ends the text; of several, the longest."""
    for end in range(1, len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            stop = max(matching, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(LETTERS, STOPS, st.lists(st.integers(1, 5)))
def test_stop_strings_are_found_however_the_text_is_cut(text, stops, sizes):
    scanner, pieces, rest = StopStrings(stops), [], text
    for size in [*sizes, len(text) + 1]:
        piece, rest = rest[:size], rest[size:]
        pieces.append(scanner.push(piece))
        # what is out is a beginning of the right answer at every moment
        assert first_match(text, stops)[0].startswith("".join(pieces))
    said = "".join(pieces) + scanner.flush()
    assert (said, scanner.matched) == first_match(text, stops)


@given(LETTERS)
def test_without_stop_strings_nothing_is_held_back(text):
    scanner = StopStrings(())
    assert scanner.push(text) == text


def test_a_stop_string_that_the_end_itself_completes_is_why_the_answer_ends():
    """Half a character is held back, and becomes a replacement character when no more comes."""
    half = 0xC3  # of "é"
    stream = TextStream(TOKENIZER, ["\ufffd"])
    assert (stream.push(half), stream.matched) == ("", None)
    assert (stream.flush(), stream.matched) == ("", "\ufffd")
    mixer = GroupedQuery(num_heads=1)
    config = ModelConfig(
        vocab_size=257, hidden_size=4, context_length=8,
        blocks=[Repeat(block=BlockSpec(mixer=mixer, ffn=None))],
    )  # fmt: skip
    params = SamplingParams(temperature=0, max_tokens=1, stop=("\ufffd",), logit_bias={half: 1e4})
    (answer,) = Engine(CausalLM(config).eval(), TOKENIZER).generate([[1]], params)
    assert (answer.token_ids, answer.text) == ([half], "")
    assert (answer.finish_reason, answer.stop) == ("stop", "\ufffd")


@given(st.lists(st.integers(0, 259), max_size=30), STOPS)
def test_a_stream_of_tokens_joins_to_the_whole(ids, stops):
    stream = TextStream(TOKENIZER, stops)
    pieces = [stream.push(token) for token in ids]
    said = "".join(pieces) + stream.flush()
    whole = decode(TOKENIZER, ids)  # 257 to 259 stand for nothing, 256 is a control token
    assert (said, stream.matched) == first_match(whole, stops)


def test_a_character_of_several_tokens_comes_out_whole():
    stream = TextStream(TOKENIZER, ())
    pieces = [stream.push(token) for token in TOKENIZER.encode("a雨🙂")]
    assert [piece for piece in pieces if piece] == ["a", "雨", "🙂"]
