"""Every curation step that a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.data.curation.boilerplate import BoilerplateSpec
from glassbox.data.curation.c4 import C4QualitySpec
from glassbox.data.curation.chunking import ChunkSpec
from glassbox.data.curation.classifier import ClassifierSpec
from glassbox.data.curation.cleaning import NormalizeSpec, RepairSpec
from glassbox.data.curation.decontaminate import DecontaminateSpec
from glassbox.data.curation.exact import ExactSpec
from glassbox.data.curation.html import HtmlSpec
from glassbox.data.curation.language import LanguageSpec
from glassbox.data.curation.lines import LineDuplicatesSpec
from glassbox.data.curation.minhash import MinHashSpec
from glassbox.data.curation.perplexity import PerplexitySpec
from glassbox.data.curation.privacy import PrivacySpec
from glassbox.data.curation.python_step import PythonStepSpec
from glassbox.data.curation.quality import FinewebQualitySpec, GopherQualitySpec
from glassbox.data.curation.repetition import GopherRepetitionSpec
from glassbox.data.curation.simhash import SimHashSpec
from glassbox.data.curation.substring import SubstringSpec

StepConfig = Annotated[
    # one line a step, in the order in which a recipe would run them
    HtmlSpec
    | RepairSpec
    | NormalizeSpec
    | BoilerplateSpec
    | LanguageSpec
    | C4QualitySpec
    | GopherQualitySpec
    | GopherRepetitionSpec
    | FinewebQualitySpec
    | PerplexitySpec
    | ClassifierSpec
    | PrivacySpec
    | ChunkSpec
    | LineDuplicatesSpec
    | ExactSpec
    | MinHashSpec
    | SimHashSpec
    | SubstringSpec
    | DecontaminateSpec
    | PythonStepSpec,
    Field(discriminator="kind"),
]
"""A step of a recipe, known by its `kind`."""
