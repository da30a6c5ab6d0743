"""What belongs to a whole optimizer step: KTO's baseline, layers' own losses, and where a turn ends."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.distributed import Group
from glassbox.data.feedback import EncodedFeedback, FeedbackSource
from glassbox.inference import ChatPrompts, Engine, SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.tokenizers import Tokenizer, train_bpe
from glassbox.training.protocols import BeforeStep
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, RolloutSource
from glassbox.tuning.preference.kto import Kto, KtoConfig
from support.policy_problems import PROBLEMS, TOKENIZER, letters, model
from support.tiny_chat import SENTENCES, tiny_chat_model

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end_of_turn>{% endgeneration %}"
    "{% else %}{{ m.content }}<end_of_turn>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma_like() -> Tokenizer:
    """No <|im_end|>: a turn ends with <end_of_turn>."""
    names = ("<|endoftext|>", "<start_of_turn>", "<end_of_turn>")
    return train_bpe(SENTENCES, 300, special_tokens=names).with_chat_template(GEMMA)


@pytest.mark.parametrize("how", ["ours", "gemma"])
def test_a_rollout_stops_where_the_template_ends_a_turn(how: str) -> None:
    """A policy that says a few letters and then ends its turn: nothing behind the end is trained on."""
    tokenizer = TOKENIZER if how == "ours" else gemma_like()
    end = tokenizer.special_tokens["<|im_end|>" if how == "ours" else "<end_of_turn>"]
    policy = tiny_chat_model(tokenizer)
    with torch.no_grad():  # the end of a turn is likely everywhere
        policy.embedding.weight[end] = 0.0
        policy.final_norm.weight.fill_(1.0)
    config = GrpoConfig(prompts_per_step=4, group_size=16, max_tokens=40, temperature=9.0)
    source = RolloutSource(Engine(policy, tokenizer), PROBLEMS, letters, config, seed=1)
    assert source.stop_token_ids == (end,) == ChatPrompts(tokenizer).stop_token_ids
    source.next_step()
    answers = [answer for one in source._draw([0, 1, 2, 3]) for answer in one.answers]
    ended = [answer for answer in answers if not answer.truncated]
    assert {answer.token_ids[-1] for answer in ended} == {end, tokenizer.eos_id}
    for answer in answers:
        assert end not in answer.token_ids[:-1]


def test_chat_prompts_add_their_end_to_what_stops_already() -> None:
    ids, params = ChatPrompts(gemma_like())(
        [{"role": "user", "content": "fox"}], SamplingParams(stop_token_ids=(5,))
    )
    tokenizer = gemma_like()
    assert params.stop_token_ids == tuple(sorted((5, tokenizer.special_tokens["<end_of_turn>"])))
    assert tokenizer.decode(ids).endswith("<start_of_turn>model\n")


def feedback() -> list[EncodedFeedback]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(5, 290, (count,), generator=generator).tolist()

    return [
        EncodedFeedback([n + 1, *ids(2)], ids(n % 4 + 1), [1] * (n % 4 + 1), n % 3 > 0)
        for n in range(8)
    ]


def step_of(ranks: int, per_batch: int) -> tuple[float, float, torch.Tensor]:
    """Loss, z and gradient of one step, shared by ranks and micro-batches."""
    policy, reference = model(2).double(), model(1).double()
    objective = Kto(KtoConfig(beta=0.5), reference)
    assert isinstance(objective, BeforeStep)
    batches = []
    for rank in range(ranks):
        source = FeedbackSource(
            feedback(), per_step=8, per_batch=per_batch, max_length=32,
            group=Group(rank=rank, world_size=ranks),
        )  # fmt: skip
        batches += source.next_step()
    objective.before_step(policy, batches, Group())  # as the sum over ranks does
    outputs = [objective(policy, batch) for batch in batches]
    loss = sum(output.loss_sum for output in outputs) / sum(float(o.weight) for o in outputs)
    kl, weight = (sum(float(o.metrics["kl"][i]) for o in outputs) for i in (0, 1))
    (gradient,) = torch.autograd.grad(loss, [policy.embedding.weight])
    return float(loss), kl / weight, gradient


@pytest.mark.parametrize(("ranks", "per_batch"), [(1, 1), (1, 3), (2, 8), (4, 1)])
def test_kto_is_the_same_on_any_number_of_ranks_and_micro_batches(ranks: int, per_batch: int) -> None:  # fmt: skip
    """In float64; z itself is kept in float32, whose rounding (6e-8 of z) is all that may differ."""
    loss, z, gradient = step_of(1, 8)
    other, other_z, other_gradient = step_of(ranks, per_batch)
    assert z > 0.01  # or its share in the loss would not be seen
    assert other_z == pytest.approx(z, rel=1e-6)
    assert other == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-9)


def with_experts() -> CausalLM:
    ffn = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=8), balance_loss=0.1)
    block = BlockSpec(mixer=GroupedQuery(num_heads=2, positions=Rotary()), ffn=ffn)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=16, context_length=128,
        blocks=(Repeat(block=block, times=2),),
    )  # fmt: skip
    return CausalLM(config)


def test_layers_own_losses_count_for_every_micro_batch_of_a_policy_step() -> None:
    """By the tokens of each: the auxiliary part of the step's loss is their weighted mean, not the first's."""
    policy = with_experts()
    config = GrpoConfig(prompts_per_step=2, group_size=4, max_tokens=16, tokens_per_batch=160)
    source = RolloutSource(Engine(policy, TOKENIZER), PROBLEMS, letters, config, seed=0)
    batches = source.next_step()
    assert len(batches) > 2
    weight = batches[0].weight
    assert sum(float(batch.weight) for batch in batches) == weight
    counts = [int((batch.targets != -100).sum()) for batch in batches]
    assert [batch.share for batch in batches] == pytest.approx(
        [weight * n / sum(counts) for n in counts]
    )
    outputs = [Grpo(config)(policy, batch) for batch in batches]
    extra = 0.0
    for output, count in zip(outputs, counts, strict=True):
        added = float(output.loss_sum.detach() - output.metrics["main_loss"][0])
        name = next(key for key in output.metrics if key.endswith("balance_loss"))
        total, own = output.metrics[name]
        assert added == pytest.approx(float(total), rel=1e-3)
        assert float(own) == pytest.approx(weight * count / sum(counts))
        extra += added
    means = [float(o.metrics[name][0]) / float(o.metrics[name][1]) for o in outputs]
    expected = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    assert extra / weight == pytest.approx(expected, rel=1e-3)
