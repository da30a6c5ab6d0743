"""SGD, Lion and Adafactor against torch.optim and the papers' loops; every optimizer's resume."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import nn

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adafactor import Adafactor
from glassbox.optim.adamw import AdamW, AdamWConfig
from glassbox.optim.groups import ParameterGroup
from glassbox.optim.lion import Lion
from glassbox.optim.schedules.cosine_restarts import CosineRestarts
from glassbox.optim.schedules.inverse_root import InverseRoot
from glassbox.optim.schedules.warmup_stable_decay import WarmupStableDecay
from glassbox.optim.sgd import Sgd, SgdDecay
from glassbox.optim.specs import OptimizerConfig

SHAPES = {"matrix": (5, 3), "wide": (2, 7), "vector": (4,), "stack": (2, 3, 4)}
CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # float64; the order of products differs


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES.values()]


def side_by_side(ours, group, theirs, mine, other, steps: int = 6) -> None:
    for step in range(steps):
        for tensors in (mine.values(), other.values()):
            for parameter, gradient in zip(tensors, gradients(step), strict=True):
                parameter.grad = gradient.clone()
        ours.step(0.03)
        theirs.step()
        for name in SHAPES:
            torch.testing.assert_close(mine[name], other[name], **CLOSE)


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_torchs(momentum: float, nesterov: bool, decay: float) -> None:
    mine, other = parameters(), parameters()
    group = ParameterGroup(mine, decay)
    ours = Sgd([group], momentum=momentum, nesterov=nesterov)
    theirs = torch.optim.SGD(
        other.values(), lr=0.03, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    side_by_side(ours, group, theirs, mine, other)


def test_sgd_whose_rate_falls_with_the_root_of_the_step() -> None:
    mine = parameters()
    expected = {name: p.detach().clone() for name, p in mine.items()}
    ours = SgdDecay([ParameterGroup(mine)])
    for step in range(5):
        for (name, parameter), gradient in zip(mine.items(), gradients(step), strict=True):
            parameter.grad = gradient
            expected[name] -= 0.3 / math.sqrt(step + 1) * gradient
        ours.step(0.3)
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.detach(), expected[name], **CLOSE)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adafactor_is_torchs(decay: float) -> None:
    mine, other = parameters(), parameters()
    group = ParameterGroup(mine, decay)
    theirs = torch.optim.Adafactor(other.values(), lr=0.03, weight_decay=decay)
    side_by_side(Adafactor([group]), group, theirs, mine, other)


def test_lion_is_the_papers_loop() -> None:
    """Algorithm 2: update from the interpolation, decay beside it, then the momentum."""
    mine = parameters()
    expected = {name: p.detach().clone() for name, p in mine.items()}
    momenta = {name: torch.zeros_like(p) for name, p in expected.items()}
    ours = Lion([ParameterGroup(mine, 0.2)], betas=(0.9, 0.99))
    for step in range(6):
        for (name, parameter), gradient in zip(mine.items(), gradients(step), strict=True):
            parameter.grad = gradient
            c = 0.9 * momenta[name] + (1 - 0.9) * gradient
            expected[name] = expected[name] - 0.03 * (torch.sign(c) + 0.2 * expected[name])
            momenta[name] = 0.99 * momenta[name] + (1 - 0.99) * gradient
        ours.step(0.03)
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.detach(), expected[name], **CLOSE)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("decay", ["cautious", "independent"])
def test_other_decays_of_adamw_are_their_loops(decay: str, foreach: bool) -> None:
    mine = parameters()
    expected = {name: p.detach().clone() for name, p in mine.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in expected.items()}
    ours = AdamW([ParameterGroup(mine, 0.2)], foreach=foreach, decay=decay)
    differs = False
    for step in range(6):
        for (name, parameter), gradient in zip(mine.items(), gradients(step), strict=True):
            parameter.grad = gradient
            first, second = moments[name]
            first = 0.9 * first + 0.1 * gradient
            second = 0.95 * second + 0.05 * gradient**2
            moments[name] = (first, second)
            update = first / (1 - 0.9 ** (step + 1))
            update = update / ((second / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
            weight = expected[name]
            if decay == "independent":
                expected[name] = weight * (1 - 0.2) - 0.03 * update
            else:
                agrees = (update * weight >= 0).double()
                differs |= 0 < float(agrees.mean()) < 1
                expected[name] = weight - 0.03 * (update + 0.2 * agrees * weight)
        ours.step(0.03)
    assert differs or decay == "independent"
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-10, atol=1e-12)


def test_eight_bits_take_the_usual_decay_alone() -> None:
    with pytest.raises(UserError, match=r"decay = 'cautious'.*bits = 8"):
        parse(AdamWConfig, {"bits": 8, "decay": "cautious"}, where="test")


def kinds() -> list[typing.Any]:
    union, *_ = typing.get_args(OptimizerConfig)
    # the user's own kinds have tests of their own
    found = [kind() for kind in typing.get_args(union) if not issubclass(kind, PythonSpec)]
    return [*found, AdamWConfig(decay="cautious"), AdamWConfig(bits=8)]


def small_model() -> CausalLM:
    torch.manual_seed(0)
    block = BlockSpec(mixer=GroupedQuery(num_heads=4, num_kv_heads=2), ffn=SwiGlu(size=20))
    return CausalLM(
        ModelConfig(
            vocab_size=30,
            hidden_size=16,
            context_length=8,
            blocks=(Repeat(block=block, times=1),),
        )
    )


@pytest.mark.parametrize("spec", kinds(), ids=lambda spec: spec.kind)
def test_every_optimizer_learns_and_resumes_to_the_same_bits(spec: typing.Any) -> None:
    def step(model: CausalLM, optimizer: typing.Any, number: int) -> float:
        ids = torch.arange(16).view(2, 8) % 7 + number % 2
        optimizer.zero_grad()
        loss = model.cross_entropy(model.hidden_states(ids[:, :-1]), ids[:, 1:]) / 14
        loss.backward()
        optimizer.step(0.003)
        return float(loss.detach())

    model = small_model()
    optimizer = spec.build(model)
    assert {id(p) for p in optimizer.parameters()} == {id(p) for p in model.parameters()}
    losses = [step(model, optimizer, number) for number in range(6)]
    assert losses[-1] < losses[0]
    resumed = small_model()
    resumed.load_state_dict(model.state_dict())
    again = spec.build(resumed)
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    again.load_state_dict(saved)
    for number in range(6, 9):
        assert step(model, optimizer, number) == step(resumed, again, number)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_a_cosine_with_restarts_is_torchs() -> None:
    for growth in (1, 2):
        schedule = CosineRestarts(first_steps=5, growth=growth, final_ratio=0.1)
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=5, T_mult=growth, eta_min=0.1
        )
        for step in range(40):
            assert schedule.factor(step, 1000) == pytest.approx(
                optimizer.param_groups[0]["lr"], abs=1e-12
            )
            optimizer.step()
            theirs.step()


def test_an_inverse_root_is_the_papers() -> None:
    """lrate = min(t^-0.5, t w^-1.5) of t = 1, 2, ..., over its largest, at t = w."""
    warmup = 9  # the tenth step is the peak
    schedule = InverseRoot(warmup_steps=warmup)
    for step in range(60):
        t, w = step + 1, warmup + 1
        paper = min(t**-0.5, t * w**-1.5) / w**-0.5
        assert schedule.factor(step, 1000) == pytest.approx(paper, abs=1e-12)


def test_a_plateau_and_a_fall() -> None:
    schedule = WarmupStableDecay(warmup_steps=4, decay_share=0.25, final_ratio=0.2)
    factors = [schedule.factor(step, 40) for step in range(41)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors[4:31] == [1.0] * 27
    fall = [0.2 + 0.8 * (1 - k / 10) for k in range(11)]
    assert factors[30:] == pytest.approx(fall, abs=1e-12)
    root = WarmupStableDecay(decay_share=0.25, shape="sqrt")
    assert root.factor(30, 40) == 1.0
    assert root.factor(35, 40) == pytest.approx(1 - math.sqrt(0.5), abs=1e-12)
    # transformers counts its own steps: its decay begins behind the plateau
    from transformers import get_wsd_schedule

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_wsd_schedule(
        optimizer, 0, 10, num_stable_steps=30, decay_type="linear", min_lr_ratio=0.2
    )
    plain = WarmupStableDecay(decay_share=0.25, final_ratio=0.2)
    for step in range(40):
        assert plain.factor(step, 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
