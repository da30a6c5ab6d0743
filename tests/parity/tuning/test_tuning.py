"""SFT, GRPO and RLOO against transformers and trl: losses, gradients and metrics of the same weights.

All in float64 unless said otherwise. Against formulas written out here the tolerance is EXACT, two
orders above what another order of summation changes. Against transformers' models it is ROUNDED:
their norms and rotary tables pass through float32 whatever the weights' type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from trl.trainer import sft_trainer
from trl.trainer.utils import nanstd

from glassbox.data.conversations import write_chat_shard
from glassbox.data.loader import PackedRows
from glassbox.data.preferences import preference_batch
from glassbox.data.shards import read_shard
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tokenizers import train_bpe
from glassbox.training.next_token import NextToken
from glassbox.tuning import log_probs as log_probs_module
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy import grpo as grpo_module
from glassbox.tuning.policy import rloo as rloo_module
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, group_advantages
from glassbox.tuning.policy.rloo import Rloo, RlooConfig, leave_one_out
from support.policy_parity import raw_rollout, rloo_batch, rollout_batch, trl_grpo, trl_rloo
from support.preference_parity import encoded, raw_pairs
from support.twins import EXACT, differs, same_gradients, share, tiny, to_llama

# ---- log-probabilities ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_answer_log_probs_are_those_of_a_loop_over_transformers_logits(temperature: float) -> None:
    model = tiny(0)
    llama = to_llama(model)
    batch = preference_batch(encoded(raw_pairs(0)))
    ours = answer_log_probs(model, batch.ids, batch.targets, temperature=temperature).detach()
    for row in range(len(batch.ids)):
        for t in range(batch.ids.shape[1]):
            target = int(batch.targets[row, t])
            expected = 0.0
            if target != IGNORE:
                logits = llama(batch.ids[row : row + 1, : t + 1]).logits[0, -1] / temperature
                expected = float(torch.log_softmax(logits, dim=-1)[target])
            assert not differs(float(ours[row, t]), expected)


# ---- GRPO -----------------------------------------------------------------------------------


def grpo_agrees(config: GrpoConfig, seed: int, *, moved: bool, masked: int | None = None) -> bool:
    model, reference = tiny(seed), tiny(seed + 100)
    llama, llama_reference = to_llama(model), to_llama(reference)
    batch, inputs = rollout_batch(seed, config, moved=moved, masked=masked)
    expected, metrics = trl_grpo(llama, llama_reference, config, inputs)
    expected.backward()
    output = Grpo(config, reference)(model, batch)
    (output.loss_sum / output.weight).backward()
    if differs(float(output.loss_sum) / output.weight, float(expected)):
        return False
    # trl averages a sequence's clip over answers, we over their tokens
    by_token = config.ratio == "token"
    if by_token and differs(
        share(output.metrics["clip_fraction"]), metrics["clip_ratio/region_mean"]
    ):
        return False
    if config.kl_beta and differs(share(output.metrics["kl"]), metrics["kl"]):
        return False
    return same_gradients(model, llama)


GRPO_CONFIGS = [
    GrpoConfig(
        normalization=normalization, kl_beta=kl_beta, temperature=temperature, clip_high=0.28
    )
    for normalization in ("grpo", "dapo", "dr_grpo")
    for kl_beta, temperature in ((0.0, 1.0), (0.3, 0.7))
]


GSPO_CONFIGS = [
    GrpoConfig(
        normalization="grpo",
        ratio="sequence",
        kl_beta=kl_beta,
        temperature=temperature,
        clip_low=0.03,
        clip_high=0.04,
    )
    for kl_beta, temperature in ((0.0, 1.0), (0.3, 0.7))
]


def grpo_name(config: GrpoConfig) -> str:
    kind = "gspo" if config.ratio == "sequence" else config.normalization
    return f"{kind}-kl{config.kl_beta}-t{config.temperature}"


@pytest.mark.parametrize("moved", [False, True], ids=["fresh", "moved"])
@pytest.mark.parametrize("config", GRPO_CONFIGS + GSPO_CONFIGS, ids=grpo_name)
def test_grpo_has_trls_loss_gradients_and_metrics(config: GrpoConfig, moved: bool) -> None:
    for seed in range(2):
        assert grpo_agrees(config, seed, moved=moved)


@pytest.mark.parametrize("config", GRPO_CONFIGS, ids=grpo_name)
def test_a_masked_answer_counts_as_in_trl(config: GrpoConfig) -> None:
    assert grpo_agrees(config, 0, moved=True, masked=5)


@pytest.mark.parametrize("config", GRPO_CONFIGS, ids=grpo_name)
def test_grpo_is_the_papers_formula_token_by_token(config: GrpoConfig) -> None:
    """Equations 3 and 4 of arXiv:2402.03300; 8 of 2503.14476; 2 of 2503.20783."""
    model, reference = tiny(3), tiny(103)
    batch, _ = rollout_batch(3, config, moved=True)
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    num_clipped = 0
    for row, (prompt, answer) in enumerate(raw_rollout(3)):
        sequence = torch.tensor([prompt + answer])
        new = torch.log_softmax(model(sequence)[0] / config.temperature, dim=-1)
        ref = torch.log_softmax(reference(sequence)[0] / config.temperature, dim=-1).detach()
        of_row = torch.zeros((), dtype=torch.float64)
        for k, token in enumerate(answer):
            t = len(prompt) - 1 + k
            ratio = torch.exp(new[t, token] - batch.old_log_probs[row, t])
            advantage = batch.advantages[row]
            clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            of_row = of_row - torch.min(ratio * advantage, clipped * advantage)
            num_clipped += int(clipped * advantage < ratio * advantage)
            quotient = torch.exp(ref[t, token]) / torch.exp(new[t, token])
            of_row = of_row + config.kl_beta * (quotient - torch.log(quotient) - 1)
        tokens += len(answer)
        total = total + (of_row / len(answer) if config.normalization == "grpo" else of_row)
    divisor = {"grpo": 8, "dapo": tokens, "dr_grpo": 8 * config.max_tokens}[config.normalization]
    (total / divisor).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    output = Grpo(config, reference)(model, batch)
    (output.loss_sum / output.weight).backward()
    assert not differs(float(output.loss_sum) / output.weight, float(total) / divisor, EXACT)
    assert tuple(map(int, output.metrics["clip_fraction"])) == (num_clipped, tokens)
    assert 0 < num_clipped < tokens
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=EXACT)


def rloo_agrees(config: RlooConfig, seed: int, *, moved: bool) -> bool:
    """trl's RLOOTrainer: loss and gradients of whole answers."""
    model = tiny(seed)
    llama = to_llama(model)
    batch, inputs = rloo_batch(config, seed, model, moved=moved)
    expected, metrics = trl_rloo(llama, config, inputs)
    expected.backward()
    output = Rloo(config)(model, batch)
    (output.loss_sum / output.weight).backward()
    clipped = metrics["clip_ratio/region_mean"]
    if moved and not 0 < clipped < 1:
        raise AssertionError("this batch shows nothing of the clip")
    return (
        not differs(float(output.loss_sum) / 8, float(expected))
        and not differs(share(output.metrics["clip_fraction"]), clipped)
        and same_gradients(model, llama)
    )


@pytest.mark.parametrize("moved", [False, True], ids=["fresh", "moved"])
@pytest.mark.parametrize("seed", range(2))
def test_rloo_has_trls_loss_gradients_and_clip(seed: int, moved: bool) -> None:
    assert rloo_agrees(RlooConfig(clip_low=0.1, clip_high=0.1), seed, moved=moved)


def test_a_mean_over_an_answers_tokens_is_caught_in_rloo(planted: pytest.MonkeyPatch) -> None:
    right = answer_log_probs

    def wrong(model, ids, targets, *, temperature=1.0, **more):  # type: ignore[no-untyped-def]
        scores = right(model, ids, targets, temperature=temperature, **more)
        return scores / (targets != IGNORE).sum(-1, keepdim=True)

    config = RlooConfig(clip_low=0.1, clip_high=0.1)
    planted.setattr(rloo_module, "answer_log_probs", wrong)
    assert not rloo_agrees(config, 0, moved=False)


def test_leave_one_out_is_trls() -> None:
    """trl's lines: baselines = (sum - own) / (G - 1)."""
    rewards = torch.rand((6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    baselines = (torch.nansum(rewards, dim=1, keepdim=True) - rewards) / 4
    torch.testing.assert_close(leave_one_out(rewards), rewards - baselines, rtol=0, atol=1e-12)


def test_advantages_are_trls() -> None:
    """trl's lines: nanmean and nanstd over the group, (r - mean) / (std + 1e-4)."""
    rewards = torch.rand((6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = nanstd(rewards, dim=1)[:, None]
    expected = (rewards - torch.nanmean(rewards, dim=1, keepdim=True)) / (spread + 1e-4)
    torch.testing.assert_close(group_advantages(rewards), expected, rtol=0, atol=1e-12)


# ---- the tests above catch the bugs that such code is known for --------------------------------


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    return monkeypatch


def scoring(change: str):  # type: ignore[no-untyped-def]
    """answer_log_probs with a fault in it."""
    right = log_probs_module.answer_log_probs

    def wrong(model, ids, targets, *, temperature=1.0, **more):  # type: ignore[no-untyped-def]
        if change == "unshifted":  # the logits at t score the token at t
            targets = torch.where(targets == IGNORE, IGNORE, ids)
        elif change == "first":  # each answer's first token dropped
            earlier = torch.roll(targets, 1, dims=1)
            earlier[:, 0] = IGNORE
            targets = torch.where(earlier == IGNORE, IGNORE, targets)
        elif change == "temperature":
            temperature = 1.0
        return right(model, ids, targets, temperature=temperature, **more)

    return wrong


@pytest.mark.parametrize("change", ["unshifted", "first", "temperature"])
def test_planted_scoring_bugs_are_caught_in_grpo(planted: pytest.MonkeyPatch, change: str) -> None:
    config = GRPO_CONFIGS[1]
    assert grpo_agrees(config, 0, moved=True)
    planted.setattr(grpo_module, "answer_log_probs", scoring(change))
    assert not grpo_agrees(config, 0, moved=True)


def test_a_sequence_ratio_without_its_length_is_caught(planted: pytest.MonkeyPatch) -> None:
    assert all(grpo_agrees(config, 0, moved=True) for config in GSPO_CONFIGS)
    right = grpo_module.sequence_ratios

    def wrong(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
        return right(new, old, mask) * mask.sum(-1, keepdim=True)

    planted.setattr(grpo_module, "sequence_ratios", wrong)
    assert not grpo_agrees(GSPO_CONFIGS[0], 0, moved=True)


def test_a_reversed_kl_is_caught(planted: pytest.MonkeyPatch) -> None:
    right = grpo_module.kl_to_reference
    planted.setattr(grpo_module, "kl_to_reference", lambda p, q: right(q, p))
    assert not grpo_agrees(GRPO_CONFIGS[1], 0, moved=True)


def test_a_negated_kl_is_caught(planted: pytest.MonkeyPatch) -> None:
    right = grpo_module.kl_to_reference
    planted.setattr(grpo_module, "kl_to_reference", lambda p, q: -right(p, q))
    assert not grpo_agrees(GRPO_CONFIGS[1], 0, moved=True)


def test_a_clip_without_the_minimum_is_caught(planted: pytest.MonkeyPatch) -> None:
    def wrong(new, old, advantages, *, clip_low, clip_high):  # type: ignore[no-untyped-def]
        ratio = (new - old).exp()
        return -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages[:, None], ratio > 9

    planted.setattr(grpo_module, "policy_losses", wrong)
    assert not grpo_agrees(GRPO_CONFIGS[0], 0, moved=True)


# ---- SFT ------------------------------------------------------------------------------------

CHATS = [
    [
        {"role": "user", "content": "Who has the kite?"},
        {"role": "assistant", "content": "Mia has it."},
    ],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And the ball?"},
        {"role": "assistant", "content": "Tom."},
        {"role": "user", "content": "Where <|im_end|> is he?"},
        {"role": "assistant", "content": "By the pond, with a frog."},
    ],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "?"}],
]


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    texts = [message["content"] for chat in CHATS for message in chat]
    tokenizer = train_bpe(texts, 320)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder)


def test_sft_has_trls_labels_loss_and_gradients(chat_tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Ours packed into rows; trl's one conversation a row, through its own preparation and loss."""
    ours, theirs = chat_tokenizer
    model = tiny(0, ours.vocab_size)
    llama = to_llama(model)
    # a special token spelled by a user is text to us, and control to transformers: not compared here
    chats = [
        [{**m, "content": m["content"].replace("<|im_end|>", "then")} for m in chat]
        for chat in CHATS
    ]
    write_chat_shard(tmp_path / "chats", chats, ours, row_length=90)
    rows = PackedRows(read_shard(tmp_path / "chats", fingerprint=ours.fingerprint), 90)
    assert len(rows) < len(chats)
    batch = rows.batch(range(len(rows)))
    output = NextToken()(model, batch)
    (output.loss_sum / output.weight).backward()

    arguments = sft_trainer.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        assistant_only_loss=True,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=3,
    )
    trainer = sft_trainer.SFTTrainer(
        model=llama,
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": chat} for chat in chats]),
        processing_class=theirs,
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(chats))])
    trained = int((inputs["labels"][:, 1:] != IGNORE).sum())
    assert output.weight == trained
    documents = {tuple(ids) for ids in rows_of(batch)}
    assert documents == {
        tuple(label for label in row.tolist() if label != IGNORE) for row in inputs["labels"]
    }
    loss = trainer.compute_loss(llama, inputs, num_items_in_batch=torch.tensor(trained))
    loss.backward()
    assert not differs(share((output.loss_sum, output.weight)), float(loss))
    assert same_gradients(model, llama)


def rows_of(batch) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """The trained targets of each packed document, in order."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(len(batch.ids)):
        for target, document in zip(
            batch.targets[row].tolist(), batch.documents[row].tolist(), strict=True
        ):
            if target != IGNORE:
                found.setdefault((row, document), []).append(target)
    return list(found.values())


def test_sft_loss_is_transformers_on_the_documents_apart(chat_tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ours, _ = chat_tokenizer
    model = tiny(1, ours.vocab_size)
    llama = to_llama(model)
    write_chat_shard(tmp_path / "chats", CHATS, ours, row_length=90)
    rows = PackedRows(read_shard(tmp_path / "chats"), 90)
    output = NextToken()(model, rows.batch(range(len(rows))))
    output.loss_sum.backward()
    total = torch.zeros((), dtype=torch.float64)
    for chat in CHATS:
        ids, mask = (torch.tensor([column]) for column in ours.encode_chat(chat))
        labels = torch.where(mask == 1, ids, IGNORE)
        total = total + llama(ids, labels=labels).loss.double() * (labels[:, 1:] != IGNORE).sum()
    total.backward()
    assert not differs(float(output.loss_sum), float(total))
    assert same_gradients(model, llama)
