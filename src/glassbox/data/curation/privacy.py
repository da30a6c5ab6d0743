"""Redaction of personal data: each address or number is replaced by the name of its kind."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation import personal
from glassbox.data.curation.personal import Found
from glassbox.data.curation.step import Record, RecordStep, StepSpec

Kind = Literal["email", "iban", "card", "national_id", "ip", "phone"]
KINDS: tuple[Kind, ...] = ("email", "iban", "card", "national_id", "ip", "phone")
PLACEHOLDERS = {
    "email": "<EMAIL>",
    "iban": "<IBAN>",
    "card": "<CARD>",
    "national_id": "<ID>",
    "ip": "<IP>",
    "phone": "<PHONE>",
}


class PrivacySpec(StepSpec):
    """Replace personal data by placeholders: <EMAIL>, <PHONE>, <CARD>, <IP>, <IBAN>, <ID>.

    The number of each is stored in the metadata, under `redacted`.
    """

    kind: Literal["privacy"] = "privacy"
    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1)
    phone_regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR", "ES", "IT", "CN"),
        description="countries whose national phone formats are recognized; international ones always"
        " are",
    )
    private_ips: bool = Field(
        False,
        description="also addresses that lead to nobody: of private networks (192.168.0.1), of the "
        "machine itself (127.0.0.1), multicast (224.0.0.1), and those reserved for documentation "
        "(192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32)",
    )

    def build(self) -> RecordStep:
        """The step. Raises UserError where the extra is missing, and for an unknown country."""
        if "phone" in self.kinds:
            try:
                import phonenumbers
            except ImportError:
                raise UserError(
                    "step 'privacy' needs the package phonenumbers for kind 'phone'; "
                    'pip install "glassbox-lm[privacy]"'
                ) from None
            for region in self.phone_regions:
                if region not in phonenumbers.SUPPORTED_REGIONS:
                    raise UserError(
                        f"step 'privacy': phone_regions has '{region}', which is no country's code; "
                        "give two capital letters, such as US"
                    )
        return Redact(self)


@dataclass(frozen=True)
class Redact:
    """The step of a PrivacySpec.

    Tested against: a labelled set of hard cases, look-alikes included.
    """

    spec: PrivacySpec = field(default_factory=PrivacySpec)

    def _all(self, text: str) -> Iterator[Found]:
        spec, wanted = self.spec, self.spec.kinds
        if "email" in wanted:
            yield from personal.emails(text)
        if not any(map(str.isdigit, text)) and "::" not in text:
            return
        # what is surest comes first: a phone number may be part of an IBAN, never the reverse
        if "iban" in wanted:
            yield from personal.ibans(text)
        if "card" in wanted:
            yield from personal.cards(text)
        if "national_id" in wanted:
            yield from personal.national_ids(text)
        if "ip" in wanted:
            yield from personal.ip_addresses(text, private=spec.private_ips)
        if "phone" in wanted:
            yield from personal.phones(text, spec.phone_regions)

    def find(self, text: str) -> list[Found]:
        """All personal data of a text in its order; where two overlap, the surer kind."""
        taken: list[Found] = []
        for found in self._all(text):
            place = bisect_left(taken, found.start, key=attrgetter("start"))
            before, behind = taken[place - 1 : place], taken[place : place + 1]
            if all(other.end <= found.start for other in before) and all(
                found.end <= other.start for other in behind
            ):
                taken.insert(place, found)
        return taken

    def __call__(self, record: Record) -> Record:
        """The record with placeholders, and their counts under `redacted`."""
        found = self.find(record.text)
        if not found:
            return record
        parts, end = [], 0
        for kind, start, behind in found:
            parts += [record.text[end:start], PLACEHOLDERS[kind]]
            end = behind
        counts = dict(sorted(Counter(each.kind for each in found).items()))
        return replace(
            record,
            text="".join(parts) + record.text[end:],
            metadata={**record.metadata, "redacted": counts},
        )
