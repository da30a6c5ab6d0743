"""The sampling settings of a request."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from glassbox.core.config import Spec
from glassbox.inference.constraints.specs import Constraint, check_text
from glassbox.inference.sampling.processors import Watermark
from glassbox.inference.sampling.randomness import derive_seed

_MOST_BIAS = 1e30  # float32 ends at 3e38


class SamplingParams(Spec):
    """The sampling settings of a request. The defaults sample from the model's distribution."""

    max_tokens: int = Field(128, gt=0, description="maximum number of tokens to generate")
    temperature: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="divisor of the logits; 0 is greedy decoding"
    )
    top_k: int = Field(0, ge=0, description="keep the k most probable tokens; 0 keeps all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="keep the smallest set of tokens whose probabilities sum to p"
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="keep tokens with at least min_p times the largest probability",
    )
    typical_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="locally typical sampling: keep the tokens nearest to the entropy, up to a total "
        "probability p",
    )
    epsilon_cutoff: float = Field(
        0.0, ge=0, lt=1, description="keep tokens with at least this probability; 0 keeps all"
    )
    eta_cutoff: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="as epsilon_cutoff, lower where the entropy is high; 0 keeps all",
    )
    top_h: float | None = Field(
        None,
        gt=0,
        le=1,
        description="keep the most probable tokens up to this share of the entropy",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="above 1 discourages tokens of the prompt and the answer",
    )
    frequency_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        description="frequency penalty, subtracted from a logit for each occurrence of the token in "
        "the answer",
    )
    presence_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        description="presence penalty, subtracted from a logit if the token occurs in the answer",
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, le=1024, description="no n-gram of prompt and answer occurs twice; 0 allows all"
    )
    bad_words: tuple[str, ...] = Field(
        (), description="texts that the answer never contains, as words or within words"
    )
    bad_words_ids: tuple[tuple[int, ...], ...] = Field(
        (), description="token sequences that the answer never contains"
    )
    logit_bias: dict[int, float] = Field({}, description="added to the logits of these tokens")
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = Field(
        (), description="pairs of a token sequence and the bias on the logit of its last token"
    )
    forced_bos_token_id: int | None = Field(None, ge=0, description="the answer's first token")
    forced_eos_token_id: tuple[int, ...] = Field(
        (), description="the last token of an answer that reaches max_tokens is one of these"
    )
    exponential_decay_length_penalty: tuple[int, float] | None = Field(
        None,
        description="(start, factor): stop tokens become more probable by factor**(length - start)",
    )
    guidance_scale: float = Field(
        1.0,
        ge=0,
        le=100,
        description="scale of classifier-free guidance; above 1 guides away from negative_prompt",
    )
    negative_prompt: str | None = Field(
        None, description="the negative prompt of classifier-free guidance"
    )
    negative_prompt_ids: tuple[int, ...] = Field(
        (), description="negative_prompt as tokens; without one, the prompt's last token"
    )
    watermark: Watermark | None = Field(None, description="a green-list watermark in the answer")
    min_tokens: int = Field(0, ge=0, description="minimum number of tokens")
    stop: tuple[str, ...] = Field((), description="stop strings, which are not part of the answer")
    stop_token_ids: tuple[int, ...] = Field((), description="tokens that end the answer")
    ignore_eos: bool = Field(False, description="continue after the end-of-text token")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="random seed; null: random",
    )
    constraint: Constraint | None = Field(
        None, description="a JSON schema, regular expression or choice that constrains the answer"
    )
    n: int = Field(1, gt=0, description="number of answers to the prompt")
    best_of: int | None = Field(
        None,
        gt=0,
        description="sample this many answers and keep the n with the highest mean log-probability",
    )
    logprobs: bool = Field(False, description="return each token's log-probability")
    top_logprobs: int = Field(
        0, ge=0, description="with logprobs: also return those of this many most probable tokens"
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_string_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer at once; leave it out")
        for stop in value:
            check_text(stop, "a stop string")
        return value

    @field_validator("stop_token_ids")
    @classmethod
    def _ids_are_ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(token < 0 for token in value):
            raise ValueError("token ids are never negative")
        return value

    @field_validator("forced_eos_token_id", mode="before")
    @classmethod
    def _one_id_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("bad_words", mode="before")
    @classmethod
    def _one_word_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sequences_are_tokens(self) -> SamplingParams:
        for name in ("bad_words", "bad_words_ids"):
            if any(not sequence for sequence in getattr(self, name)):
                raise ValueError(
                    f"{name} has an empty sequence, which every answer contains; leave it out"
                )
        if any(not sequence for sequence, _ in self.sequence_bias):
            raise ValueError("sequence_bias has an empty sequence; name its tokens")
        if any(token < 0 for token in self.named_tokens):
            raise ValueError("token ids are never negative")
        if any(not abs(bias) <= _MOST_BIAS for _, bias in self.sequence_bias):
            raise ValueError("a bias is a number float32 can hold; bad_words_ids forbids")
        if self.exponential_decay_length_penalty is not None:
            start, factor = self.exponential_decay_length_penalty
            if start < 0 or not 0 < factor <= 1e6:
                raise ValueError(
                    f"exponential_decay_length_penalty = ({start}, {factor}); give (0 or more, above 0)"
                )
        guided = self.negative_prompt is not None or self.negative_prompt_ids
        if guided and self.guidance_scale == 1:
            raise ValueError(
                "a negative prompt needs guidance_scale; set it, 1.5 say, or leave both out"
            )
        if self.negative_prompt is not None and self.negative_prompt_ids:
            raise ValueError("give negative_prompt or negative_prompt_ids, not both")
        return self

    @field_validator("logit_bias")
    @classmethod
    def _biased_ids_are_ids(cls, value: dict[int, float]) -> dict[int, float]:
        if any(token < 0 for token in value):
            raise ValueError("token ids are never negative")
        if not all(abs(bias) <= _MOST_BIAS for bias in value.values()):
            raise ValueError("a bias is a number float32 can hold; -100 is as good as never")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> SamplingParams:
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(
                f"best_of = {self.best_of} answers cannot hold n = {self.n}; raise it or lower n"
            )
        if self.top_logprobs and not self.logprobs:
            raise ValueError(
                f"top_logprobs = {self.top_logprobs} needs logprobs = true; set it, or leave both out"
            )
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens = {self.min_tokens} is above max_tokens = {self.max_tokens}; "
                "lower one or raise the other"
            )
        return self

    @property
    def named_tokens(self) -> list[int]:
        """Every token id that a setting names, except stop tokens, which need not be in the
        vocabulary.
        """
        forced = [] if self.forced_bos_token_id is None else [self.forced_bos_token_id]
        return [
            *self.logit_bias,
            *(token for sequence in self.bad_words_ids for token in sequence),
            *(token for sequence, _ in self.sequence_bias for token in sequence),
            *self.forced_eos_token_id,
            *self.negative_prompt_ids,
            *forced,
        ]

    @property
    def has_processors(self) -> bool:
        """Whether the next token's logits depend on the tokens before it, beyond the penalties."""
        return bool(
            self.no_repeat_ngram_size
            or self.bad_words_ids
            or self.sequence_bias
            or self.forced_eos_token_id
            or self.forced_bos_token_id is not None
            or self.exponential_decay_length_penalty is not None
            or self.watermark is not None
        )

    @property
    def num_samples(self) -> int:
        """Number of samples drawn: best_of, or n."""
        return self.n if self.best_of is None else self.best_of

    @property
    def scored(self) -> bool:
        """Whether each token's log-probability is needed, to be returned or to rank answers."""
        return self.logprobs or self.num_samples > self.n

    def spread(self, count: int) -> list[SamplingParams]:
        """Return `count` copies with different seeds derived from this one (or random ones, if
        there is none).

        Requests with equal seeds draw equal random numbers, so that a batch of different prompts
        needs different ones.
        """
        if self.seed is None:
            return [self] * count
        seed = self.seed
        return [self.model_copy(update={"seed": derive_seed(seed, i)}) for i in range(count)]
