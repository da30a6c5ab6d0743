"""The story world: a seeded generator of stories whose exact entropy is known.

`generate` and `draw` yield documents with their exact log-probability, chats, questions,
preferences and word problems; `write_corpus` writes them all; `document_program` with `score`
gives the exact probability of any text.
"""

from glassbox.data.storyworld.arithmetic import (
    check_steps,
    compute,
    extract_answer,
    run_tool,
)
from glassbox.data.storyworld.choice import (
    Chooser,
    Sampler,
    Score,
    Weights,
    derivations,
    score,
)
from glassbox.data.storyworld.config import CorpusSizes, StoryWorldConfig
from glassbox.data.storyworld.corpus import corpus_plan, read_manifest, write_corpus
from glassbox.data.storyworld.generate import KINDS, SPLITS, bucket, draw, generate, size_bytes
from glassbox.data.storyworld.language import LANGUAGES, load_language
from glassbox.data.storyworld.next_token import NextTokenLaw, next_token_law
from glassbox.data.storyworld.programs import build_world, check_story, document_program
from glassbox.data.storyworld.questions import check_answer, normalize_answer
from glassbox.data.storyworld.records import (
    ArithmeticProblem,
    Chat,
    Document,
    Preference,
    Question,
    question_from_json,
    read_jsonl,
    write_jsonl,
)

__all__ = [
    "KINDS",
    "LANGUAGES",
    "SPLITS",
    "ArithmeticProblem",
    "Chat",
    "Chooser",
    "CorpusSizes",
    "Document",
    "NextTokenLaw",
    "Preference",
    "Question",
    "Sampler",
    "Score",
    "StoryWorldConfig",
    "Weights",
    "bucket",
    "build_world",
    "check_answer",
    "check_steps",
    "check_story",
    "compute",
    "corpus_plan",
    "derivations",
    "document_program",
    "draw",
    "extract_answer",
    "generate",
    "load_language",
    "next_token_law",
    "normalize_answer",
    "question_from_json",
    "read_jsonl",
    "read_manifest",
    "run_tool",
    "score",
    "size_bytes",
    "write_corpus",
    "write_jsonl",
]
