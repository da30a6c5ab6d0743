"""The dialect of evaluation tasks: lm-evaluation-harness's Jinja, in our sandbox and its process."""

from __future__ import annotations

import re

import jinja2
import pytest

from glassbox.core.errors import UserError
from glassbox.sandbox.template_process import shared_template_process
from glassbox.sandbox.templates import TemplateSandbox

DOC = {
    "question": " Why? ",
    "choices": {"text": ["a", "b"], "label": ["A", "B"]},
    "answerKey": "B",
    "n": 2,
}
TEMPLATES = [
    "Question: {{question}}\nAnswer:",
    "{% if n > 1 %}\nmany\n{% endif %}\nend\n",
    "  {% set x = choices.text %}\n{{ x[0] }}{{[x[0] + '!', x[1]]}}",
    "{{choices.label.index(answerKey)}}",
    "{{question.strip()|upper}} {{ [1, 2]|join(', ') }}",
    "{{ 'a1b22'|regex_replace('[0-9]+', '#') }}",
    "{{ 'ABCD'[n - 1] if n|string in '1234' else n }}",
    "trailing newline\n",
]


def reference(template: str) -> str:
    """As the harness sets Jinja up."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lambda text, a, b, count=0: re.sub(
        a, b, text, count=count
    )
    return environment.from_string(template).render(**DOC)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_text_is_plain_jinjas(template: str) -> None:
    sandbox = TemplateSandbox("task")
    expected = reference(template)
    assert sandbox.render_guarded(sandbox.compile_guarded(template), dict(DOC)) == expected
    assert shared_template_process().render(template, DOC, "task") == expected


def test_the_dialects_share_a_process() -> None:
    template = "{% if true %}\nx{% endif %}\n"
    process = shared_template_process()
    assert process.render(template, {}, "task") == "\nx\n"
    assert process.render(template, {}) == "x"


@pytest.mark.parametrize(
    "template",
    [
        "{{ missing }}",
        "{{ question.missing }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a' * 99999999999 }}",
    ],
)
def test_what_is_missing_or_hostile_is_an_error(template: str) -> None:
    with pytest.raises(UserError, match="failed"):
        shared_template_process().render(template, DOC, "task")


def test_a_pattern_without_end_is_stopped() -> None:
    template = "{{ ('a' * 40 + 'b')|regex_replace('(a+)+$', '') }}"
    with pytest.raises(UserError, match=r"more than 1\.5 seconds"):
        shared_template_process().render(template, DOC, "task")
