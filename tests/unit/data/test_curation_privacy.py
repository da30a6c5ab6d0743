"""Personal data: 442 labelled hard cases, half of them look-alikes; checksums that catch every slip."""

from __future__ import annotations

import doctest
import json
import pickle
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.data.curation import identifiers, personal
from glassbox.data.curation.identifiers import (
    is_card,
    is_dni,
    is_fiscal_code,
    is_iban,
    is_nino,
    is_resident_id,
    is_ssn,
    luhn,
)
from glassbox.data.curation.privacy import KINDS, PLACEHOLDERS, PrivacySpec, Redact
from glassbox.data.curation.step import Record

FIXTURE = Path(__file__).parents[2] / "data" / "personal.jsonl"


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]


def test_hard_cases() -> None:
    step = Redact()
    right, missed, wrong = Counter[str](), Counter[str](), Counter[str]()
    for case in cases():
        labelled = {tuple(found) for found in case["found"]}  # a stretch counts only as a whole
        found = {tuple(each) for each in step.find(case["text"])}
        right.update(kind for kind, _, _ in labelled & found)
        missed.update(kind for kind, _, _ in labelled - found)
        wrong.update(kind for kind, _, _ in found - labelled)
    assert right.total() >= 0.95 * (right + missed).total(), f"missed {missed}"
    assert right.total() >= 0.95 * (right + wrong).total(), f"wrong {wrong}"
    for kind in KINDS:  # nor does one kind hide behind the others
        assert right[kind] >= 20
        assert right[kind] >= 0.9 * (right[kind] + max(missed[kind], wrong[kind])), kind


def test_the_set_of_hard_cases() -> None:
    rows = cases()
    assert len(rows) == len({row["text"] for row in rows}) >= 300
    assert sum(not row["found"] for row in rows) >= 150


def test_placeholders_and_counts() -> None:
    step = pickle.loads(pickle.dumps(PrivacySpec().build()))
    text = "a@b.org or c@d.org, 415-555-2671, 8.8.8.8, 219-09-9999, 4111 1111 1111 1111."
    result = step(Record(text + " DE89 3704 0044 0532 0130 00", "a:1", {"url": "x"}))
    assert result.text == "<EMAIL> or <EMAIL>, <PHONE>, <IP>, <ID>, <CARD>. <IBAN>"
    counts = {"card": 1, "email": 2, "iban": 1, "ip": 1, "national_id": 1, "phone": 1}
    assert result.metadata == {"url": "x", "redacted": counts}
    clean = Record("Nothing to see, not even at 10:30 on 2024-05-06.", "a:2")
    assert step(clean) is clean


def test_settings() -> None:
    text = "a@b.org 192.168.0.1 912 345 678"
    assert PrivacySpec(kinds=("email",)).build()(Record(text, "a:1")).text == (  # type: ignore[operator, union-attr]
        "<EMAIL> 192.168.0.1 912 345 678"
    )
    step = PrivacySpec(private_ips=True, phone_regions=("US",)).build()
    assert step(Record(text, "a:1")).text == "<EMAIL> <IP> 912 345 678"  # type: ignore[operator, union-attr]
    with pytest.raises(UserError, match="phone_regions has 'UK', which is no country's code"):
        PrivacySpec(phone_regions=("UK",)).build()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(UserError, match=r'pip install "glassbox-lm\[privacy\]"'):
        PrivacySpec().build()
    assert PrivacySpec(kinds=("email", "ip")).build()


PIECES = st.sampled_from(
    ["4111 1111 1111 1111", "a@b.org", "+1 415 555 2671", "8.8.8.8", "::", "(", ")", "-", " ", ".", "1", "é", "中"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)  # phonenumbers reads its tables when first used
@given(st.text(max_size=60) | st.lists(PIECES, max_size=12).map("".join))
def test_what_is_found_lies_apart_and_the_rest_stays(text: str) -> None:
    step = Redact()
    found = step.find(text)
    end = 0
    expected = []
    for kind, start, behind in found:
        assert end <= start < behind <= len(text)
        expected += [text[end:start], PLACEHOLDERS[kind]]
        end = behind
    result = step(Record(text, "a:1"))
    assert result.text == "".join(expected) + text[end:]


@pytest.mark.parametrize(
    ("sound", "known"),
    [
        (is_card, ["4012888888881881", "5105105105105100", "378282246310005", "30569309025904"]),
        (is_card, ["6011000990139424", "3566002020360505", "2223003122003222"]),
        (is_iban, ["GB29NWBK60161331926819", "NO9386011117947", "MT84MALT011000012345MTLCAST001S"]),
        (is_resident_id, ["11010519491231002X", "440524188001010014"]),
        (is_dni, ["12345678Z", "X1234567L"]),
        (is_fiscal_code, ["RSSMRA85T10A562S"]),
    ],
)
def test_published_numbers_and_every_slip_of_one_digit(sound: Any, known: list[str]) -> None:
    for number in known:
        assert sound(number), number
        for place, digit in enumerate(number):
            if digit.isdigit():
                slips = [str((int(digit) + step) % 10) for step in range(1, 10)]
                assert not any(sound(number[:place] + slip + number[place + 1 :]) for slip in slips)


def test_parts_that_were_never_given_out() -> None:
    assert all(map(is_ssn, ("219099999", "899999999", "001010001")))
    assert not any(map(is_ssn, ("000123456", "666123456", "900123456", "123004567", "123450000")))
    assert all(map(is_nino, ("AB123456C", "JT551092A")))
    assert not any(map(is_nino, ("DA123456C", "AO123456C", "TN123456C", "AB123456E")))
    assert not is_resident_id("440524189902300012")  # no 30 February
    assert not is_card("5555555555555555")
    assert not luhn("4111111111111112")


def test_worked_examples() -> None:
    found = doctest.testmod(identifiers)
    assert found.attempted == 8  # one a checksum
    assert not found.failed


_PARTS = """RSSMRA85T10A562S|RSS MRA 85T10 A562S|rssmra85t10a562s|RSSMRAURTMLARSNS| |  |A562S|85T10|LMRTL RSTLM
x|7|.|é|好|(+49 30 1234567|+1|00|0049 (89) 1234-5678|(|+|-|2006-2008|213-484-0487|(+|1.2.3.4|12345678Z
DE89 3704 0044 0532 0130 00|4111 1111 1111 1111|219-09-9999"""
_PARTS_OF_TEXT = st.sampled_from(re.split(r"[|\n]", _PARTS))


@settings(max_examples=300)
@given(st.lists(_PARTS_OF_TEXT, max_size=12).map("".join) | st.text("LMRT05 aA", max_size=40))
def test_what_is_sought_first_hides_nothing(text: str) -> None:
    """Every form, sought in the whole text, is found where what it cannot do without was found first."""
    windows = [window.span() for window in personal._phone_windows(text)]
    assert windows == [window.span() for window in personal._PHONE_WINDOW.finditer(text)]
    for needed, form, sound, _ in personal._NATIONAL_FORMS:
        found = [match for match in form.finditer(text) if sound(re.sub("[ .-]", "", match[0]))]
        assert needed(text) or not found
    for needed, form in (
        (personal._IBAN_DIGITS, personal._IBAN_HEAD),
        (personal._THIRTEEN_DIGITS, personal._DIGIT_RUN),
        (personal._DOTTED_DIGITS, personal._IPV4),
        (personal._NINE_DIGITS, personal._LOOSE_SSN),
    ):
        assert needed.search(text) or not form.search(text)


def test_fiscal_codes_are_sought_by_their_end() -> None:
    for code in ("RSSMRA85T10A562S", "rss mra 85t10 a562s", "RSSMRAURTMLARSNS"):
        assert personal._may_hold_fiscal_code(code)
        assert personal._may_hold_fiscal_code(f"Codice {code}, as printed")
    for text in ("", "RSSMRA85T10A562", "RSSMRA85F10A562S", "the seventh of May at noon: 12345"):
        assert not personal._may_hold_fiscal_code(text)


def masked(text: str, **settings: Any) -> str:
    step: Any = PrivacySpec(**settings).build()
    result: str = step(Record(text, "a:1")).text
    return result


@pytest.mark.parametrize(
    "number",
    ["13812345678", "07911123456", "0612345678", "015112345678", "+14155552671", "+447911123456"],
)
def test_numbers_without_separators(number: str) -> None:
    assert masked(f"Ask Ana, {number}, or write.") == "Ask Ana, <PHONE>, or write."
    assert masked(f"tel {number}") == "tel <PHONE>"


@pytest.mark.parametrize(
    "text",
    [
        "Decimal('-86087.7578')", "Decimal('1557.96930'), Decimal('-86087.7578'))", "x = +35236450.6",
        "order 13812345678", "id=13812345678", "seed 0612345678", "13812345678901", "0.13812345678",
        "1700000000 is a time, 1609459200 another", "0x13812345678", "00000000000", "http://a.b/13812345678",
        "110854824     0 160133733     0     0", "1\t4155552671\t3", "4155552671", "the 10-digit 9876543210",
    ],
)  # fmt: skip
def test_numbers_that_are_no_telephones(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        'to the HTML5 specs sections "8.2.4.44" Bogus\n  # comment state" and "8.2.4.45" Markup',
        "versions:\n\n    1\n    2.7.2.2\n    1.3.a4\n    3.2.pl0\n    3.1.1.6\n    2g6\n",
        "see 8.2.4.44, 8.2.4 and 9.1",
        "levels such as 7.1.4.34",
    ],
)
def test_numbering_is_no_address(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("text", ["{} answers", "from {} on", "dns: {}, 1.1", "a: {}; b"])
def test_small_addresses_are_addresses(text: str) -> None:
    for address in ("8.8.8.8", "1.1.1.1", "93.184.215.14"):
        assert masked(text.format(address)) == text.format("<IP>")


def test_addresses_reserved_for_documentation_are_masked_where_asked() -> None:
    text = "192.0.2.7 198.51.100.1 203.0.113.255 2001:db8::1 10.1.2.3 127.0.0.1 ::1 224.0.0.1"
    assert masked(text) == text
    assert masked(text, private_ips=True) == " ".join(["<IP>"] * 8)
    assert masked("0.0.0.0", private_ips=True) == "0.0.0.0"


def test_a_page_of_digits_is_passed_over_quickly() -> None:
    began = time.process_time()
    for piece in ("1", "1 ", "1.2.", "1-", "(1", "12 345 "):
        masked(piece * (50_000 // len(piece)))
    assert time.process_time() - began < 20  # a hundred seconds and more before
