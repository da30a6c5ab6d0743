"""Where personal data stands in a text: addresses and numbers, told from their look-alikes."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from glassbox.data.curation.identifiers import (
    IBAN_LENGTHS,
    is_card,
    is_dni,
    is_fiscal_code,
    is_iban,
    is_nino,
    is_resident_id,
    is_ssn,
)


class Found(NamedTuple):
    """A stretch text[start:end] of one kind."""

    kind: str
    start: int
    end: int


# what precedes a number that is an order's, a book's, a part's, and so no person's
_OTHER_NUMBER = re.compile(
    r"(?:\b(?:order|invoice|isbn|issn|sku|part|model|serial|ticket|tracking|case|batch|lot|item|"
    r"catalog(?:ue)?|patent|doi|asin|upc|ean|gtin|oclc|pmid|imei|build|version|commit|product|parcel|"
    r"shipment|reservation|booking|confirmation|rma|po|ref|reference|transaction|docket|barcode|"
    r"id|hash|seed|article|permit|policy|zip|postcode|plz)\b|订单|运单|单号|编号|货号|序列号)"
    r"[\s:#.=-]*(?:(?:no|nr|num|number|id|code)\b|号码?)?[\s:#.=-]*(?:(?:is|was)\b|是|为)?[\s:#.=-]*$",
    re.IGNORECASE,
)
_PHONE_WORD = re.compile(
    r"(?:\b(?:tel|telephone|phone|phones|call|calls|fax|mobile|cell|whatsapp|text|sms|ring|dial|hotline|"
    r"tél|téléphone|teléfono|telefono|telefon|handy|móvil|cellulare|portable|appelez|llame|chiama)\b"
    r"|tel:|电话|手机|致电|拨打|联系|热线)\D{0,24}$",
    re.IGNORECASE,
)
_SSN_WORD = re.compile(r"\b(?:ssn|ss#|social security|soc\. sec)\D{0,24}$", re.IGNORECASE)
_VERSION = re.compile(
    r"(?:\b(?:version|versions|release|ver|v|build|firmware|driver|section|sec|chapter|clause|update|"
    r"upgraded?|kernel|patch|oid|rev|revision|software|table|figure|rule|paragraph)\b|§|版本)"
    r"[\s.:=]*(?:(?:is|to|from|no|number)\b)?[\s.:=(]*$",
    re.IGNORECASE,
)
_LOOK_BACK = 40
# what is about machines' addresses, and what is about versions and sections, some words away
_ADDRESS_WORD = re.compile(
    r"\b(?:ip|ips|ipv4|address(?:es)?|addr|hosts?|servers?|dns|ping|gateway|proxy|router|client|peer|"
    r"visitors?|login|logged|connect\w*|subnet|netmask|port|from|via)\b|地址|服务器",
    re.IGNORECASE,
)
_NUMBERING_WORD = re.compile(
    r"\b(?:versions?|releases?|levels?|sections?|chapters?|clauses?|specs?|specification|paragraphs?|"
    r"figures?|tables?|rules?|§§?|rfc|v\.?r\.?m\.?f|appendix|annex)\b|版本|章|节",
    re.IGNORECASE,
)
_OTHER_NUMBERING = re.compile(
    r"(?<![\d.])\d{1,2}\.\d{1,2}(?:\.\d{1,2})?(?:[a-z]\w{0,3})?(?![\d.]*\d)(?!\.\d)"
)
_NEAR = 160


def _after(cue: re.Pattern[str], text: str, start: int) -> bool:
    return cue.search(text[max(0, start - _LOOK_BACK) : start]) is not None


# word characters of alphabets: Chinese and Japanese are written without a space before an address
_W = r"[^\W\u2e80-\uffff]"
_EMAIL = re.compile(
    rf"(?<![.%+-])(?<!{_W}){_W}(?:{_W}|[.%+'&-]){{0,63}}@(?:[^\W_\u2e80-\uffff](?:(?:{_W}|-){{0,61}}"
    rf"[^\W_\u2e80-\uffff])?\.)+([^\W\d_\u2e80-\uffff]{{2,24}}|xn--[a-z0-9-]+)(?!{_W}|-|\.{_W})"
)
_HIDDEN_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]+\s?[\[({]\s?(?:at|@)\s?[\])}]\s?[\w-]+"
    r"(?:\s?(?:[\[({]\s?(?:dot|\.)\s?[\])}]|\.)\s?[\w-]+)*"
    r"\s?(?:[\[({]\s?(?:dot|\.)\s?[\])}]|\.)\s?([A-Za-z]{2,6})(?![\w-])",
    re.IGNORECASE,
)
_TOP_LEVELS = (
    "com org net edu gov mil int info biz name pro app dev xyz online site tech store shop "
    "blog club cloud email live world life agency academy company consulting design digital "
    "expert global group health media network news social solutions studio team today works "
    "zone museum travel jobs mobi coop aero asia cat post tel berlin london paris tokyo wiki "
    "law legal church school education foundation clinic care dental hotel restaurant bank "
    "finance work tools systems services support science space art music photography press "
    "review рф онлайн"
)
_TOP_LEVEL = frozenset(_TOP_LEVELS.split())
_NO_COUNTRY = ("js", "ts", "go", "rb", "hs", "db", "vb", "cp")


def emails(text: str) -> Iterator[Found]:
    """Addresses of mail, hidden ones too: jo [at] x [dot] org. Not those of git, files and logins."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if _is_domain_end(match[1]) and not _is_login(text, match):
                yield Found("email", *match.span())
    if re.search(r"[\[({]\s?(?:at|@)\s?[\])}]", text, re.IGNORECASE):
        for match in _HIDDEN_EMAIL.finditer(text):
            if _is_domain_end(match[1]):
                yield Found("email", *match.span())


def _is_domain_end(end: str) -> bool:
    lower = end.lower()
    if end not in (lower, end.upper(), end.capitalize()):
        return False  # q@k.mT multiplies matrices
    country = len(lower) == 2 and lower not in _NO_COUNTRY
    return country or lower in _TOP_LEVEL or lower.startswith("xn--")


def _is_login(text: str, match: re.Match[str]) -> bool:
    """git@host:path, ssh://user@host, https://user:word@host."""
    if re.match(r":[A-Za-z~/]", text[match.end() : match.end() + 2]):
        return True
    begin = max(text.rfind(space, 0, match.start()) for space in " \n\t\"'<(")
    return re.fullmatch(r"[a-z+]+://[^/?#]*", text[begin + 1 : match.start()]) is not None


# What a form cannot do without is sought first: an expression that begins with \d skips from digit to digit,
# several times as fast as one that looks around it, begins in two ways, or begins with letters.
_IBAN_DIGITS = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)")
_IBAN_HEAD = re.compile(r"(?<![^\W_\u2e80-\uffff])(?:[A-Z]{2}|[a-z]{2})\d\d(?=[ -]?[A-Za-z0-9]{4})")


def ibans(text: str) -> Iterator[Found]:
    """Bank accounts by their country's length and their checksum, in groups or not."""
    for match in _IBAN_HEAD.finditer(text) if _IBAN_DIGITS.search(text) else ():
        left = IBAN_LENGTHS.get(match[0][:2].upper(), 0) - 4
        end = match.end()
        while left > 0 and end < len(text):
            end += text[end] in " -\xa0"
            if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
                break
            end, left = end + 1, left - 1
        after = text[end : end + 1]
        if left or (after.isascii() and after.isalnum()):
            continue
        if is_iban(re.sub(r"[ \xa0-]", "", text[match.start() : end])):
            yield Found("iban", match.start(), end)


_THIRTEEN_DIGITS = re.compile(r"\d(?:[ -]?\d){12}")
_DIGIT_RUN = re.compile(r"(?<![A-Za-z0-9_./-])\d(?:[ -]?\d){12,24}(?![A-Za-z0-9_]|[.-]\d)")


def cards(text: str) -> Iterator[Found]:
    """Payment cards by issuer, length and Luhn's rule; an expiry date or a code behind is not theirs."""
    for run in _DIGIT_RUN.finditer(text) if _THIRTEEN_DIGITS.search(text) else ():
        groups = [match.span() for match in re.finditer(r"\d+", run[0])]
        pairs = itertools.combinations(range(len(groups) + 1), 2)
        for first, behind in sorted(pairs, key=lambda pair: pair[0] - pair[1]):
            part = groups[first:behind]
            start, end = run.start() + part[0][0], run.start() + part[-1][1]
            digits = re.sub(r"\D", "", text[start:end])
            if len(digits) < 13 or not is_card(digits) or not _card_groups(part):
                continue
            if len(part) > 1 or not _after(_OTHER_NUMBER, text, start):
                yield Found("card", start, end)
                break


def _card_groups(part: Sequence[tuple[int, int]]) -> bool:
    sizes = [end - start for start, end in part]
    return (
        sizes in ([4, 6, 5], [4, 6, 4]) or all(size == 4 for size in sizes[:-1]) or len(part) == 1
    )


_DIGIT_OR_LETTER = bytes(c in b"0123456789LMNOPQRSTUVlmnopqrstuv" for c in range(256))
_LETTER = bytes(65 <= c & 223 <= 90 for c in range(256))
_MONTH = bytes(c in b"ABCDEHLMPRSTabcdehlmprst" for c in range(256))
_SPACE = bytes(c == 32 for c in range(256))


def _may_hold_fiscal_code(text: str) -> bool:
    """Whether the last ten characters of one stand somewhere: year, month, day, place, check.

    Letters may stand for all digits, so that there is nothing that an expression could skip to.
    """
    plain = text.encode("ascii", "replace")
    digits, letters, months, spaces = (
        np.frombuffer(plain.translate(table) + b"\0" * 11, bool)
        for table in (_DIGIT_OR_LETTER, _LETTER, _MONTH, _SPACE)
    )
    two = digits[:-1] & digits[1:]
    place = letters[:-5] & two[1:-3] & digits[3:-2] & letters[4:-1] & ~letters[5:]
    day = two[:-3] & months[2:-2] & two[3:]
    behind = place[5:] | False
    behind[:-1] |= spaces[5:-6] & place[6:]
    return bool((day[: len(behind)] & behind).any())


_NATIONAL = (
    # (what it cannot do without, form, whether it is sound, whether "order no." before it speaks against it)
    (r"\d-\d{2}-\d{4}", r"\d{3}-\d{2}-\d{4}", is_ssn, True),
    (r"\d{17}", r"\d{17}[\dXx]", is_resident_id, False),
    (r"\d ?[A-D]", r"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", is_nino, True),
    (r"\d[- ]?[A-Z]", r"(?:\d{8}|\d{2}\.\d{3}\.\d{3}|[XYZ]-?\d{7})[- ]?[A-Z]", is_dni, True),
    (
        None,
        r"[A-Za-z]{3} ?[A-Za-z]{3} ?[0-9L-Vl-v]{2}[A-Za-z][0-9L-Vl-v]{2} ?[A-Za-z][0-9L-Vl-v]{3}[A-Za-z]",
        is_fiscal_code,
        False,
    ),
)
_EDGE_BEFORE, _EDGE_BEHIND = r"(?<![A-Za-z0-9_.-])", r"(?![A-Za-z0-9_]|[.-][A-Za-z0-9])"
_NATIONAL_FORMS = tuple(
    (
        _may_hold_fiscal_code if needed is None else re.compile(needed).search,
        re.compile(_EDGE_BEFORE + form + _EDGE_BEHIND),
        sound,
        doubted,
    )
    for needed, form, sound, doubted in _NATIONAL
)
_FORMS_OF_LETTERS = tuple(form for form in _NATIONAL_FORMS if form[2] is is_fiscal_code)
_SIX_DIGITS = re.compile(r"\d(?:[ .-]?\d){5}")  # all other forms hold them
_NINE_DIGITS = re.compile(r"\d{3} ?\d{2} ?\d{4}")
_LOOSE_SSN = re.compile(_EDGE_BEFORE + _NINE_DIGITS.pattern + _EDGE_BEHIND)


def national_ids(text: str) -> Iterator[Found]:
    """Numbers of persons: US, China, UK, Spain, Italy. A US number without hyphens needs its name."""
    many = _SIX_DIGITS.search(text) is not None
    for needed, form, sound, doubted in _NATIONAL_FORMS if many else _FORMS_OF_LETTERS:
        for match in form.finditer(text) if needed(text) else ():
            bare = re.sub(r"[ .-]", "", match[0])
            if sound(bare) and not (doubted and _after(_OTHER_NUMBER, text, match.start())):
                yield Found("national_id", *match.span())
    for match in _LOOSE_SSN.finditer(text) if many and _NINE_DIGITS.search(text) else ():
        if is_ssn(match[0].replace(" ", "")) and _after(_SSN_WORD, text, match.start()):
            yield Found("national_id", *match.span())


_DOTTED_DIGITS = re.compile(r"\d\.\d{1,3}\.\d")
_IPV4 = re.compile(rf"(?<![.-])(?<!{_W})(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!{_W}|\.{_W}|-{_W})")
_IPV6 = re.compile(
    rf"(?<![:.])(?<!{_W})(?=[0-9A-Fa-f]{{0,4}}:)[0-9A-Fa-f:]{{3,39}}(?:(?:\d{{1,3}}\.){{3}}\d{{1,3}})?(?!{_W}|:)"
)
_UNICAST = ipaddress.ip_network("2000::/3")


def ip_addresses(text: str, *, private: bool) -> Iterator[Found]:
    """Addresses of machines; versions of programs and numbers of sections are none.

    private: also those that lead to no one: 127.0.0.1, 192.168.0.1, examples of documentation.
    """
    for match in _IPV4.finditer(text) if _DOTTED_DIGITS.search(text) else ():
        before = text[max(0, match.start() - 2) : match.start()]
        if re.fullmatch(r"\w/", before) or _after(_VERSION, text, match.start()):
            continue  # Chrome/120.0.0.0, version 1.2.3.4
        if _is_numbering(text, match):
            continue
        if _is_address(match[0], private):
            yield Found("ip", *match.span())
    if "::" in text or text.count(":") > 6:
        for match in _IPV6.finditer(text):
            if _is_address(match[0], private):
                yield Found("ip", *match.span())


def _is_numbering(text: str, match: re.Match[str]) -> bool:
    """Whether four small numbers are a section's or a version's: 8.2.4.44 beside "sections" or 2.7.2.

    Only where each number has two digits at most, and no word for an address stands before it.
    """
    if any(len(part) > 2 for part in match[0].split(".")):
        return False
    before = text[max(0, match.start() - _NEAR) : match.start()]
    if _ADDRESS_WORD.search(before[-60:]):
        return False
    if _NUMBERING_WORD.search(before):
        return True
    # a list of versions: another number of two or three parts, alone on its line or in its word
    behind = text[match.end() : match.end() + _NEAR]
    others = [*_OTHER_NUMBERING.finditer(before), *_OTHER_NUMBERING.finditer(behind)]
    return len(others) >= 2


def _is_address(word: str, private: bool) -> bool:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        return False
    if private:
        return not address.is_unspecified
    return (
        address.is_global
        and not address.is_multicast
        and (address.version == 4 or address in _UNICAST)
    )


_PHONE_DIGITS = re.compile(r"\d(?:[ \xa0()./‐-–-]{0,3}\d){6,17}")
_PHONE_WINDOW = re.compile(r"(?:\+|\(\+?|00)?" + _PHONE_DIGITS.pattern)
# an ISBN of ten digits, a number with a fraction, what is written like a US social security number
_NO_PHONE = re.compile(
    r"\d{1,5}-\d{1,7}-\d{1,6}-[\dXx]|\d{1,3}\.\d{5,}|\d{4,}\.\d+|\d{3}-\d\d-\d{4}"
)
_GROUPS = re.compile(r"\d+")
_MOST_GROUPS = 7
"""Groups of digits that a number is written in at most: +33 6 12 34 56 78 has six."""


def phones(text: str, regions: Sequence[str]) -> Iterator[Found]:
    """Numbers of telephones: international ones, and those that a region would write.

    A plain run of digits needs a word like "call" before it, or has to be a mobile number of a region
    in full, with the 0 of such numbers or China's 1 at its beginning.
    """
    import phonenumbers

    for window in _phone_windows(text):
        start = window.start()
        named = _after(_PHONE_WORD, text, start)
        if len(_GROUPS.findall(window[0])) > _MOST_GROUPS and "+" not in window[0]:
            continue  # a table of numbers
        if not named and window[0].isdigit():
            if _is_mobile(phonenumbers, text, window, regions):
                yield Found("phone", *window.span())
            continue
        if not named and (_after(_OTHER_NUMBER, text, start) or _in_address(text, start)):
            continue
        if _NO_PHONE.fullmatch(window[0]):
            continue
        # with what stands around it, by which the library tells numbers from parts of other things
        left = max(0, start - 8)
        around = text[left : window.end() + 16]
        found = _first_phone(phonenumbers, around, regions)
        if found is None:
            continue
        number = found.raw_string.strip()
        if number.count("(") > number.count(")"):
            number = number.removeprefix("(")
        begin = left + around.index(number, found.start)
        bare = number.isdigit()
        inside = re.search(r"\d[.,]$", text[max(0, begin - 2) : begin]) is not None
        behind = text[begin + len(number) :]
        fraction = re.match(r"\.\d", behind) is not None and "." not in number
        if (bare and not named) or inside or fraction or _NO_PHONE.fullmatch(number):
            continue
        if not named and number[0] != "+" and _in_table(text[:begin], behind):
            continue
        yield Found("phone", begin, begin + len(number))


def _is_mobile(phonenumbers: Any, text: str, window: re.Match[str], regions: Sequence[str]) -> bool:
    """Whether a plain run of 10 to 12 digits is a mobile number as a region writes it in full."""
    digits, start, end = window[0], window.start(), window.end()
    if not 10 <= len(digits) <= 12 or not (digits[0] == "0" or re.match(r"1[3-9]", digits)):
        return False
    around = text[max(0, start - 1) : start], text[end : end + 2]
    if re.match(r"[A-Za-z0-9_.,#$€£¥/=-]", around[0]) or re.match(
        r"[A-Za-z0-9_/%-]|[.,]\d", around[1]
    ):
        return False
    if _after(_OTHER_NUMBER, text, start) or _in_address(text, start):
        return False
    if len(set(digits)) < 4 or _in_table(text[:start], text[end:]):
        return False
    mobile = phonenumbers.PhoneNumberType.MOBILE
    for region in regions:
        try:
            number = phonenumbers.parse(digits, region)
        except phonenumbers.NumberParseException:
            continue
        full = digits[0] == "0" or region == "CN"
        valid = full and phonenumbers.is_valid_number(number)
        if valid and phonenumbers.number_type(number) == mobile:
            return True
    return False


def _in_table(before: str, behind: str) -> bool:
    """Whether a number stands in a column: other digits on its line, two spaces or a tab away."""
    return (
        re.search(r"\d(?: {2,}|\t)[ \t]*$", before[-_LOOK_BACK:]) is not None
        or re.match(r"(?: {2,}|\t)[ \t]*\d", behind[:_LOOK_BACK]) is not None
    )


def _phone_windows(text: str) -> Iterator[re.Match[str]]:
    """What `_PHONE_WINDOW.finditer` finds, sought by the digits in it."""
    end = 0
    while digits := _PHONE_DIGITS.search(text, end):
        start = digits.start()
        for sign in ("(+", "+", "("):
            if text.endswith(sign, end, start):
                start -= len(sign)
                break
        window = _PHONE_WINDOW.match(text, start)
        assert window is not None
        yield window
        end = window.end()


def _first_phone(phonenumbers: Any, around: str, regions: Sequence[str]) -> Any:
    leniency = phonenumbers.Leniency.STRICT_GROUPING
    for region in (regions or (None,)) if "+" not in around else (None, *regions):
        for match in phonenumbers.PhoneNumberMatcher(around, region, leniency=leniency):
            return match
    return None


def _in_address(text: str, start: int) -> bool:
    """Whether a place is inside a web address or a path."""
    begin = max(text.rfind(space, 0, start) for space in " \n\t\"'<(")
    return re.match(r"[a-z+]+://|www\.|\S*/", text[begin + 1 : start]) is not None
