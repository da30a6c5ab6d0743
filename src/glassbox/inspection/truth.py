"""The truth beside a model: what comes next in the story world, exactly, and what holds in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.next_token import NextTokenLaw, next_token_law
from glassbox.data.storyworld.programs import document_program
from glassbox.data.storyworld.states import world_states
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.lenses import residual_stream
from glassbox.inspection.probes import linear_probe
from glassbox.inspection.recording import HasModel, the_model
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers.prefix import text_prefix
from glassbox.tokenizers.tokenizer import Tokenizer


def story_law(
    config: StoryWorldConfig,
    tokenizer: Tokenizer,
    text: str | Sequence[int],
    *,
    ended: bool = True,
    unseen: bool = False,
) -> NextTokenLaw:
    """The story world's exact law of the next token at every place of a text: see `next_token_law`.

    ended: the text is a whole document; else what has been written so far, and the last law is that of
        what comes next. unseen: under the generator that knows the reserved pairs too.
    """
    return next_token_law(document_program(config, unseen=unseen), tokenizer, text, ended=ended)


@dataclass(frozen=True)
class Divergence:
    """A model beside the truth, token by token in nats; None of the sums is a mean of means.

    kl[n]: KL(truth || model) of what follows the first n tokens. excess[n]: log p(t_n) - log q(t_n),
    whose mean over texts is that of kl. entropy[n]: of the truth.
    """

    ids: list[int]
    kl: Float[Tensor, " N"]
    excess: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]


def divergence_from_truth(
    model: CausalLM | HasModel, tokenizer: Tokenizer, law: NextTokenLaw
) -> Divergence:
    """How far a model's next-token distributions lie from the exact ones along one text.

        KL_n = sum over v of p_n(v) (log p_n(v) - log q_n(v)), in float64

    The model reads the text behind the prefix that it was trained with (end of text); where it has
    none, the first token is left out. Raises UserError for a text beyond the model's context.
    Tested against: the sum written out; over documents mean KL and mean excess agree.
    """
    model = the_model(model)
    prefix = text_prefix(tokenizer, "auto")
    skipped = 0 if prefix else 1
    ids = [*prefix, *law.ids[: len(law.laws) if len(law.laws) > len(law.ids) else -1]]
    if len(ids) > model.config.context_length:
        raise UserError(
            f"the text has {len(ids)} tokens, the model's context {model.config.context_length}; "
            "give a shorter one"
        )
    with evaluating(model), torch.no_grad():
        logits = model(torch.tensor([ids], device=model.device))[0]
    log_q = logits.double().log_softmax(-1).cpu()
    kl, excess, entropy = [], [], []
    for place in range(skipped, len(law.laws)):
        row = log_q[place - skipped]
        p = torch.tensor(list(law.laws[place].values()), dtype=torch.float64)
        own = row[torch.tensor(list(law.laws[place]))]
        entropy.append(-(p * p.log()).sum())
        kl.append((p * (p.log() - own)).sum())
        if place < len(law.ids):
            excess.append(law.log_probs[place] - row[law.ids[place]])
    empty = torch.zeros(0, dtype=torch.float64)
    stacked = [torch.stack(values) if values else empty for values in (kl, excess, entropy)]
    return Divergence(law.ids, *stacked)


@dataclass(frozen=True)
class MeanDivergence:
    """Nats a document over many: mean KL, mean excess, and the standard error of their paired difference."""

    kl: float
    excess: float
    difference_error: float
    num_documents: int
    num_tokens: int

    @property
    def agrees(self) -> bool:
        """Whether the two are within three standard errors of each other, as they are for every model."""
        return abs(self.kl - self.excess) <= 3 * self.difference_error


def mean_divergence(divergences: Sequence[Divergence]) -> MeanDivergence:
    """Of documents drawn from the generator, what `divergence_from_truth` gave of each.

    Raises UserError for fewer than two.
    """
    if len(divergences) < 2:
        raise UserError(f"{len(divergences)} documents; give at least 2")
    kl = torch.stack([one.kl.sum() for one in divergences])
    excess = torch.stack([one.excess.sum() for one in divergences])
    count = len(divergences)
    error = float((kl - excess).std()) / math.sqrt(count)
    tokens = sum(len(one.kl) for one in divergences)
    return MeanDivergence(float(kl.mean()), float(excess.mean()), error, count, tokens)


@dataclass(frozen=True)
class StateProbe:
    """Accuracy of a probe at each layer, before the first block and after each, on texts not trained on.

    chance: the share of the commonest answer there.
    """

    accuracy: list[float]
    chance: float
    num_train: int
    num_test: int


def probe_who_has(
    model: CausalLM | HasModel,
    tokenizer: Tokenizer,
    config: StoryWorldConfig,
    stories: Sequence[str],
    *,
    test_share: float = 0.3,
    l2: float = 10.0,
) -> StateProbe:
    """At which depth a model knows whether the hero has the thing that the story is about.

    At the end of every sentence at which the generator's own facts say who has that thing, a linear
    probe reads the answer off the stream at the token with which the sentence ends. The last `test_share` of the
    stories are kept to test on. Texts that are no stories, or too long for the model, are left out.
    Raises UserError where no sentence says who has what.
    """
    model = the_model(model)
    prefix = text_prefix(tokenizer, "auto")
    features: list[Tensor] = []
    labels: list[int] = []
    owners: list[int] = []  # the story of each
    for number, text in enumerate(stories):
        states = world_states(config, text)
        known = [(s.end, s.holders[s.thing] == s.hero) for s in states if s.thing in s.holders]
        if not known:
            continue
        ids = [*prefix, *tokenizer.encode_ordinary(text)]
        if len(ids) > model.config.context_length:
            continue
        ends = _ends(tokenizer, ids[len(prefix) :])
        at = [len(prefix) + sum(stop < end for stop in ends) for end, _ in known]
        stream = residual_stream(model, torch.tensor([ids]), at=(0, torch.tensor(at)))
        features.append(stream)
        labels += [int(answer) for _, answer in known]
        owners += [number] * len(known)
    if not features:
        raise UserError("no sentence of these texts says who has what; give stories of this config")
    stacked, answers = torch.cat(features, 1), torch.tensor(labels)
    border = owners[-1] + 1 - max(1, round(test_share * len(set(owners))))
    trained = torch.tensor([owner < border for owner in owners])
    train, test = trained.nonzero().squeeze(-1), (~trained).nonzero().squeeze(-1)
    if not len(train):
        raise UserError("all stories are kept for testing; give more, or a smaller test_share")
    found = []
    for layer in stacked:
        probe = linear_probe(layer[train], answers[train], num_classes=2, l2=l2)
        found.append(probe.accuracy(layer[test], answers[test]))
    commonest = float(answers[test].double().mean())
    return StateProbe(found, max(commonest, 1 - commonest), len(train), len(test))


def _ends(tokenizer: Tokenizer, ids: Int[Tensor, " T"] | list[int]) -> list[int]:
    """Up to which character of the text each id reaches."""
    found, content = [], b""
    for token in ids:
        content += tokenizer.token_bytes(int(token))
        found.append(len(content.decode("utf-8", "ignore")))
    return found
