"""The union of all ways to write a matrix in few bits, and their short names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, ValidationError

from glassbox.compression.ggml import GgmlCodes
from glassbox.compression.integers import IntegerCodes
from glassbox.compression.narrow_floats import Float8Codes, Mxfp4Codes
from glassbox.compression.nf4 import Nf4Codes
from glassbox.core.errors import UserError
from glassbox.layers.weight_codes import WeightCodes

AnyCodes = Annotated[
    IntegerCodes | GgmlCodes | Nf4Codes | Float8Codes | Mxfp4Codes, Field(discriminator="kind")
]

NAMES: dict[str, WeightCodes] = {
    "int8": IntegerCodes(bits=8),
    "int8-dynamic": IntegerCodes(bits=8, activations="int8"),
    "int4": IntegerCodes(bits=4, group=64, symmetric=False),
    "nf4": Nf4Codes(),
    "fp8": Float8Codes(),
    "mxfp4": Mxfp4Codes(),
    "q8_0": GgmlCodes(type="Q8_0"),
    "q4_0": GgmlCodes(type="Q4_0"),
    "q4_1": GgmlCodes(type="Q4_1"),
}
"""What `--quantize` takes, before endings."""


def named_codes(name: str) -> WeightCodes:
    """A way by its short name: int8, int8-dynamic, int4, nf4, fp8 or mxfp4, and endings for its options.

    -gN: N weights share a scale; -row: a row does. -sym, -asym: without or with zero points. Raises UserError for
    others.

    >>> named_codes("int4-g32-sym")
    IntegerCodes(kind='integer', bits=4, group=32, symmetric=True, activations='float', scales='bfloat16')
    """
    base = max((known for known in NAMES if re.match(rf"{known}(-|$)", name)), key=len, default="")
    endings = [] if name == base else name.removeprefix(base).removeprefix("-").split("-")
    options: dict[str, object] = {}
    for ending in endings:
        if re.fullmatch(r"g[1-9]\d{0,5}", ending):
            options["group"] = int(ending[1:])
        elif ending == "row":
            options["group"] = None
        elif ending in ("sym", "asym"):
            options["symmetric"] = ending == "sym"
        else:
            base = ""
    if base:
        found = NAMES[base]
        try:
            return type(found).model_validate({**found.model_dump(), **options})
        except ValidationError:
            pass
    raise UserError(
        f"quantize = {name!r} is unknown; use one of {', '.join(NAMES)}, int4 and int8 with endings "
        "-g32, -g64, -g128 (weights that share a scale), -sym or -asym"
    )
