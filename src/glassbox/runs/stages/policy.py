"""Reinforcement learning on problems with checkable answers, by a policy method of one's choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, create_model

from glassbox.data.python_source import DataPath
from glassbox.runs.stages.base import StageRecipe, evenly, note_lost
from glassbox.runs.stages.settings import HeldoutData
from glassbox.runs.stages.text import ROW_PLACES
from glassbox.tuning.grading.graders import Numeric
from glassbox.tuning.grading.rubrics import AnyGrader
from glassbox.tuning.policy.grpo import GrpoConfig
from glassbox.tuning.policy.ppo import PpoConfig
from glassbox.tuning.policy.rloo import RlooConfig
from glassbox.tuning.policy.rollouts import PolicyMethod, PolicySetup

if TYPE_CHECKING:
    from glassbox.runs.setup import Setup, Stage

AnyPolicyMethod = Annotated[GrpoConfig | RlooConfig | PpoConfig, Field(discriminator="kind")]


class ProblemData(HeldoutData):
    """Problems whose answers can be checked."""

    path: DataPath = Field(description=ROW_PLACES + "problems: prompt (or question), answer")
    instruction: str = Field(
        "", description="appended to each prompt, for example to specify the form of the answer"
    )


class RolloutRecipe(StageRecipe):
    """A stage that asks the policy itself, grades its answers, and learns from them."""

    init: str = Field(description="MODEL to train; also the reference of a KL term")
    data: ProblemData
    graders: tuple[AnyGrader, ...] = (Numeric(),)

    @property
    def chosen_method(self) -> PolicyMethod:
        """The spec of the method: the field that is called as the stage."""
        found: PolicyMethod = getattr(self, self.stage)
        return found

    def check(self, setup: Setup) -> None:
        """The model, every problem, and whether the graders find in one what they read."""
        self._setup(setup)

    def _setup(self, setup: Setup) -> tuple[PolicySetup, list[dict[str, Any]]]:
        return setup.once("policy", lambda: self._open(setup))

    def _open(self, setup: Setup) -> tuple[PolicySetup, list[dict[str, Any]]]:
        """What the method is built with, and the held-out problems."""
        from glassbox.inference import Engine
        from glassbox.tuning.grading.graders import read_problems
        from glassbox.tuning.grading.rubrics import build_rubric, check_problem

        method, data = self.chosen_method, self.data
        model, tokenizer = setup.model(self.init)
        problems = read_problems(data.path, instruction=data.instruction)
        heldout: list[dict[str, Any]] = []
        if self.evaluates and data.heldout_path is not None:
            heldout = read_problems(data.heldout_path, instruction=data.instruction)
        elif self.evaluates:
            split = setup.hold_out([one["prompt"] for one in problems], data.heldout_share)
            heldout = [problems[number] for number in split.heldout]
            problems = [problems[number] for number in split.train]
        rubric = build_rubric(self.graders, open_model=setup.apart)
        check_problem(self.graders, problems[0], where=str(data.path))
        engine = Engine(model, tokenizer, max_batch=method.prompts_per_step * method.group_size)
        made = PolicySetup(
            engine=engine,
            problems=problems,
            rubric=rubric,
            reference=lambda: setup.reference(self.init),
            opened=lambda name: setup.apart(name)[0],
            seed=self.seed,
            group=setup.group,
            precision=self.train.stated_precision,
        )
        chosen = evenly(len(heldout), self.evaluation.documents)
        return made, [heldout[number] for number in chosen]

    def build(self, setup: Setup) -> Stage:
        """Rollouts through the inference engine, graded by rule or by a reward model."""
        from glassbox.evaluation.hooks import GradeHook
        from glassbox.runs.setup import Stage

        model, tokenizer = setup.model(self.init)
        made, heldout = self._setup(setup)
        objective, source = self.chosen_method.build(made)
        if setup.group.is_main:
            note_lost(0, source.num_skipped, "problems", model.config.context_length)
        hooks = setup.sample_hooks(tokenizer)
        if heldout:
            hooks = [
                GradeHook(source.grade, heldout, every=self.evaluation.every, group=setup.group),
                *hooks,
            ]
        return Stage(model, tokenizer, objective, source, hooks)


class PolicyRecipe(RolloutRecipe):
    """Reinforcement learning by the method of one's choice."""

    stage: Literal["policy"] = "policy"
    method: AnyPolicyMethod = GrpoConfig()

    @property
    def chosen_method(self) -> PolicyMethod:
        """That of `method`."""
        return self.method


class PpoRecipe(RolloutRecipe):
    """Reinforcement learning with a value model, trained alongside the policy."""

    stage: Literal["ppo"] = "ppo"
    value_init: str | None = Field(
        None,
        description="MODEL that the value model is initialized from, such as a reward model; null: "
        "init",
    )
    ppo: PpoConfig = PpoConfig()

    @property
    def chosen_method(self) -> PolicyMethod:
        """PPO, its value model begun as `value_init`."""
        value = self.value_init if self.value_init is not None else self.ppo.value_init
        return self.ppo.model_copy(update={"value_init": value})


def _stage_of(method: Any) -> type[RolloutRecipe]:
    """A method's own stage: `stage: rloo` with its settings under `rloo`."""
    kind: str = method.model_fields["kind"].default
    doc = f"Reinforcement learning on problems with checkable answers, by the method `{kind}`."
    fields: dict[str, Any] = {"stage": (Literal[kind], kind), kind: (method, method())}
    return create_model(f"{kind.capitalize()}Recipe", __base__=RolloutRecipe, __doc__=doc, **fields)


POLICY_RECIPES: tuple[type[RolloutRecipe], ...] = (
    PolicyRecipe,
    PpoRecipe,
    *(
        _stage_of(method)
        for method in get_args(get_args(AnyPolicyMethod)[0])
        if method is not PpoConfig
    ),
)
"""`policy`, which takes any method, and one stage a method, which is called as it."""
