"""Numbers that name a person or an account, told from others by their checksums and rules."""

from __future__ import annotations

import datetime
import re

IBAN_LENGTHS = {
    code: int(length)
    for code, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
        "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
        "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 "
        "NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 "
        "TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}
"""Length of an IBAN by country. Source: SWIFT's IBAN registry."""

_CARD_RULES = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6011|65|64[4-9]"), (16, 19)),  # Discover
    (re.compile(r"352[89]|35[3-8]"), (16,)),  # JCB
    (re.compile(r"36|38|39|30[0-5]"), (14,)),  # Diners Club
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"50|5[6-8]|63|67"), (16, 18, 19)),  # Maestro
)
_CHECK_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_ODD_VALUES = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)  # fmt: skip
_FISCAL = re.compile(
    r"[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]"
)
_OMOCODIA = str.maketrans("LMNPQRSTUV", "0123456789")


def luhn(digits: str) -> bool:
    """Whether digits keep Luhn's rule: every second from the right doubled, digits summed, sum % 10 = 0.

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """Whether digits are a payment card's: an issuer's first digits and length, and Luhn's rule.

    >>> is_card("4111111111111111"), is_card("4111111111111112"), is_card("0000000000000000")
    (True, False, False)
    """
    issued = any(len(digits) in sizes and rule.match(digits) for rule, sizes in _CARD_RULES)
    return issued and len(set(digits)) > 1 and luhn(digits)


def is_iban(text: str) -> bool:
    """Whether letters and digits are an IBAN: a country's length, and as a number % 97 = 1.

    Source: ISO 13616 and 7064.

    >>> is_iban("GB82WEST12345698765432"), is_iban("GB82WEST12345698765431")
    (True, False)
    """
    text = text.upper()
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text.isascii() or not text.isalnum():
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def is_ssn(digits: str) -> bool:
    """Whether nine digits can be a US social security number: no part that was never given out.

    >>> is_ssn("219099999"), is_ssn("666123456"), is_ssn("123004567")
    (True, False, False)
    """
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    never = ("078051120", "219099998")  # printed on sample cards
    return (
        area not in ("000", "666")
        and area < "900"
        and group != "00"
        and serial != "0000"
        and digits not in never
    )


def is_resident_id(text: str) -> bool:
    """Whether 18 characters are a Chinese resident's: province, day of birth, ISO 7064 MOD 11-2.

    Source: GB 11643-1999.

    >>> is_resident_id("11010519491231002X"), is_resident_id("110105194912310021")
    (True, False)
    """
    provinces = ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 83))
    if not any(low <= int(text[:2]) <= high for low, high in provinces):
        return False
    try:
        born = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    if not 1880 <= born.year <= 2100:
        return False
    check = (12 - sum(int(c) << (17 - place) for place, c in enumerate(text[:17])) % 11) % 11
    return text[17].upper() == "0123456789X"[check]


def is_nino(text: str) -> bool:
    """Whether two letters, six digits and a letter are a UK national insurance number's.

    Source: HMRC, National Insurance Manual NIM39110.

    >>> is_nino("AB123456C"), is_nino("QQ123456C"), is_nino("GB123456A")
    (True, False, False)
    """
    first, second = text[0].upper(), text[1].upper()
    return (
        first not in "DFIQUV"
        and second not in "DFIOQUV"
        and first + second not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")
        and text[-1].upper() in "ABCD"
    )


def is_dni(text: str) -> bool:
    """Whether eight digits (NIE: X, Y or Z and seven) carry their letter: number % 23.

    >>> is_dni("12345678Z"), is_dni("X1234567L"), is_dni("12345678A")
    (True, True, False)
    """
    text = text.upper()
    number = int(text[:-1].translate(str.maketrans("XYZ", "012")))
    return _CHECK_LETTERS[number % 23] == text[-1]


def is_fiscal_code(text: str) -> bool:
    """Whether 16 characters are an Italian's: their form, a day of birth and the check character.

    Day + 40 for women; letters may stand for digits where two people would have the same code.
    Source: decree of the Italian ministry of finance, 23 December 1976.

    >>> is_fiscal_code("RSSMRA85T10A562S"), is_fiscal_code("RSSMRA85T10A562T")
    (True, False)
    """
    text = text.upper()
    if not _FISCAL.fullmatch(text):
        return False
    day = int(text[9:11].translate(_OMOCODIA)) % 40
    total = 0
    for place, character in enumerate(text[:15]):
        value = int(character) if character.isdigit() else ord(character) - ord("A")
        total += value if place % 2 else _ODD_VALUES[value]
    return 1 <= day <= 31 and chr(ord("A") + total % 26) == text[15]
