"""Our models against transformers' on the same random weights: each check returns what it measured.

A difference is relative: the largest entry of |ours - theirs| over the largest of |theirs|.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch.overrides import TorchFunctionMode
from transformers.core_model_loading import revert_weight_conversion

from glassbox.formats.huggingface import save_pretrained
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import (
    family_named,
    family_of,
    from_hf_config,
    from_hf_weights,
    to_hf_weights,
)
from glassbox.models.family import canonical
from glassbox.ops.cross_entropy import IGNORE
from support.families import Case

EXACT = 1e-9
"""The largest difference in float64 between two ways to compute the same, over the largest entry.

A rounding there is 1.1e-16 of a value, and a layer's sums, some thousands of terms that may cancel to a
thousandth of the largest, lose 1e3 * sqrt(1e4) * 1.1e-16 = 1e-11 of what is left: no order of summation
and no processor's instructions come near. A wrong factor or a missing term is off by far more.
"""


class InFloat64(TorchFunctionMode):
    """Inside, what a library casts to float32 for its precision stays in float64.

    transformers computes norms, softmaxes and recurrences in float32 whatever a model's dtype. A
    comparison in float32 then needs a tolerance that a gradient's cancellation, and a processor that
    sums otherwise, can break; in float64 `EXACT` does for all. Tensors made inside are float64 too.
    """

    def __enter__(self) -> InFloat64:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self.before)
        super().__exit__(*error)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = {torch.float32: torch.float64}
        args = tuple(wide.get(x, x) if isinstance(x, torch.dtype) else x for x in args)
        kwargs = {
            key: wide.get(x, x) if isinstance(x, torch.dtype) else x
            for key, x in (kwargs or {}).items()
        }
        return func(*args, **kwargs)


INERT = {
    # who wrote the file, and how it is to be run
    "architectures",
    "dtype",
    "transformers_version",
    "use_cache",
    # tokens, which come with a tokenizer
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}
"""Words of any config that change no output."""


HEADS = ("num_attention_heads", "n_head", "num_heads")
"""Their words for how many heads there are."""


def traits(case: Case) -> set[str]:
    """What a config has of the things that conversions get wrong."""
    words = transformers.AutoConfig.for_model(case.model_type, **case.words).to_dict()
    heads = next((words[key] for key in HEADS if words.get(key)), 2)
    groups = words.get("num_key_value_heads") or heads
    found = {"tied" if words["tie_word_embeddings"] else "untied"}
    found |= {"odd heads"} if heads % 2 else set()
    found |= {"grouped keys"} if groups < heads else set()
    biases = {value for key, value in words.items() if "bias" in key and isinstance(value, bool)}
    return found | {{True: "biases", False: "no biases"}[value] for value in biases}


def traits_of(cases: Iterable[Case]) -> str:
    """All traits of some configs, for a cell of the table."""
    return ", ".join(sorted(set().union(*(traits(case) for case in cases))))


def reference(case: Case, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    """Theirs, eager attention, every weight random (norms, biases and saved buffers too).

    In float64 what it computes from its config is so too; run it then inside `InFloat64`.
    """
    if case.since and Version(transformers.__version__) < Version(case.since):
        pytest.skip(
            f"transformers {transformers.__version__} has another model; {case.since} is right"
        )
    config = transformers.AutoConfig.for_model(case.model_type, **case.words)
    eager = {"attn_implementation": "eager"}
    exact = dtype == torch.float64
    with InFloat64() if exact else nullcontext():
        if exact:  # their grouped products know no float64
            eager["experts_implementation"] = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config, **eager)
    generator = torch.Generator().manual_seed(0)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            parameter.copy_(around + 0.15 * draw(parameter))
        computed = family_named(case.model_type).is_ignored  # from the config: not to be changed
        for name, buffer in model.named_buffers():
            if name in model.state_dict() and not computed(name):
                buffer.copy_(0.05 * draw(buffer))
    return model.to(dtype)


def as_in_files(
    theirs: transformers.PreTrainedModel, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Their tensors as their files hold them, which may be under other names and cut otherwise."""
    return revert_weight_conversion(theirs, tensors)


def ours_from(theirs: transformers.PreTrainedModel) -> CausalLM:
    """Ours with copies of their weights, so that a change of one side never shows on the other."""
    config = from_hf_config(theirs.config.to_dict())
    with torch.device("meta"):
        model = CausalLM(config)
    stored = as_in_files(theirs, theirs.state_dict())
    mapped = from_hf_weights(config, stored, family=family_named(theirs.config.model_type))
    state = {name: part.clone() for name, part in mapped.items()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_()


def ids_of(case: Case, batch: int = 2, length: int = 11) -> torch.Tensor:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(case.words["vocab_size"], (batch, length), generator=generator)


@torch.no_grad()
def difference(ours: torch.Tensor, theirs: torch.Tensor, *, floor: float = 0.0) -> float:
    """Largest |ours - theirs| over the largest |theirs|, or over `floor` where that is more."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), floor)


def config_words_lost(case: Case) -> list[str]:
    """Keys of their config that differ once it has been read as ours and written again.

    A null of theirs stands for a default, which ours may spell out.
    """
    theirs = transformers.AutoConfig.for_model(case.model_type, **case.words).to_dict()
    config = from_hf_config(theirs)
    words = family_named(case.model_type).to_hf_config(config)
    assert words is not None
    assert canonical(from_hf_config({"model_type": case.model_type, **words})) == canonical(config)
    again = transformers.AutoConfig.for_model(case.model_type, **words).to_dict()
    if again.get("rope_parameters"):
        again["rope_parameters"].pop("type", None)  # the older name of rope_type
    inert = {*INERT, *case.inert}
    said = {key for key, value in theirs.items() if value is not None} - inert
    return sorted(key for key in said if again.get(key) != theirs[key])


def logits_and_gradients(case: Case) -> tuple[float, float]:
    """Differences of logits, and of the gradients of the loss in all weights, the worst of them.

    In float64, where no processor's order of summation matters: what is left is that of our tables
    of positions, whose angles are in float32.
    """
    theirs = reference(case, torch.float64)
    ours = ours_from(theirs)
    ids = ids_of(case)
    with InFloat64():
        expected = theirs(input_ids=ids, labels=ids)
        expected.loss.backward()
    logits = ours(ids)
    targets = torch.cat((ids[:, 1:], torch.full((2, 1), IGNORE)), 1)
    loss = ours.cross_entropy(ours.hidden_states(ids), targets) / 20
    assert logits.dtype == expected.logits.dtype == loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected.loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    gradients = gradient_difference(ours, theirs, case.unreached)
    return difference(logits, expected.logits), gradients


def gradient_difference(
    ours: CausalLM, theirs: transformers.PreTrainedModel, unreached: tuple[str, ...] = ()
) -> float:
    """The worst of all weights; every gradient of theirs is there, and none is zero.

    Those of `unreached`, and of buffers, are zero or not there on both sides.
    """
    family = family_named(theirs.config.model_type)
    mapped = to_hf_weights(ours.config, gradients_of(ours), family=family)
    expected = as_in_files(theirs, gradients_of(theirs))
    own = dict(theirs.named_buffers())
    buffers = own.keys() | as_in_files(theirs, own).keys()
    for name in [name for name in buffers if family.is_ignored(name)]:
        expected.pop(name, None)  # computed from the config
    assert mapped.keys() == expected.keys()
    worst = 0.0
    for name, grad in expected.items():
        if name in buffers or any(part in name for part in unreached):
            assert not grad.any(), name
            assert not mapped[name].any(), name
            continue
        assert float(grad.abs().max()) > 0, name
        # a bias of the keys has an exact gradient of zero, and both libraries find their own
        # rounding error there: hence the floor
        worst = max(worst, difference(mapped[name], grad, floor=1e-2))
    return worst


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """name -> gradient, zero where there is none, of all weights and saved buffers."""
    saved = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    held = {**dict(model.named_parameters()), **buffers}
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in held.items()
    }


def greedy(case: Case, *, prompt: int = 5, new: int = 20) -> tuple[bool, float]:
    """Whether both generate the same tokens with their caches; the difference of the logits on the way."""
    theirs = reference(case)
    ours = ours_from(theirs)
    ids = ids_of(case, length=prompt)
    config = transformers.GenerationConfig(
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        use_cache=case.their_cache,
    )
    expected: Any = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    state = ours.init_state(2, prompt + new)
    tokens, step, start, steps = ids, ids, 0, []
    with torch.no_grad():
        for _ in range(new):
            positions = torch.arange(start, start + step.shape[1])[None]
            start += step.shape[1]
            logits = ours(step, positions=positions, state=state)[:, -1]
            steps.append(logits)
            step = logits.argmax(-1, keepdim=True)
            tokens = torch.cat((tokens, step), 1)
    same = tokens.tolist() == expected.sequences.tolist()
    return same, difference(torch.stack(steps), torch.stack(expected.logits))


def export_difference(case: Case, folder: Path) -> float:
    """What we write, opened by transformers: the same weights to the bit, and the logits' difference.

    A config that a plainer family can say is written in that family's words.
    """
    theirs = reference(case)
    ours = ours_from(theirs)
    save_pretrained(ours, folder)
    opened = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    family = family_of(ours.config)
    assert family is not None
    assert type(opened).__name__ == family.architecture
    again = ours_from(opened)
    assert canonical(again.config) == canonical(ours.config)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    ids = ids_of(case)
    with torch.no_grad():
        return difference(opened(ids).logits, theirs(ids).logits)
