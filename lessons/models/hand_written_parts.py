"""The parts of a language model and of its training by hand, each beside torch's own.

    python hand_written_parts.py

Each line names a part and the largest difference from torch, relative to torch's largest value: of
the outputs, and of the gradients (or, for an optimizer, of the weights after twenty steps). It needs torch alone.

Axes are moved here with view, transpose and unflatten, and the shape stands in a comment. einops
and einx write the axes into a string instead ("b t (h d) -> b h t d"), which some find clearer.
These files do without: it would be a second notation to learn and one more package to install, the
string is parsed at run time, and the five or six moves that a transformer needs are soon known.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---------------------------------------------------------------------------- functions of tensors


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., I) times the rows of weight (O, I), plus bias (O): (..., O)."""
    return x @ weight.t() + bias


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Row ids[...] of weight (V, D): (..., D)."""
    return weight[ids]


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum exp(x) over the last axis. The maximum is taken off first: exp(1000) is inf."""
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] = log sum exp(logits) - logits[target]. (N, V), (N).

    The logarithm of a softmax that was computed first would be log 0 where it rounds to zero.
    """
    top = logits.amax(-1, keepdim=True)
    log_sum = (logits - top).exp().sum(-1).log() + top.squeeze(-1)  # (N)
    return (log_sum - logits.gather(-1, targets[:, None]).squeeze(-1)).mean()


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (D)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rope(x: Tensor, base: float = 10000.0) -> Tensor:
    """Turn the pair (2i, 2i + 1) at position t by t * base^(-2i / D). x: (T, D)."""
    length, width = x.shape
    rates = base ** (-torch.arange(0, width, 2) / width)  # (D / 2)
    angles = torch.arange(length)[:, None] * rates  # (T, D / 2)
    even, odd = x[:, 0::2], x[:, 1::2]
    turned_even = even * angles.cos() - odd * angles.sin()
    turned_odd = even * angles.sin() + odd * angles.cos()
    return torch.stack([turned_even, turned_odd], dim=-1).flatten(1)


def rope_complex(x: Tensor, base: float = 10000.0) -> Tensor:
    """torch has no RoPE; its complex numbers do it: (even + i odd) times e^(i angle)."""
    length, width = x.shape
    rates = base ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    pairs = torch.view_as_complex(x.reshape(length, -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(1)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down (silu(gate x) * up x) with silu(z) = z / (1 + e^-z). Weights (F, D), (F, D), (D, F)."""
    gated = x @ gate.t()
    return (gated / (1 + (-gated).exp()) * (x @ up.t())) @ down.t()


def swiglu_torch(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def clip_gradients(params: list[nn.Parameter], limit: float) -> float:
    """Multiply all gradients by limit / norm where their joint length `norm` is over the limit."""
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in params))
    for p in params:
        p.grad *= min(1.0, limit / (norm + 1e-6))
    return norm


# ---------------------------------------------------------------------------------------- modules


class Linear(nn.Module):
    """A matrix and a shift, drawn as torch draws them: uniform within 1 / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A table with a row for each token, drawn from a standard normal distribution."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab, width))

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight)


# ------------------------------------------------------------------------- optimizers and schedules


class SGD:
    """w -= lr / sqrt(t + 1) * gradient in step t = 0, 1, ...: large steps first, then smaller."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        self.params, self.lr, self.t = params, lr, 0

    @torch.no_grad()
    def step(self) -> None:
        for p in self.params:
            p -= self.lr / math.sqrt(self.t + 1) * p.grad
        self.t += 1


class AdamW:
    """Mean gradient over root mean square gradient; the decay shrinks weights on its own."""

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        decay: float = 0.1,
    ) -> None:
        self.params, self.lr, self.betas, self.eps, self.decay = params, lr, betas, eps, decay
        self.t = 0
        self.means = [torch.zeros_like(p) for p in params]
        self.squares = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        first, second = self.betas
        for p, mean, square in zip(self.params, self.means, self.squares, strict=True):
            p *= 1 - self.lr * self.decay
            mean.copy_(first * mean + (1 - first) * p.grad)
            square.copy_(second * square + (1 - second) * p.grad.square())
            unbiased_mean = mean / (1 - first**self.t)  # both averages began at zero
            unbiased_square = square / (1 - second**self.t)
            p -= self.lr * unbiased_mean / (unbiased_square.sqrt() + self.eps)


def cosine(step: int, top: float, bottom: float, steps: int) -> float:
    """Half a cosine from `top` at step 0 down to `bottom` at step `steps`."""
    return bottom + (top - bottom) * (1 + math.cos(math.pi * step / steps)) / 2


# ------------------------------------------------------------------------------- beside torch's own


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in parts of the largest of torch's values."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(
    name: str, ours: Callable, theirs: Callable, *inputs: Tensor
) -> tuple[str, float, float]:
    """Differences of the outputs and of the gradients by all floating-point inputs."""
    outcomes = []
    for function in (ours, theirs):
        copies = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        out = function(*copies)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        outcomes.append([out, *(x.grad for x in copies if x.grad is not None)])
    gaps = [relative(a, b) for a, b in zip(*outcomes, strict=True)]
    return name, gaps[0], max(gaps[1:])


def train_twice(name: str, ours: Callable, theirs: Callable) -> tuple[str, float, float]:
    """Two equal networks, twenty steps each: differences of the last losses and of all weights."""
    results = []
    x, y = torch.randn(64, 8), torch.randn(64, 1)
    for make in (ours, theirs):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        step = make(list(model.parameters()))
        for _ in range(20):
            model.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            step()
        results.append((loss, nn.utils.parameters_to_vector(model.parameters())))
    gaps = [relative(a, b) for a, b in zip(*results, strict=True)]
    return name, gaps[0], gaps[1]


def torch_sgd(params: list[nn.Parameter]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(params, lr=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(t + 1))
    return lambda: (optimizer.step(), decay.step())


def clipping() -> tuple[str, float, float]:
    """Gradients after our clipping and after torch's; the first figure is of the norms returned."""
    pairs = []
    for clip in (clip_gradients, nn.utils.clip_grad_norm_):
        params = [nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(7))]
        for p in params:
            p.grad = torch.linspace(-2, 3, p.numel()).view(p.shape)
        norm = clip(params, 1.0)
        pairs.append((torch.as_tensor(norm), torch.cat([p.grad.flatten() for p in params])))
    gaps = [relative(a, b) for a, b in zip(*pairs, strict=True)]
    return "clipping by norm", gaps[0], gaps[1]


def schedule() -> tuple[str, float, float]:
    """Two hundred learning rates; the second figure is of those that fall fastest."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200, eta_min=3e-4)
    gaps = []
    for step in range(200):
        rate = optimizer.param_groups[0]["lr"]
        gaps.append(abs(cosine(step, 3e-3, 3e-4, 200) / rate - 1))
        optimizer.step()
        theirs.step()
    return "cosine schedule", max(gaps), max(gaps[90:110])


def rows() -> Iterator[tuple[str, float, float]]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 8), torch.randn(5, 8), torch.randn(5)
    yield compare("Linear", linear, F.linear, x, weight, bias)
    ids = torch.randint(10, (4, 6))
    yield compare(
        "Embedding", lambda w: embedding(ids, w), lambda w: F.embedding(ids, w), torch.randn(10, 8)
    )
    scores, targets = torch.randn(6, 11) * 30, torch.randint(11, (6,))
    yield compare("softmax", softmax, lambda s: s.softmax(-1), scores / 10)
    yield compare("cross-entropy", cross_entropy, F.cross_entropy, scores, targets)
    scale = torch.randn(8)
    yield compare("RMSNorm", rms_norm, lambda x, w: F.rms_norm(x, (8,), w, 1e-5), x, scale)
    yield compare("RoPE", rope, rope_complex, x)
    ffn = torch.randn(12, 8), torch.randn(12, 8), torch.randn(8, 12)
    yield compare("SwiGLU", swiglu, swiglu_torch, x, *ffn)
    yield train_twice("SGD, decaying rate", lambda params: SGD(params, 0.1).step, torch_sgd)
    yield train_twice(
        "AdamW",
        lambda params: AdamW(params, 1e-2).step,
        lambda params: torch.optim.AdamW(params, 1e-2, (0.9, 0.95), 1e-8, 0.1).step,
    )
    yield schedule()
    yield clipping()


def main() -> None:
    print(f"{'part':<20}{'outputs':>10}{'gradients':>12}   largest difference from torch, relative")
    for name, outputs, gradients in rows():
        print(f"{name:<20}{outputs:>10.1e}{gradients:>12.1e}")
    print(
        "SGD and AdamW: last loss and weights after 20 steps; schedule: all rates and the middle's;"
    )
    print("clipping: the norm and the gradients. float32 has about 7 digits: 1e-6 is its rounding.")
    torch.manual_seed(0)
    ours = Linear(8, 5)
    torch.manual_seed(0)
    theirs = nn.Linear(8, 5)
    print(
        f"Linear draws torch's own numbers from the same seed: {torch.equal(ours.weight, theirs.weight)}"
    )
    torch.manual_seed(0)
    table = Embedding(10, 8).weight
    torch.manual_seed(0)
    print(f"Embedding likewise: {torch.equal(table, nn.Embedding(10, 8).weight)}")


if __name__ == "__main__":
    main()
