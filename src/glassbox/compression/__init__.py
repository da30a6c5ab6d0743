"""Models made smaller: quantized layers that run from their codes, and the methods that choose the codes."""

from glassbox.compression.calibration import Calibration, draw_windows
from glassbox.compression.codes import AnyCodes, named_codes
from glassbox.compression.ggml import GgmlCodes
from glassbox.compression.integers import IntegerCodes
from glassbox.compression.methods import compress, prune
from glassbox.compression.narrow_floats import Float8Codes, Mxfp4Codes
from glassbox.compression.nf4 import Nf4Codes
from glassbox.compression.swap import Plan, pack, plan_for, quantize, swap_in, weight_bytes, widen

__all__ = [
    "AnyCodes",
    "Calibration",
    "Float8Codes",
    "GgmlCodes",
    "IntegerCodes",
    "Mxfp4Codes",
    "Nf4Codes",
    "Plan",
    "compress",
    "draw_windows",
    "named_codes",
    "pack",
    "plan_for",
    "prune",
    "quantize",
    "swap_in",
    "weight_bytes",
    "widen",
]
