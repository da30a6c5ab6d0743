"""From a recipe's text to the tokenizer and the shards it trains on, each made once and kept."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.data.infilling import FimConfig, FimCounts, fill_in_the_middle
from glassbox.data.loader import PackedRows
from glassbox.data.python_source import PythonSource
from glassbox.data.shards import Shard, read_shard, write_shard
from glassbox.data.text import find_corpus, heldout_share, is_heldout, read_documents
from glassbox.data.token_files import (
    SUFFIXES,
    find_token_files,
    open_token_file,
    part,
    split_heldout,
)
from glassbox.formats.huggingface import opens_as
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.stages.text import TextData, TokenizerConfig
from glassbox.tokenizers import SPECIAL_TOKENS, Tokenizer, train_tokenizer

BATCH_DOCUMENTS = 2048
NAME_THE_TOKENIZER = "'{path}' holds ids, not text; name the tokenizer that made them: tokenizer.path=FOLDER (or gpt2)"


def prepare_tokenizer(
    config: TokenizerConfig, data: TextData, folder: Path, *, workers: int = 1
) -> Tokenizer:
    """Load the tokenizer that the recipe names, or train one on the training text and keep it.

    `workers` processes count the words of bpe; the tokenizer is the same with any number.
    """
    if config.path is not None:
        return Tokenizer.load(config.path)
    kept = folder / "tokenizer"
    if (kept / "tokenizer.json").exists():
        return Tokenizer.load(kept)
    for path in data.paths:
        if find_token_files(find_corpus(path)) is not None:
            raise UserError(NAME_THE_TOKENIZER.format(path=path))
    where = ", ".join(map(str, data.paths))
    print(f"  training a tokenizer of {config.vocab_size} entries on {where}", file=sys.stderr)
    texts = itertools.chain.from_iterable(training_documents(data, path) for path in data.paths)
    tokenizer = train_tokenizer(
        _beginning(texts, config.max_characters),
        config.vocab_size,
        kind=config.kind,
        pattern=config.pattern,
        workers=workers if config.kind == "bpe" else 1,
        special_tokens=(*SPECIAL_TOKENS, *(data.fim.tokens if data.fim else ())),
    )
    tokenizer.save(kept)
    return tokenizer


def _beginning(texts: Iterable[str], characters: int | None) -> Iterator[str]:
    """The first documents, until they have so many characters together; None: all."""
    length = 0
    for text in texts:
        yield text
        length += len(text)
        if characters is not None and length >= characters:
            return


def token_shard(data: TextData, path: str | PythonSource, tokenizer: Tokenizer) -> Shard | None:
    """The ids to train on if one of the data's paths has token ids; None if it has text.

    Without a separate file of held-out ids, the last `data.heldout_share` of the file is held out.
    """
    files = find_token_files(find_corpus(path))
    if files is None:
        return None
    if data.fim is not None:
        raise UserError(
            f"data.fim rearranges text, and '{path}' holds ids; name text, or leave out fim"
        )
    if files.is_shard:
        return read_shard(files.train, fingerprint=tokenizer.fingerprint)
    shard = _open_ids(files.train, tokenizer)
    if data.heldout_path is not None or files.heldout is not None:
        return shard
    return split_heldout(shard, data.heldout_share, longest=data.row_length)[0]


def heldout_token_shard(
    data: TextData, path: str | PythonSource, tokenizer: Tokenizer
) -> Shard | None:
    """The held-out ids of one of the data's paths, or of `data.heldout_path`; None where it is text."""
    if data.heldout_path is not None:
        files = find_token_files(find_corpus(data.heldout_path))
        return None if files is None else _whole(files.train, data, tokenizer)
    files = find_token_files(find_corpus(path))
    if files is None:
        return None
    if files.heldout is not None:
        return _whole(files.heldout, data, tokenizer)
    if files.is_shard:
        raise UserError(
            f"there is no shard 'heldout' beside '{files.train}'; name one as data.heldout_path"
        )
    shard = _open_ids(files.train, tokenizer)
    return split_heldout(shard, data.heldout_share, longest=data.row_length)[1]


def _whole(path: Path, data: TextData, tokenizer: Tokenizer) -> Shard:
    if path.suffix not in SUFFIXES:
        return read_shard(path, fingerprint=tokenizer.fingerprint)
    shard = _open_ids(path, tokenizer)
    # a file without an end of text would else be one document, longer than a model reads
    return part(shard, 0, len(shard.ids), longest=data.row_length)


def _open_ids(path: Path, tokenizer: Tokenizer) -> Shard:
    return open_token_file(path, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)


def training_documents(data: TextData, path: str | PythonSource) -> Iterator[str]:
    """The documents of one of the data's paths that are not held out."""
    found = find_corpus(path)
    if data.heldout_path is not None:
        yield from read_documents(found, split=data.split)
        return
    share = heldout_share(_all_documents(data), data.heldout_share)
    yield from (
        text for text in read_documents(found, split=data.split) if not is_heldout(text, share)
    )


def heldout_documents(data: TextData, path: str | PythonSource | None = None) -> Iterator[str]:
    """The held-out documents: a file of their own, or the share of all text picked by its text.

    Of one of the data's paths where it is given, else of all.
    """
    if data.heldout_path is not None:
        yield from read_documents(find_corpus(data.heldout_path), split=data.split)
        return
    share = heldout_share(_all_documents(data), data.heldout_share)
    texts = (
        _all_documents(data)
        if path is None
        else read_documents(find_corpus(path), split=data.split)
    )
    yield from (text for text in texts if is_heldout(text, share))


def _all_documents(data: TextData) -> Iterator[str]:
    # one share for all sources, so that a text in two of them falls on one side
    found = (find_corpus(path) for path in data.paths)
    texts = (path for path in found if find_token_files(path) is None)
    return itertools.chain.from_iterable(read_documents(p, split=data.split) for p in texts)


def prepare_shard(
    documents: Callable[[], Iterable[str]],
    tokenizer: Tokenizer,
    path: Path,
    *,
    what: str,
    fim: FimConfig | None = None,
    row_length: int = 0,
    seed: int = 0,
    verify: bool = True,
    may_be_empty: bool = False,
) -> Shard:
    """Tokenize documents into a shard, unless a complete one by the same tokenizer exists.

    Each document is stored as `<eos> ids <eos>`: its first token is predicted, and so is its end.
    With `fim` a share of the pieces that fit a row, chosen by `seed`, is rearranged for
    fill-in-the-middle; counts are in the shard's header.
    Without `verify` checksums of an existing shard are not verified. Raises UserError if there is
    no document, unless `may_be_empty`.
    """
    if path.with_name(path.name + ".json").exists():
        return read_shard(path, fingerprint=tokenizer.fingerprint, verify=verify)
    extra: dict[str, Any] = {}
    if fim is None:
        encoded = encode_documents(documents(), tokenizer)
    else:
        counts = FimCounts()
        extra["fim"] = vars(counts)  # filled while the documents are written
        encoded = fill_in_the_middle(
            documents(), tokenizer, fim, seed=seed, row_length=row_length, counts=counts
        )
    info = write_shard(
        path,
        encoded,
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
        extra=extra,
    )
    if not info["num_documents"] and not may_be_empty:
        raise UserError(f"there is no {what} text; give more documents or set data.heldout_path")
    return read_shard(path, fingerprint=tokenizer.fingerprint)


def encode_documents(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Ids of each document between two end-of-text marks, a batch of documents at a time."""
    eos = tokenizer.eos_id
    iterator = iter(documents)
    while batch := list(itertools.islice(iterator, BATCH_DOCUMENTS)):
        for ids in tokenizer.encode_batch(batch):
            yield [eos, *ids, eos]


def describe_rows(parts: Sequence[PackedRows], model: CausalLM, folder: Path) -> None:
    """Write statistics of the rows to data.json and print them."""
    num_rows, row_length = sum(map(len, parts)), parts[0].row_length
    facts: dict[str, Any] = {
        "documents": sum(part.shard.num_documents for part in parts),
        "tokens": sum(part.shard.num_tokens for part in parts),
        "rows": num_rows,
        "row_length": row_length,
        "fill_rate": sum(part.num_pairs for part in parts) / (num_rows * row_length),
        "parameters": model.num_parameters,
    }
    fims = [part.shard.info["fim"] for part in parts if "fim" in part.shard.info]
    if fims:
        facts["fim"] = {key: sum(fim[key] for fim in fims) for key in fims[0]}
    write_json(folder / "data.json", facts)
    print(
        f"  {facts['documents']:,} documents, {facts['tokens']:,} tokens in {num_rows:,} rows of "
        f"{row_length} ({100 * facts['fill_rate']:.1f}% full); {model.num_parameters:,} parameters",
        file=sys.stderr,
    )
    if opens_as(model.config) is None:
        print(
            "  transformers has no model of these blocks: what this run leaves opens in Glassbox alone",
            file=sys.stderr,
        )
    if fims:
        fim = facts["fim"]
        print(
            f"  {fim['rearranged']:,} of {fim['stretches']:,} stretches of text "
            f"({100 * fim['rearranged'] / max(1, fim['stretches']):.1f}%) are rearranged to fill in "
            f"the middle, each whole in one row; {fim['unfit']:,} did not fit one",
            file=sys.stderr,
        )
