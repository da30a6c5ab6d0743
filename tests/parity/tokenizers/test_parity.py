"""The tokenizer against `tokenizers` and `transformers`: merges, ids, files, chats."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from glassbox.tokenizers import (
    DEFAULT_CHAT_TEMPLATE,
    PATTERNS,
    SPECIAL_TOKENS,
    AddedToken,
    ChatTemplate,
    PreTokenizer,
    Tokenizer,
    train_bpe,
)
from glassbox.tokenizers.bpe import BytePairModel

CORPUS = [
    "The cat sat on the mat. The cat's hat isn't a bat's hat!\n\nShe said: \"we'll see 1234 cats\".",
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。滚滚长江。",
    "def cat(n):\n    return [n * i for i in range(1000)]\n\n\n    # the cat\t\tsat --- aaaa aaaaaaa",
    "naïve café, e\u0301te\u0301, 👩‍👩‍👧 🐈🐈 \u00a0 \u3000 ١٢٣",
]
# The two libraries carry different editions of Unicode: characters that neither may know are left out.
TEXT = st.text(
    st.one_of(
        st.sampled_from("  \n\r\t'sStTlLrRvVeEmMdDſKabc19.-<|>_，。山á\u0301\u3000\x1c\x85🐈½٣"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    ),
    max_size=60,
)


def reference_split(pattern: str) -> pre_tokenizers.PreTokenizer:
    if pattern == PATTERNS["gpt2"]:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def reference_training(
    texts: Sequence[str], vocab_size: int, pattern: str, min_frequency: int = 0
) -> tokenizers.Tokenizer:
    reference = tokenizers.Tokenizer(models.BPE())
    reference.pre_tokenizer = reference_split(pattern)
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(texts, trainer)
    return reference


def assert_same_vocabulary(ours: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    model = json.loads(reference.to_str())["model"]
    assert [list(pair) for pair in ours.model.merges] == [list(pair) for pair in model["merges"]]
    assert ours.model.vocab == model["vocab"]


def as_reference(tokenizer: Tokenizer, folder: Path, *, allow_special: bool) -> Any:
    tokenizer.save(folder)
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.encode_special_tokens = not allow_special
    return reference


@pytest.fixture(scope="module", params=[*PATTERNS, "nfc", "whole words", "digits"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, dict[bool, Any]]:
    """Our tokenizer, and `tokenizers` reading its file, without and with special tokens allowed."""
    name = request.param if request.param in PATTERNS else "qwen2"
    specials = [*SPECIAL_TOKENS, "<|im_end|>>", "ab<"]
    ours = train_bpe(CORPUS, 420, pattern=name, special_tokens=specials)
    if request.param == "nfc":
        words = PreTokenizer(ours.pretokenizer.stages, nfc=True)
        extra = [AddedToken("<think>", 420, special=False), AddedToken("\n \n", 421, special=False)]
        ours = Tokenizer(ours.model, words, [*ours.added, *extra])
    elif request.param == "whole words":  # as Llama 3: a word in the vocabulary needs no merges
        model = BytePairModel(ours.model.vocab, ours.model.merges[::2], ignore_merges=True)
        merges = [m for m in model.merges if all(len(t) == 1 for t in m)]
        model = BytePairModel(model.vocab, merges, ignore_merges=True)
        ours = Tokenizer(model, ours.pretokenizer, ours.added)
    elif request.param == "digits":  # as SmolLM2, and with tokens looked for in a second pass
        words = PreTokenizer((r"\p{N}", PATTERNS["gpt2"]))
        late = AddedToken("b<|im_", 420, special=False, normalized=True)
        ours = Tokenizer(ours.model, words, [*ours.added, late])
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    references = {allow: as_reference(ours, folder, allow_special=allow) for allow in (False, True)}
    return ours, references


# ---- pre-tokenization ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PATTERNS))
@given(text=TEXT)
@example(text="I'LL  'ſ \x1c\x85\u180e \r\n\r\n  x\t\ty 12345 ½٣ --\n\n")
@settings(max_examples=150, deadline=None)
def test_words_are_those_of_tokenizers(name: str, text: str) -> None:
    ours = PreTokenizer.named(name).split(text)
    splitter = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    assert ours == [word for word, _ in splitter.pre_tokenize_str(text)]
    with_bytes = reference_split(PATTERNS[name]).pre_tokenize_str(text)
    assert len(with_bytes) == len(ours)


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PATTERNS))
@pytest.mark.parametrize("least", [1, 3])
def test_merges_and_ids_are_those_of_tokenizers(name: str, least: int) -> None:
    ours = train_bpe(CORPUS, 450, pattern=name, min_frequency=least)
    assert_same_vocabulary(ours, reference_training(CORPUS, 450, PATTERNS[name], least))


@given(texts=st.lists(TEXT, max_size=6), vocab_size=st.integers(260, 320))
@settings(max_examples=60, deadline=None)
def test_merges_on_any_text_are_those_of_tokenizers(texts: list[str], vocab_size: int) -> None:
    ours = train_bpe(texts, vocab_size)
    assert_same_vocabulary(ours, reference_training(texts, vocab_size, PATTERNS["gpt4"]))


@given(texts=st.lists(st.text("ab", max_size=40), max_size=5))
@settings(max_examples=60, deadline=None)
def test_merges_of_long_runs_are_those_of_tokenizers(texts: list[str]) -> None:
    ours = train_bpe(texts, 300)
    assert_same_vocabulary(ours, reference_training(texts, 300, PATTERNS["gpt4"]))


# ---- encoding -----------------------------------------------------------------------------------


@given(
    parts=st.lists(
        st.one_of(
            TEXT, st.sampled_from([*SPECIAL_TOKENS, "ab<", "<think>", "b<|im_", " cat", "The"])
        )
    )
)
@settings(max_examples=120, deadline=None)
def test_ids_are_those_of_tokenizers(
    pair: tuple[Tokenizer, dict[bool, Any]], parts: list[str]
) -> None:
    ours, references = pair
    text = "".join(parts)
    for allow, reference in references.items():
        expected = reference.encode(text).ids
        assert ours.encode(text, allow_special=allow) == expected
        assert ours.encode_plain(text, allow_special=allow) == expected
        assert list(ours.encode_stream(parts, allow_special=allow)) == expected


@given(ids=st.lists(st.integers(0, 419), max_size=40), skip=st.booleans())
@settings(max_examples=120, deadline=None)
def test_text_of_any_ids_is_that_of_tokenizers(
    pair: tuple[Tokenizer, dict[bool, Any]], ids: list[int], skip: bool
) -> None:
    ours, references = pair
    expected = references[True].decode(ids, skip_special_tokens=skip)
    assert ours.decode(ids, skip_special=skip) == expected


# ---- files --------------------------------------------------------------------------------------


def test_a_saved_tokenizer_opens_in_transformers(tmp_path: Path) -> None:
    ours = train_bpe(CORPUS, 420)
    ours.save(tmp_path)
    for model_type in (None, "llama", "gpt2", "qwen3"):
        if model_type is not None:  # beside a model, as in a checkpoint
            config = {"model_type": model_type, "vocab_size": 420}
            (tmp_path / "config.json").write_text(json.dumps(config))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert len(theirs) == ours.vocab_size
        assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
        assert theirs.bos_token_id is None
        assert set(theirs.all_special_tokens) == set(SPECIAL_TOKENS)
        assert theirs.chat_template == DEFAULT_CHAT_TEMPLATE
        for text in (*CORPUS, "a <|im_start|>b<|im_end|>\n"):
            ids = ours.encode(text, allow_special=True)
            assert theirs(text)["input_ids"] == ids
            assert theirs.decode(ids) == text
            plain = ours.decode(ids, skip_special=True)
            assert theirs.decode(ids, skip_special_tokens=True) == plain


def test_a_tokenizer_saved_by_transformers_opens_here(tmp_path: Path) -> None:
    reference = reference_training(CORPUS, 420, PATTERNS["gpt4"])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=reference,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        chat_template="{{ messages[0].content }}",
    )
    theirs.add_tokens(["<think>"])
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert (ours.eos_id, ours.pad_id, ours.bos_id) == (2, 0, 1)
    assert ours.chat_template == theirs.chat_template
    for text in (*CORPUS, "a<|im_end|><think> b"):
        assert ours.encode(text, allow_special=True) == theirs(text)["input_ids"]


# ---- chats --------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers & more: ü",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "ü": "<2>"}}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "Be kind.\n"},
        {"role": "user", "content": "  hello <b> & 'you' \n"},
        {"role": "assistant", "content": "\n hi there \n\n"},
        {"role": "user", "content": "滚滚长江"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
    ],
    [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "3", "reasoning_content": "easy"},
        {"role": "user", "content": "and again"},
    ],
]


def transformers_tokenizer(ours: Tokenizer, folder: Path) -> Any:
    ours.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [False, True])
def test_chats_are_rendered_as_by_transformers(
    tmp_path: Path, chat: list[dict[str, Any]], tools: Any, prompt: bool
) -> None:
    ours = train_bpe(CORPUS, 420)
    theirs = transformers_tokenizer(ours, tmp_path)
    expected = theirs.apply_chat_template(
        chat, tools=tools, add_generation_prompt=prompt, tokenize=False
    )
    assert ours.apply_chat_template(chat, tools=tools, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("chat", CHATS)
def test_masks_are_those_of_transformers(tmp_path: Path, chat: list[dict[str, Any]]) -> None:
    # An answer that begins with a newline is left out: transformers joins it to the header's.
    chat = [
        {**message, "content": message["content"].lstrip() if message["content"] else None}
        for message in chat
    ]
    ours = train_bpe(CORPUS, 420)
    theirs = transformers_tokenizer(ours, tmp_path).apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = ours.encode_chat(chat)
    assert ids == theirs["input_ids"]
    assert mask == theirs["assistant_masks"]


@given(contents=st.lists(st.text(max_size=20), min_size=1, max_size=5), prompt=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_content_is_rendered_as_by_transformers(contents: list[str], prompt: bool) -> None:
    chat = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)
    ]
    [expected], _ = transformers.utils.chat_template_utils.render_jinja_template(
        [chat], chat_template=DEFAULT_CHAT_TEMPLATE, add_generation_prompt=prompt
    )
    template = ChatTemplate(DEFAULT_CHAT_TEMPLATE)
    assert template.render(chat, add_generation_prompt=prompt) == expected


# ---- real data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("GLASSBOX_TESTDATA")
    if not folder:
        pytest.skip("set GLASSBOX_TESTDATA to the folder of real data")
    return Path(folder)


def documents(data: Path, name: str) -> list[str]:
    if name == "tinystories":
        path = data / "tinystories" / "tinystories_sample_2MiB.txt"
        return path.read_text(encoding="utf-8", errors="replace").split("<|endoftext|>")
    content: list[str] = json.loads(
        (data / "chinese" / "sanguo_yanyi_docs.json").read_text(encoding="utf-8")
    )
    return content


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinystories", "chinese"])
@pytest.mark.parametrize("vocab_size", [1000, 8000])
def test_merges_on_real_text_are_those_of_tokenizers(
    data: Path, tmp_path: Path, name: str, vocab_size: int
) -> None:
    texts = documents(data, name)
    ours = train_bpe(texts, vocab_size)
    assert ours.vocab_size == vocab_size
    assert_same_vocabulary(ours, reference_training(texts, vocab_size, PATTERNS["gpt4"]))
    sample = texts[:: max(1, len(texts) // 20)]
    reference = as_reference(ours, tmp_path, allow_special=False)
    expected = [encoding.ids for encoding in reference.encode_batch(sample)]
    assert ours.encode_batch(sample) == expected
    assert [list(ours.encode_stream([t[:9], t[9:500], t[500:]])) for t in sample] == expected
    assert [ours.decode(ids) for ids in expected] == sample


@pytest.fixture(scope="module")
def minimind(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("minimind")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (data / "tokenizers" / f"minimind-{name}").read_bytes()
        (folder / name).write_bytes(content)
    ours = Tokenizer.load(data / "tokenizers" / "minimind-tokenizer.json")
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.realdata
def test_a_published_tokenizer_gives_the_ids_of_transformers(
    data: Path, tmp_path: Path, minimind: tuple[Tokenizer, Any]
) -> None:
    ours, theirs = minimind
    assert (ours.eos_id, ours.bos_id) == (theirs.eos_token_id, theirs.bos_token_id)
    texts = [*documents(data, "tinystories")[:40], *documents(data, "chinese")[:4]]
    texts += ["<think>a</think><|im_end|> <tool_call>"]
    ours.save(tmp_path)
    for reader in (ours, Tokenizer.load(tmp_path)):
        for text in texts:
            ids = theirs(text)["input_ids"]
            assert reader.encode(text, allow_special=True) == ids
            assert reader.decode(ids) == theirs.decode(ids) == text


@pytest.mark.realdata
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("variables", [{}, {"open_thinking": True}])
def test_a_published_chat_template_gives_the_text_of_transformers(
    minimind: tuple[Tokenizer, Any], chat: list[dict[str, Any]], tools: Any, variables: Any
) -> None:
    ours, theirs = minimind
    for prompt in (False, True):
        options = {"tools": tools, "add_generation_prompt": prompt, **variables}
        expected = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert ours.apply_chat_template(chat, **options) == expected


@pytest.mark.realdata
def test_answers_are_found_in_a_published_chat_template(minimind: tuple[Tokenizer, Any]) -> None:
    ours, _ = minimind
    ids, mask = ours.encode_chat(CHATS[2])
    end = ours.special_tokens["<|im_end|>"]
    said = ours.decode([number for number, keep in zip(ids, mask, strict=True) if keep])
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "ü": "<2>"}}\n</tool_call>'
    assert said == f"{call}\n{call}<|im_end|>easy\n</think>\n\n3<|im_end|>"
    assert [n for n, keep in zip(ids, mask, strict=True) if keep].count(end) == 2
    assert ours.decode(ids) == ours.apply_chat_template(CHATS[2])
    prompt = ours.encode_chat_prompt(CHATS[2][:1])
    assert ids[: len(prompt)] == prompt
