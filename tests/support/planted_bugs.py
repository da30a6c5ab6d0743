"""Plants known bugs into objectives, one at a time, in a copy of the source: does a test notice each?

python tests/support/planted_bugs.py [--only PATTERN] [--few] [--list]

A bug is caught if the tests named with it pass without it and fail with it. Exit code 1 if one is
not. The processes are forked from one that has imported the heavy libraries, so that a bug costs
seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PARITY = "tests/parity/tuning/test_preferences.py"
POLICY = ("tests/unit/tuning/test_policy.py", "tests/unit/tuning/test_policy_parts.py")


class Bug(NamedTuple):
    """In an objective, `old` in a file of src/glassbox becomes `new`; pytest words that must fail.

    few: one of those that continuous integration plants.
    """

    objective: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    few: bool = False


def parity(words: str) -> tuple[str, ...]:
    """The parity tests whose names have these words."""
    return (PARITY, "-k", words)


OF = {
    "DPO": parity("DPO or IPO or frozen"),
    "ORPO": parity("ORPO or orpo or empty"),
    "SimPO": parity("SimPO or simpo"),
    "CPO": parity("CPO or cpo"),
    "KTO": parity("KTO or kto or frozen"),
    "reward model": parity("reward or scores"),
    "process reward": parity("process"),
    "SFT": ("tests/parity/tuning/test_tuning.py", "-k", "sft"),
    "NEFTune": parity("noise"),
    "GRPO": (
        "tests/parity/tuning/test_tuning.py",
        "-k",
        "(grpo and not planted) or masked or advantages",
    ),
    "RLOO": (*POLICY, "-k", "leave_one_out or reinforce or paid"),
    "PPO": (
        *POLICY,
        "-k",
        "lambda or plain_sums or worse or whitening or paid or both",
    ),
    "PPO's loss": ("tests/parity/tuning/test_policy_objectives.py", "-k", "PPO"),
    "shared prompts": ("tests/unit/inference/test_shared_prompts.py",),
    "minibatches": ("tests/unit/tuning/test_policy.py", "-k", "minibatches and not small_letters"),
    "distillation": (
        "tests/parity/tuning/test_distillation.py",
        "tests/parity/tuning/test_policy_objectives.py",
        "-k",
        "(formula or cache or top_k or distillation-) and not planted",
    ),
}
"""The tests of each objective."""

ROWS = "data/preferences.py"
SCORES = "tuning/log_probs.py"
REFERENCE = "tuning/reference.py"
DPO, FREE, KTO, REWARD = (
    f"tuning/preference/{name}.py" for name in ("dpo", "reference_free", "kto", "reward")
)

SHARED = "inference/shared_prompts.py"
GRPO, RLOO, PPO, DISTILL, DIVERGENCE = (
    f"tuning/{name}.py"
    for name in (
        "policy/grpo",
        "policy/rloo",
        "policy/ppo",
        "distillation/objective",
        "distillation/divergences",
    )
)

EVERYWHERE = {
    "targets not shifted": (ROWS, " = sequence[:-1]\n", " = sequence[1:]\n"),
    "prompt not masked": (ROWS, "torch.where(scored[1:], sequence[1:], IGNORE)", "sequence[1:]"),
    "first answer token lost": (ROWS, "torch.where(scored[1:]", "torch.where(scored[:-1] & scored[1:]"),
    "padding counted": (ROWS, "torch.full(shape, IGNORE", "torch.full(shape, 0"),
}  # fmt: skip
"""Bugs of batches, planted for each objective that scores answers."""


def of(objective: str, *bugs: tuple[str, str, str, str]) -> list[Bug]:
    """Bugs of one objective: what, file, old, new."""
    return [Bug(objective, *bug, tests=OF[objective]) for bug in bugs]


def all_bugs() -> list[Bug]:
    """Every bug, in the order of the objectives."""
    found = []
    for objective in ("DPO", "ORPO", "SimPO", "CPO", "KTO"):
        for what, change in EVERYWHERE.items():
            few = (objective, what) in {
                ("ORPO", "prompt not masked"),
                ("DPO", "targets not shifted"),
            }
            found.append(Bug(objective, what, *change, tests=OF[objective], few=few))
    mean = (SCORES, "auxiliary=auxiliary).sum(dim=-1)", "auxiliary=auxiliary).mean(dim=-1)")
    found += [Bug(name, "mean for sum", *mean, tests=OF[name]) for name in ("DPO", "KTO")]
    found += of(
        "DPO",
        ("reference is the model", DPO, "return sequence_log_probs(frozen, batch.ids", "return sequence_log_probs(model, batch.ids"),
        ("reference not frozen", REFERENCE, "else freeze(model)", "else model"),
        ("no reference at all", DPO, "scores - self._reference_scores(model, batch)", "scores"),
        ("chosen and rejected swapped", DPO, "gap = chosen_ratio - rejected_ratio", "gap = rejected_ratio - chosen_ratio"),
        ("IPO of sums", DPO, 'config.loss in ("ipo", "sigmoid_norm")', 'config.loss == "sigmoid_norm"'),
        ("sigmoid_norm of sums", DPO, 'config.loss in ("ipo", "sigmoid_norm")', 'config.loss == "ipo"'),
        ("IPO's target 1 / beta", DPO, "1 / (2 * config.beta)", "1 / config.beta"),
        ("hinge the other way", DPO, "torch.relu(1 - margin)", "torch.relu(1 + margin)"),
        ("robust not divided", DPO, " / (1 - 2 * smoothing)", ""),
        ("smoothing the wrong side", DPO, "return -(1 - smoothing) * right - smoothing * wrong", "return -(1 - smoothing) * wrong - smoothing * right"),
        ("beta left out", DPO, "margin, smoothing = config.beta * gap,", "margin, smoothing = gap,"),
    )  # fmt: skip
    found += of(
        "ORPO",
        ("ratio for odds", FREE, "(good - log_1_minus_exp(good)) - (bad - log_1_minus_exp(bad))", "good - bad"),
        ("sums for means", FREE, "torch.where(real, side.means, -1.0)", "torch.where(real, side.sums, -1.0)"),
        ("sign of the odds", FREE, "-config.beta * F.logsigmoid(log_odds_ratio)", "-config.beta * F.logsigmoid(-log_odds_ratio)"),
        ("loss of the rejected", FREE, "nll = -read.means.chunk(2)[0]", "nll = -read.means.chunk(2)[1]"),
        ("sum for mean in the loss", FREE, "nll = -read.means.chunk(2)[0]", "nll = -read.sums.chunk(2)[0]"),
        ("empty answers not left out", FREE, "(log_odds_ratio) * real", "(log_odds_ratio)"),
        ("prompt in the odds", FREE, "tokens * (batch.targets != IGNORE)", "tokens"),
    )  # fmt: skip
    found += of(
        "SimPO",
        ("sums for means", FREE, "config.beta * (chosen.means - rejected.means) - config.gamma", "config.beta * (chosen.sums - rejected.sums) - config.gamma"),
        ("margin's sign", FREE, "- config.gamma", "+ config.gamma"),
        ("margin times beta", FREE, "- config.gamma", "- config.beta * config.gamma"),
        ("smoothing left out", FREE, "return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)", "return -F.logsigmoid(margin)"),
    )  # fmt: skip
    found += of(
        "CPO",
        ("means for sums", FREE, "config.beta * (chosen.sums - rejected.sums)", "config.beta * (chosen.means - rejected.means)"),
        ("no fine-tuning term", FREE, "(losses + config.nll_weight * nll)", "losses"),
        ("IPO of sums", FREE, "(chosen.means - rejected.means - 1", "(chosen.sums - rejected.sums - 1"),
    )  # fmt: skip
    found += of(
        "KTO",
        ("KL's sign", KTO, "(ratio - kl)", "(ratio + kl)"),
        ("KL left out", KTO, "(ratio - kl)", "ratio"),
        ("KL the other way", KTO, "return ours - sequence_log_probs(frozen, batch.other_ids, batch.other_targets)", "return sequence_log_probs(frozen, batch.other_ids, batch.other_targets) - ours"),
        ("KL not cut off at 0", KTO, ".mean().clamp(min=0)", ".mean()"),
        ("KL of matched answers", KTO, "ours = sequence_log_probs(model, batch.other_ids, batch.other_targets)\n        with self.reference.reading() as frozen:\n            return ours - sequence_log_probs(frozen, batch.other_ids, batch.other_targets)", "ours = sequence_log_probs(model, batch.ids, batch.targets)\n        with self.reference.reading() as frozen:\n            return ours - sequence_log_probs(frozen, batch.ids, batch.targets)"),
        ("KL takes a gradient", KTO, "            kl = self._step_kl\n            if kl is None:\n                kl = self._differences(model, batch).mean().clamp(min=0)\n", "            kl = self._step_kl\n        if kl is None:\n            kl = self._differences(model, batch).mean().clamp(min=0)\n        with torch.no_grad():\n"),
        ("answers stand in for themselves", "data/feedback.py", "others = [self.examples[self._other(number, step)] for", "others = [self.examples[number] for"),
        ("weights swapped", KTO, "[config.desirable_weight, config.undesirable_weight]", "[config.undesirable_weight, config.desirable_weight]"),
        ("bad answers as good ones", KTO, "2 * desirable.to(ratio) - 1", "torch.ones_like(ratio)"),
        ("reference is the model", KTO, "reference = sequence_log_probs(frozen, batch.ids", "reference = sequence_log_probs(model, batch.ids"),
        ("reference not frozen", REFERENCE, "else freeze(model)", "else model"),
    )  # fmt: skip
    found += of(
        "reward model",
        ("score before the last token", "data/scored.py", "[len(row) - 1 for row in rows]", "[len(row) - 2 for row in rows]"),
        ("score of the padding", "data/scored.py", "[len(row) - 1 for row in rows]", "[max(map(len, rows)) - 1 for row in rows]"),
        ("margin's sign", REWARD, "(chosen - rejected - margins)", "(chosen - rejected + margins)"),
        ("margin lost", REWARD, "(chosen - rejected - margins)", "(chosen - rejected)"),
        ("chosen and rejected swapped", REWARD, "-F.logsigmoid(chosen - rejected", "-F.logsigmoid(rejected - chosen"),
        ("difference centred, not the sum", REWARD, "centering * (chosen + rejected)", "centering * (chosen - rejected)"),
        ("counted twice", REWARD, "ObjectiveOutput(losses.sum(), len(losses), metrics", "ObjectiveOutput(losses.sum(), 2 * len(losses), metrics"),
        ("head not in the folder's rules", "models/families/__init__.py", "if config.score_head else []", "if False else []"),
    )  # fmt: skip
    found += of(
        "shared prompts",
        ("the prompt's padding is seen", SHARED, "past = (order < done + lengths", "past = (order <= done + lengths"),
        ("positions begin at the end's start", SHARED, "positions = plan.starts.unsqueeze(1) + places", "positions = 0 * plan.starts.unsqueeze(1) + places"),
        ("the end sees its future", SHARED, "own = (places <= places.unsqueeze(1))", "own = (places <= places.unsqueeze(1) + 1)"),
        ("the prompt takes no gradient", SHARED, "SharedPast(keys, values,", "SharedPast(keys.detach(), values.detach(),"),
        ("another's prompt", SHARED, "owners.append(known[key])", "owners.append(0)"),
        ("every token: first that differs left out", REWARD, "return torch.minimum(same, shortest)", "return torch.minimum(same + 1, shortest)"),
        ("every token: ended answers count on", REWARD, "(steps < counts.unsqueeze(1))", "(steps >= 0)"),
    )  # fmt: skip
    found += of(
        "process reward",
        ("labels the other way", REWARD, "torch.where(right, scores, -scores)", "torch.where(right, -scores, scores)"),
        ("averaged over tokens", REWARD, "count = len(scores)", "count = batch.labels.numel()"),
        ("steps judged a token early", REWARD, "hidden[judged]", "hidden.roll(1, dims=1)[judged]"),
    )  # fmt: skip
    found += of(
        "SFT",
        ("prompt not masked", "data/loader.py", "np.where(trained, following, IGNORE)", "following"),
        ("first answer token lost", "data/loader.py", "self.shard.mask[start + 1 : start + 1 + length]", "self.shard.mask[start : start + length]"),
        ("averaged over all places", "training/next_token.py", "weight = (batch.targets != IGNORE).sum()", "weight = batch.targets.numel()"),
        ("documents see each other", "training/next_token.py", "batch.ids, documents=batch.documents, auxiliary=auxiliary)\n        weight", "batch.ids, auxiliary=auxiliary)\n        weight"),
    )  # fmt: skip
    found += of(
        "NEFTune",
        ("no root", "tuning/neftune.py", "numbers.to(embedded.dtype).sqrt()", "numbers.to(embedded.dtype)"),
        ("noise in evaluation", "tuning/neftune.py", "if not model.training:", "if False:"),
        ("length of the row", "tuning/neftune.py", "document_lengths(batch.documents) *", "torch.full_like(batch.documents, batch.ids.shape[1]) *"),
    )  # fmt: skip
    found += of(
        "GRPO",
        ("KL's sign", GRPO, "losses + config.kl_beta * divergence", "losses - config.kl_beta * divergence"),
        ("KL the other way", GRPO, "difference = reference - log_probs", "difference = log_probs - reference"),
        ("no clip", GRPO, "-torch.minimum(ratio * advantage, clipped * advantage)", "-(ratio * advantage)"),
        ("no minimum", GRPO, "-torch.minimum(ratio * advantage, clipped * advantage)", "-(clipped * advantage)"),
        ("sequence ratio without length", GRPO, " / mask.sum(dim=-1, keepdim=True).clamp(min=1)", ""),
        ("deviation left out", GRPO, "    if scale:\n", "    if False:\n"),
        ("loss of masked places", GRPO, "torch.where(mask, losses, torch.zeros_like(losses)).sum", "losses.sum"),
    )  # fmt: skip
    found += of(
        "RLOO",
        ("own answer not left out", RLOO, "reward.sum(dim=-1, keepdim=True)) / (size - 1)", "reward.sum(dim=-1, keepdim=True)) / size"),
        ("mean for sum", RLOO, "new = log_probs.sum(dim=-1, keepdim=True)", "new = log_probs.mean(dim=-1, keepdim=True)"),
    )  # fmt: skip
    found += of(
        "PPO",
        ("no lambda", PPO, "delta + gamma * gae_lambda * running", "delta + gamma * running"),
        ("minimum of the value's errors", PPO, "torch.maximum(errors, (held - returns) ** 2)", "torch.minimum(errors, (held - returns) ** 2)"),
        ("KL in both", PPO, 'in_loss = config.kl_in == "loss" and', "in_loss ="),
    )  # fmt: skip
    found += of(
        "PPO",
        ("no gamma", PPO, "rewards[:, t] + gamma * following", "rewards[:, t] + following"),
        ("values of masked places follow", PPO, "following = torch.where(here, values[:, t], following)", "following = values[:, t]"),
        ("grade at the first token", PPO, "last = max(place", "last = min(place"),
        ("grade behind the answer", PPO, "rewards[row, last] += grade", "rewards[row, -1] += grade"),
        ("KL's sign in the reward", PPO, "= -torch.tensor(lost", "= torch.tensor(lost"),
        ("values a token late", PPO, "row[start : start + len(answer.token_ids)]", "row[start + 1 : start + 1 + len(answer.token_ids)]"),
        ("advantages for returns", PPO, "torch.where(mask, returns, 0.0)", "torch.where(mask, advantages, 0.0)"),
        ("returns without the values", PPO, "returns = advantages + values", "returns = advantages"),
        ("weight of the KL adapts the wrong way", PPO, "min(0.2, max(-0.2, kl / target - 1))", "min(0.2, max(-0.2, 1 - kl / target))"),
        ("whitening without its mean", RLOO, "white = (values - mean) / (deviation + eps)", "white = values / (deviation + eps)"),
    )  # fmt: skip
    found += of(
        "PPO's loss",
        ("ratio clipped on one side", PPO, "clip_low=config.clip,", "clip_low=0.999,"),
        ("value clipped around the return", PPO, "torch.maximum(values, old_values - clip), old_values + clip", "torch.maximum(values, returns - clip), returns + clip"),
        ("value never clipped", PPO, "if clip is not None:", "if False:"),
        ("value loss not halved", PPO, "return errors / 2", "return errors"),
        ("value loss not weighted", PPO, "config.value_weight * errors", "errors"),
        ("padding and prompts counted", PPO, "torch.where(mask, values, torch.zeros_like(values)).sum()", "values.sum()"),
        ("reference is the model", PPO, "                    frozen, batch.ids, batch.targets", "                    model, batch.ids, batch.targets"),
        ("KL the other way", GRPO, "difference = reference - log_probs", "difference = log_probs - reference"),
        ("advantage of the old value", PPO, "            batch.advantages,\n", "            batch.advantages - batch.old_values,\n"),
    )  # fmt: skip
    found += of(
        "minibatches",
        ("each pass deals alike", "tuning/policy/rollouts.py", "* config.updates_per_rollout + done) * total", "* config.updates_per_rollout) * total"),
        ("weight of the whole rollout", "tuning/policy/rollouts.py", "self._weight(dealt)", "self._weight(self._answers)"),
        ("last answers left out", "tuning/policy/rollouts.py", "(part + 1) * total // config.minibatches", "(part + 1) * (total // config.minibatches)"),
        ("an idle rank trains", "tuning/policy/rollouts.py", "if not dealt:", "if False:"),
    )  # fmt: skip
    found += of(
        "distillation",
        ("KL the other way", DIVERGENCE, "        return _kl(log_p, log_q)\n", "        return _kl(log_q, log_p)\n"),
        ("reverse KL forward", DIVERGENCE, "        return _kl(log_q, log_p)\n", "        return _kl(log_p, log_q)\n"),
        ("no T^2", DIVERGENCE, "return _between(log_p, log_q, kind, js_beta) * temperature**2", "return _between(log_p, log_q, kind, js_beta)"),
        ("no T^2 in the cache's", DIVERGENCE, "return _between(log_p, chosen, kind, js_beta) * temperature**2", "return _between(log_p, chosen, kind, js_beta)"),
        ("temperature of the student alone", DIVERGENCE, "teacher.detach().to(wide) / temperature", "teacher.detach().to(wide)"),
        ("JS's shares swapped", DIVERGENCE, "js_beta * _kl(log_p, mixed) + (1 - js_beta) * _kl(log_q, mixed)", "(1 - js_beta) * _kl(log_p, mixed) + js_beta * _kl(log_q, mixed)"),
        ("the rest left out", DIVERGENCE, "log_p = torch.cat([log_p, rest.to(wide)], dim=-1)", "log_p = torch.cat([log_p, rest.to(wide) - 60], dim=-1)"),
        ("all places learnt", DISTILL, "(batch.targets.reshape(-1) != IGNORE).nonzero()", "(batch.targets.reshape(-1) != 10**9).nonzero()"),
        ("averaged over all places", DISTILL, "weight = len(wanted)", "weight = batch.targets.numel()"),
        ("shares of the losses swapped", DISTILL, "loss = (1 - config.hard_weight) * soft", "loss = config.hard_weight * soft"),
        ("teacher not frozen", DISTILL, "None if teacher is None else freeze(teacher)", "teacher"),
        ("teacher is the student", DISTILL, "hidden = self.teacher.hidden_states(batch.ids, documents=documents)", "hidden = model.hidden_states(batch.ids, documents=documents)"),
        ("teacher sees all documents", DISTILL, "self.teacher.hidden_states(batch.ids, documents=documents)", "self.teacher.hidden_states(batch.ids)"),
        ("hidden distance summed", DISTILL, "** 2).mean(dim=-1)", "** 2).sum(dim=-1)"),
        ("padded vocabulary counted", DISTILL, "logits = model.logits(student)[:, : self.vocab_size]", "logits = model.logits(student)"),
    )  # fmt: skip
    few = {("KTO", "KL's sign"), ("ORPO", "ratio for odds"), ("DPO", "reference not frozen")}
    few |= {("reward model", "score before the last token"), ("SimPO", "sums for means")}
    few |= {("PPO's loss", "ratio clipped on one side"), ("distillation", "no T^2")}
    return [bug._replace(few=bug.few or bug[:2] in few) for bug in found]


def source(bug: Bug, root: Path = ROOT) -> Path:
    """The file that a bug is planted in."""
    return root / "src" / "glassbox" / bug.file


def misplaced(bugs: list[Bug]) -> list[str]:
    """Bugs whose `old` does not stand exactly once in its file: the source has moved on."""
    return [
        f"{bug.objective}: {bug.what}"
        for bug in bugs
        if source(bug).read_text(encoding="utf-8").count(bug.old) != 1
    ]


def idle_words(bugs: list[Bug]) -> list[str]:
    """Words by which an objective chooses tests (-k) and that are in none of its files: tests moved away."""
    found = []
    support = Path(__file__).parent.glob("*parity.py")
    cases = "".join(path.read_text(encoding="utf-8") for path in support).lower()
    for tests in sorted({bug.tests for bug in bugs}):
        files = [word for word in tests if word.endswith(".py")]
        text = cases + "".join((ROOT / file).read_text(encoding="utf-8") for file in files).lower()
        wanted = re.findall(r"\w+", tests[-1]) if "-k" in tests else []
        found += [
            f"{word} in {' '.join(files)}"
            for word in wanted
            if word not in ("and", "or", "not") and word.lower() not in text
        ]
    return found


def copy_tree(target: Path) -> None:
    """Source and tests, without what Python compiled of them."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", target)


def run_tests(folder: Path, words: tuple[str, ...]) -> int:
    """pytest's exit code in a copy, from a fork of this process."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        import pytest

        os.chdir(folder)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder / "src"))
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "--rootdir",
            str(folder),
        ]
        code = int(pytest.main([*options, *words]))
    finally:
        os._exit(code)


def preload() -> None:
    """What every child would import for itself; nothing of Glassbox is among it."""
    import datasets  # noqa: F401
    import hypothesis  # noqa: F401
    import torch
    import transformers
    from trl.experimental.cpo import cpo_trainer  # noqa: F401
    from trl.experimental.gkd import gkd_trainer  # noqa: F401
    from trl.experimental.orpo import orpo_trainer  # noqa: F401
    from trl.trainer import dpo_trainer, grpo_trainer, kto_trainer, reward_trainer, sft_trainer  # noqa: F401

    torch.set_num_threads(1)
    assert transformers.LlamaForCausalLM  # they are imported when they are asked for
    assert transformers.LlamaForSequenceClassification
    assert "glassbox" not in sys.modules


VERDICTS = {0: "NOT CAUGHT", 1: "caught"}


def plant(bugs: list[Bug]) -> list[str]:
    """Names of the bugs that no test caught, or that broke more than a test; prints each verdict."""
    preload()
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for words in sorted({bug.tests for bug in bugs}):
            code = run_tests(folder, words)
            if code:
                print(f"without a bug {' '.join(words)} ends with {code}", flush=True)
                failed.append(" ".join(words))
        for bug in bugs:
            path = source(bug, folder)
            whole = path.read_text(encoding="utf-8")
            path.write_text(whole.replace(bug.old, bug.new, 1), encoding="utf-8")
            code = run_tests(folder, bug.tests)
            path.write_text(whole, encoding="utf-8")
            print(
                f"{bug.objective:16} {bug.what:36} {VERDICTS.get(code, f'broken ({code})')}",
                flush=True,
            )
            if code != 1:
                failed.append(f"{bug.objective}: {bug.what}")
    return failed


def main(arguments: list[str] | None = None) -> int:
    """0 where every bug was caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", default="", help="bugs whose `objective: name` has this regular expression"
    )
    parser.add_argument("--few", action="store_true", help="those of continuous integration")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    options = parser.parse_args(arguments)
    bugs = [
        bug
        for bug in all_bugs()
        if re.search(options.only, f"{bug.objective}: {bug.what}") and (bug.few or not options.few)
    ]
    if options.list:
        print("\n".join(f"{bug.objective}: {bug.what}" for bug in bugs))
        return 0
    moved = misplaced(bugs)
    if moved:
        print("not to be planted, their source has changed:", *moved, sep="\n  ")
        return 1
    if idle := idle_words(bugs):
        print("no tests have these words any more:", *idle, sep="\n  ")
        return 1
    failed = plant(bugs)
    print(f"{len(bugs) - len(failed)} of {len(bugs)} planted bugs caught")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
