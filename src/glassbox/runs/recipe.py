"""Recipes: every run anyone is told to do, as data. `stage` says which kind of run it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from glassbox.adapters.specs import AnyAdapter
from glassbox.core.config import Spec, apply_overrides, load_recipe, parse
from glassbox.core.devices import DeviceName
from glassbox.core.errors import UserError
from glassbox.data.curation.limits import RECORD_BYTES, RECORD_SECONDS
from glassbox.data.curation.shard_files import Format
from glassbox.data.curation.sources import SourceList
from glassbox.data.curation.steps import StepConfig
from glassbox.data.infilling import FimConfig
from glassbox.data.text import Split
from glassbox.models.shapes import Shape
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.specs import OptimizerConfig
from glassbox.training.config import TrainConfig
from glassbox.tuning.distillation.objective import DistillConfig
from glassbox.tuning.grading.rubrics import AnyGrader
from glassbox.tuning.grading.rubrics import Numeric as NumericGrader
from glassbox.tuning.policy.answers import RolloutConfig
from glassbox.tuning.policy.grpo import GrpoConfig
from glassbox.tuning.policy.ppo import PpoConfig
from glassbox.tuning.policy.rloo import RlooConfig
from glassbox.tuning.preference.dpo import DpoConfig
from glassbox.tuning.preference.kto import KtoConfig
from glassbox.tuning.preference.reference_free import CpoConfig, OrpoConfig, SimpoConfig
from glassbox.tuning.preference.reward import BradleyTerryConfig, ProcessConfig

PACKAGED = Path(__file__).resolve().parents[1] / "recipes"
CHECKOUT = Path(__file__).resolve().parents[3] / "recipes"


class TokenizerConfig(Spec):
    """A tokenizer to load, or how to train one on the run's own text."""

    path: str | None = Field(None, description="folder or tokenizer.json; None: train one")
    vocab_size: int = Field(4096, gt=256)
    kind: str = Field("bpe", description="bpe, wordpiece, unigram or characters")
    pattern: str = Field("gpt4", description="gpt2, gpt4, llama3, qwen2 or a regular expression")


class TextSource(Spec):
    """One text of a mixture."""

    path: str = Field(description="a file or folder of text or JSON lines, or 'shakespeare'")
    weight: float = Field(1.0, gt=0, description="its share of the rows, over the sum of all")


class TextData(Spec):
    """Text to pre-train on."""

    path: str | None = Field(
        None, description="a file or folder of text or JSON lines, or 'shakespeare'"
    )
    sources: tuple[TextSource, ...] = Field(
        (), description="instead of path (null): texts that are mixed by weight"
    )
    split: Split = Field(
        "passages",
        description="what a document of plain text is: what stands between <|endoftext|> marks, or "
        "(passages) a passage of about 4,000 characters of a file without marks, (marks) all of such "
        "a file, (whole) a file, whatever stands in it",
    )
    heldout_path: str | None = Field(None, description="None: a share of the text is held out")
    heldout_share: float = Field(0.05, gt=0, lt=1)
    row_length: int = Field(256, gt=1, description="tokens a row, several documents packed into it")
    rows_per_step: int = Field(16, gt=0, description="rows an optimizer step, over all ranks")
    rows_per_batch: int | None = Field(None, gt=0, description="rows a forward pass; None: all")
    workers: int = Field(
        0, ge=0, exclude=True, description="threads that make batches ahead of the step; 0: none"
    )
    packing: Literal["best_fit", "greedy"] = "best_fit"
    stride: int | None = Field(
        None, gt=0, description="tokens between windows on a long document; None: row_length"
    )
    fim: FimConfig | None = Field(
        None, description="rearrange a share of the documents to learn filling in; None: none"
    )

    @model_validator(mode="after")
    def _one_place(self) -> TextData:
        if (self.path is None) == (not self.sources):
            raise ValueError(
                f"data.path = {self.path} and data.sources = {list(self.sources)}: give one of "
                "them (data.path=null leaves the path out)"
            )
        if self.stride is not None and self.stride > self.row_length:
            raise ValueError(
                f"data.stride = {self.stride} is more than data.row_length = {self.row_length}, "
                "which would leave tokens out"
            )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the text is."""
        return tuple(source.path for source in self.sources) or (self.path or "",)


class ChatData(Spec):
    """Conversations to fine-tune on."""

    path: str = Field(description="JSON or JSON lines of chats")
    heldout_path: str | None = None
    row_length: int = Field(512, gt=1)
    rows_per_step: int = Field(8, gt=0)
    rows_per_batch: int | None = Field(None, gt=0)
    workers: int = Field(
        0, ge=0, exclude=True, description="threads that make batches ahead of the step; 0: none"
    )
    packing: Literal["best_fit", "greedy"] = "best_fit"


class PreferenceData(Spec):
    """Pairs of a chosen and a rejected answer; single answers for KTO, solutions for process rewards."""

    path: str = Field(description="JSON or JSON lines of preference pairs, or of the others")
    pairs_per_step: int = Field(16, gt=0, description="or answers, or solutions")
    pairs_per_batch: int | None = Field(None, gt=0)
    max_length: int = Field(512, gt=1)


class ProblemData(Spec):
    """Problems whose answers can be checked."""

    path: str = Field(description="JSON or JSON lines of problems: prompt (or question), answer")
    instruction: str = Field(
        "", description="put behind each prompt, such as how the answer is to be written"
    )


class EvaluationConfig(Spec):
    """What is measured while training."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0: none")
    documents: int = Field(64, gt=0, description="held-out documents read each time")
    sample_every: int = Field(0, ge=0)
    prompts: tuple[str, ...] = ()
    max_tokens: int = Field(64, gt=0)
    temperature: float = Field(0.8, ge=0, description="of the samples; 0: the likeliest token")


class StageRecipe(Spec):
    """What all stages share."""

    out: str = Field(description="the run folder")
    seed: int = 0
    device: DeviceName = "auto"
    optim: OptimizerConfig = AdamWConfig()
    adapter: AnyAdapter | None = Field(
        None, description="train this alone, on a frozen base; None: the model itself"
    )
    train: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()


class PretrainRecipe(StageRecipe):
    """Next-token prediction on text, from fresh weights or from a model."""

    stage: Literal["pretrain"] = "pretrain"
    init: str | None = Field(None, description="MODEL to go on from; None: fresh weights")
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: TextData
    model: Shape


class SftRecipe(StageRecipe):
    """Supervised fine-tuning: next-token prediction on the assistant's words alone."""

    stage: Literal["sft"] = "sft"
    init: str = Field(description="MODEL to fine-tune")
    data: ChatData
    neftune_alpha: float | None = Field(
        None, gt=0, description="noise on the embeddings, often 5; None: none"
    )


class DpoRecipe(StageRecipe):
    """Direct preference optimization against the model as it was at the start."""

    stage: Literal["dpo"] = "dpo"
    init: str = Field(description="MODEL to align; it is also the reference")
    data: PreferenceData
    dpo: DpoConfig = DpoConfig()


class PreferenceRecipe(StageRecipe):
    """Alignment on what people prefer, by the loss of one's choice."""

    stage: Literal["preference"] = "preference"
    init: str = Field(description="MODEL to align; also the reference of dpo and kto")
    data: PreferenceData
    loss: Annotated[
        DpoConfig | OrpoConfig | SimpoConfig | CpoConfig | KtoConfig, Field(discriminator="kind")
    ] = DpoConfig()


class RewardRecipe(StageRecipe):
    """A reward model: a scalar head that learns what people prefer, or which steps are right."""

    stage: Literal["reward"] = "reward"
    init: str = Field(description="MODEL to give a scalar head")
    data: PreferenceData
    loss: Annotated[BradleyTerryConfig | ProcessConfig, Field(discriminator="kind")] = (
        BradleyTerryConfig()
    )


class GrpoRecipe(StageRecipe):
    """Reinforcement learning on problems with checkable answers, by group-relative advantages."""

    stage: Literal["grpo"] = "grpo"
    init: str = Field(description="MODEL to train; also the reference where a KL term is asked for")
    data: ProblemData
    graders: tuple[AnyGrader, ...] = (NumericGrader(),)
    grpo: GrpoConfig = GrpoConfig()


class RlooRecipe(StageRecipe):
    """Reinforcement learning by REINFORCE, each answer against the others to its prompt."""

    stage: Literal["rloo"] = "rloo"
    init: str = Field(description="MODEL to train; also the reference where a KL term is asked for")
    data: ProblemData
    graders: tuple[AnyGrader, ...] = (NumericGrader(),)
    rloo: RlooConfig = RlooConfig()


class PpoRecipe(StageRecipe):
    """Reinforcement learning with a value model, whose judgement of every token is learnt along."""

    stage: Literal["ppo"] = "ppo"
    init: str = Field(description="MODEL to train; also the reference where a KL term is asked for")
    value_init: str | None = Field(
        None, description="MODEL that the value model begins as, such as a reward model; None: init"
    )
    data: ProblemData
    graders: tuple[AnyGrader, ...] = (NumericGrader(),)
    ppo: PpoConfig = PpoConfig()


class DistillData(Spec):
    """What teacher and student both read."""

    path: str = Field(description="chats, text, or problems (prompts), as `form` says")
    form: Literal["chats", "text", "problems"] = Field(
        "chats", description="chats, text: for mode logits; problems: for on_policy and sequence"
    )
    row_length: int = Field(512, gt=1)
    rows_per_step: int = Field(8, gt=0)
    rows_per_batch: int | None = Field(None, gt=0)


class DistillRecipe(StageRecipe):
    """A student learns from a teacher: its distributions, its hidden states, or its answers."""

    stage: Literal["distill"] = "distill"
    teacher: str = Field(description="MODEL to learn from")
    init: str | None = Field(None, description="MODEL to go on from; None: fresh weights, `model`")
    model: Shape | None = Field(
        None, description="shape of a fresh student, which gets the teacher's tokenizer"
    )
    data: DistillData
    distill: DistillConfig = DistillConfig()
    rollout: RolloutConfig = Field(
        RolloutConfig(), description="how answers are sampled (on_policy, sequence)"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> DistillRecipe:
        if (self.init is None) == (self.model is None):
            raise ValueError("give one of init (a MODEL) and model (a shape of fresh weights)")
        logits = self.distill.mode == "logits"
        if logits == (self.data.form == "problems"):
            raise ValueError(
                f"data.form = '{self.data.form}' does not go with distill.mode = "
                f"'{self.distill.mode}'; logits takes chats or text, the others problems"
            )
        return self


class CurateRecipe(Spec):
    """Messy text to clean documents, carried out by `glassbox data curate`."""

    stage: Literal["curate"] = "curate"
    out: str = Field(description="folder of the documents, the report, and what was dropped")
    source: SourceList = Field(description="a path, an address, a mapping with `kind`, or a list")
    steps: tuple[StepConfig, ...] = Field((), description="in the order in which they run")
    workers: int = Field(2, gt=0, description="processes; the documents do not depend on it")
    runner: Literal["local", "ray"] = Field(
        "local", description="processes of this machine, or tasks of a Ray cluster (extra cluster)"
    )
    keep_dropped: bool = Field(True, description="keep what is dropped in OUT/dropped, to read")
    strict: bool = Field(False, description="a corrupt record ends the run instead of counting")
    format: Format = "jsonl"
    max_record_bytes: int = Field(
        RECORD_BYTES, gt=0, description="a larger record is passed over and counted"
    )
    max_record_seconds: float = Field(
        RECORD_SECONDS, gt=0, description="a step that takes longer for a record drops it"
    )
    shard_bytes: int = Field(8 << 20, ge=1024, description="bytes of the source a shard, about")


Recipe = Annotated[
    PretrainRecipe
    | SftRecipe
    | DpoRecipe
    | PreferenceRecipe
    | RewardRecipe
    | GrpoRecipe
    | RlooRecipe
    | PpoRecipe
    | DistillRecipe
    | CurateRecipe,
    Field(discriminator="stage"),
]

STAGES: dict[str, type[StageRecipe]] = {
    "pretrain": PretrainRecipe,
    "sft": SftRecipe,
    "dpo": DpoRecipe,
    "preference": PreferenceRecipe,
    "reward": RewardRecipe,
    "grpo": GrpoRecipe,
    "rloo": RlooRecipe,
    "ppo": PpoRecipe,
    "distill": DistillRecipe,
}


def recipe_folders() -> list[Path]:
    """Where recipes named without a path are looked for: the installed package, then the checkout."""
    return [folder for folder in (PACKAGED, CHECKOUT) if folder.is_dir()]


def read_recipe(path: str, overrides: list[str] | None = None) -> StageRecipe:
    """Load a recipe, lay `key.path=value` words over it, and check it strictly.

    Raises UserError with one clause a fault: the key, the value, the remedy.
    """
    raw = apply_overrides(load_recipe(path, search=recipe_folders()), overrides or [])
    return parse_recipe(raw, where=path)


def parse_recipe(raw: dict[str, Any], *, where: str) -> StageRecipe:
    """Check a recipe's mapping against the spec of its stage."""
    stage = raw.get("stage")
    if stage == "curate":
        raise UserError(f"{where}: 'stage' = 'curate' trains nothing; run `glassbox data curate`")
    if stage not in STAGES:
        raise UserError(f"{where}: 'stage' = {stage!r}; use one of {', '.join(STAGES)}")
    return parse(STAGES[stage], raw, where=where)


def read_curate_recipe(path: str, overrides: list[str] | None = None) -> CurateRecipe:
    """Load a recipe of stage `curate`, with `key.path=value` words laid over it.

    Raises UserError with one clause a fault, and for a recipe of another stage.
    """
    raw = apply_overrides(load_recipe(path, search=recipe_folders()), overrides or [])
    if raw.get("stage") != "curate":
        raise UserError(
            f"{path}: 'stage' = {raw.get('stage')!r}; `data curate` runs 'curate' alone"
        )
    return parse(CurateRecipe, raw, where=path)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of all recipes, for editors that complete and check YAML."""
    adapter: TypeAdapter[Any] = TypeAdapter(Recipe)
    return adapter.json_schema()


def list_recipes() -> list[tuple[str, str]]:
    """(name, first comment line) of every recipe that comes with Glassbox."""
    found: dict[str, str] = {}
    for folder in reversed(recipe_folders()):
        for path in sorted(folder.rglob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            found[str(path.relative_to(folder).as_posix())] = first.lstrip("# ").strip()
    return sorted(found.items())
