"""A branch of a chat as a page that opens from disk, and as Python that gives the same answers."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from glassbox.studio.store import Json

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif;max-width:48rem;margin:2rem auto;
padding:0 1rem;color:#1c1e21;background:#fff}section{margin:1.5rem 0}h2{font-size:.85rem;margin:0;
color:#555}.text{white-space:pre-wrap;overflow-wrap:anywhere}.t{border-radius:2px}
table{border-collapse:collapse;font:13px ui-monospace,monospace}td,th{padding:.1rem .7rem .1rem 0;text-align:left}
td{white-space:pre}summary{cursor:pointer;color:#555;font-size:.85rem}.wide{overflow-x:auto}
.p0{background:#fff}.p1{background:#fdf3d0}.p2{background:#fbdfae}.p3{background:#f7bf94}.p4{background:#f09f8c}
@media(prefers-color-scheme:dark){body{color:#e8e8ea;background:#17181b}h2,summary{color:#aaa}
.p0{background:#17181b}.p1{background:#3a3217}.p2{background:#4d3a14}.p3{background:#5e3517}.p4{background:#6d2b20}}
"""


def level(log_prob: float | None) -> int:
    """How surprising a token was, from 0 (probability above 1/2) to 4 (below 1/100).

    >>> [level(math.log(p)) for p in (0.9, 0.3, 0.1, 0.02, 0.001)]
    [0, 1, 2, 3, 4]
    """
    probability = 1.0 if log_prob is None else math.exp(log_prob)
    return sum(probability < bound for bound in (0.5, 0.2, 0.05, 0.01))


def as_page(title: str, branch: Sequence[Json]) -> str:
    """One HTML file without scripts and without references to anything outside it."""
    parts = []
    for message in branch:
        who = message["model"] or message["role"]
        tokens = message["tokens"]
        text = html.escape(message["content"])
        if tokens:
            text = "".join(_token(token) for token in tokens)
        parts.append(
            f'<section><h2>{html.escape(who)}</h2><div class="text">{text}</div>'
            f"{_table(tokens) if tokens else ''}</section>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def _token(token: Json) -> str:
    if not token["t"]:
        return ""
    chance = "" if token["l"] is None else f"p = {math.exp(token['l']):.4f}"
    return f'<span class="t p{level(token["l"])}" title="{chance}">{html.escape(token["t"])}</span>'


def _table(tokens: Sequence[Json]) -> str:
    rows = []
    for place, token in enumerate(tokens):
        name = str(token.get("s", token["t"]))
        others = ", ".join(
            f"{_shown(other)} {math.exp(value):.3f}" for _, other, value in token["a"][:5]
        )
        chance = "" if token["l"] is None else f"{math.exp(token['l']):.4f}"
        spread = "" if token["h"] is None else f"{token['h']:.3f}"
        rows.append(
            f"<tr><td>{place}</td><td>{html.escape(_shown(name))}</td><td>{chance}</td>"
            f"<td>{spread}</td><td>{html.escape(others)}</td></tr>"
        )
    return (
        '<details><summary>Tokens</summary><div class="wide"><table><thead><tr><th>place</th>'
        "<th>token</th><th>probability</th><th>entropy, nats</th><th>likeliest</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _shown(name: str) -> str:
    return repr(name)[1:-1] if name.strip() == name else repr(name)


_PYTHON = '''"""Gives the answer of a chat again, token by token, as the studio showed it.

The same model, seed and settings give the same tokens on the same machine; another processor or
batch may round a close decision the other way."""

from glassbox.formats.open_model import open_on
from glassbox.inference import Engine, SamplingParams

model, tokenizer, _ = open_on({model!r}, "cpu")
engine = Engine(model, tokenizer)

{source}
kept = {kept!r}  # tokens that the answer was begun with
params = SamplingParams.model_validate({params!r})
{ends}completion, = engine.generate([prompt + kept], params)

print(tokenizer.decode(kept, skip_special=True) + (completion.text or ""))
for token, log_prob in zip(completion.token_ids, completion.log_probs or [], strict=True):
    print(f"{{tokenizer.decode([token])!r:>20}} {{log_prob:8.4f}}")
'''


def as_python(branch: Sequence[Json], *, chats: bool) -> str:
    """A program that makes the branch's last answer again. chats: whether its model has a chat template.

    Raises ValueError for a branch that ends with no answer of a model.
    """
    answer = branch[-1]
    if answer["role"] != "assistant" or not answer["model"] or answer["request"].get("changes"):
        raise ValueError("the branch ends with no model's answer")
    request: dict[str, Any] = answer["request"]
    turns = [{"role": one["role"], "content": one["content"]} for one in branch[:-1]]
    turns = turns[request.get("left_out", 0) :]
    if chats:
        if request.get("system"):
            turns.insert(0, {"role": "system", "content": request["system"]})
        shown = "".join(f"    {turn!r},\n" for turn in turns)
        source = (
            "from glassbox.inference import ChatPrompts\n\n"
            f"messages = [\n{shown}]\nprompt = ChatPrompts(tokenizer).ids(messages)"
        )
        ends = "params = ChatPrompts(tokenizer).params(params)\n"
    else:
        text = "".join(turn["content"] for turn in turns)
        source = (
            "from glassbox.tokenizers.prefix import text_prefix\n\n"
            f"prompt = [*text_prefix(tokenizer), *tokenizer.encode({text!r})]"
        )
        ends = ""
    kept = [token["i"] for token in answer["tokens"][: request.get("kept", 0)]]
    params = {k: v for k, v in request["sampling"].items() if k != "top_logprobs"}
    return _PYTHON.format(model=answer["model"], source=source, kept=kept, params=params, ends=ends)
