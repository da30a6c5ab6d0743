"""GPTQ, AWQ and pruning against their equations as loops, and on a whole model."""

from __future__ import annotations

import pytest
import torch

from glassbox.compression import IntegerCodes, compress, draw_windows, plan_for, prune, quantize
from glassbox.compression.awq import ALPHAS, SHRINKS, awq, channel_scales, clipping, output_error
from glassbox.compression.calibration import Calibration, block_by_block
from glassbox.compression.gptq import gptq, gptq_plain
from glassbox.compression.pruning import mask_n_of_m, mask_of_rows, wanda_scores
from glassbox.compression.swap import coded_layers, plan_of
from glassbox.core.errors import UserError
from glassbox.layers.delta_net import GatedDelta
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.config import BlockSpec
from support.small_models import SIZE, small_model, some_ids


def problem(rows: int = 6, columns: int = 40, seed: int = 0):
    """A matrix, correlated inputs of very different size, and their second moments."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = torch.exp(torch.randn(columns, generator=generator))
    x = torch.randn(300, columns, generator=generator) @ mixing * sizes + sizes
    return weight, x, x.T @ x


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 8), (4, None), (8, 16)])
def test_gptq_is_the_equations(bits, group, symmetric, act_order, monkeypatch):
    weight, _, hessian = problem()
    hessian[3], hessian[:, 3] = 0, 0  # an input that was always 0
    codes = IntegerCodes(bits=bits, group=group, symmetric=symmetric, scales="float32")
    expected = gptq_plain(weight, hessian, codes, act_order=act_order)
    for block in (128, 12):  # groups that end inside a block, at its end and beyond it
        monkeypatch.setattr("glassbox.compression.gptq._BLOCK", block)
        found = gptq(weight, hessian, codes, act_order=act_order)
        for name, part in expected.items():
            assert torch.equal(found[name], part), (block, name)


@pytest.mark.parametrize("group", [8, None])
def test_gptq_and_awq_leave_less_error_than_rounding(group):
    weight, x, hessian = problem(16, 64)
    codes = IntegerCodes(bits=4, group=group, symmetric=False)

    def error(wide: torch.Tensor) -> float:
        return float(((x @ (wide - weight).T) ** 2).sum())

    rounded = codes.decode(codes.encode(weight), 64)
    assert output_error(rounded - weight, hessian) == pytest.approx(error(rounded), rel=1e-4)
    by_gptq = codes.decode(gptq(weight, hessian, codes, act_order=True), 64)
    assert error(by_gptq) < 0.7 * error(rounded)
    found = awq(weight, hessian, x.abs().mean(0), codes)
    scales = torch.ones(64) if found.input_scales is None else found.input_scales
    by_awq = codes.decode(found.parts, 64) * scales
    assert error(by_awq) < 0.95 * error(rounded)


def test_awq_is_the_search_over_inputs():
    weight, x, hessian = problem(4, 24)
    codes = IntegerCodes(bits=4, group=8, symmetric=False, scales="float32")
    magnitudes = x.abs().mean(0)
    found = awq(weight, hessian, magnitudes, codes)
    errors = []
    for alpha in ALPHAS:
        s = magnitudes**alpha
        s = s / (s.max() * s.min()).sqrt()
        torch.testing.assert_close(channel_scales(magnitudes, alpha), s, rtol=1e-4, atol=1e-5)
        parts = codes.encode(weight * s)
        y = (x / s) @ codes.decode(parts, 24).T
        errors.append(float(((y - x @ weight.T) ** 2).sum()))
    assert errors[ALPHAS.index(found.alpha)] == pytest.approx(min(errors), rel=1e-3)
    # clipping: of each row and group the factor whose products are nearest
    s = channel_scales(magnitudes, found.alpha)
    scaled, seen = weight * s, x / s
    chosen = clipping(scaled, seen.T @ seen, codes)
    for o in range(4):
        for g in range(3):
            part, inputs = scaled[o : o + 1, g * 8 : g * 8 + 8], seen[:, g * 8 : g * 8 + 8]
            losses = {}
            for shrink in SHRINKS:
                grid = codes.grid(part, shrink)
                step, zero = grid.scales[0, 0], grid.zeros[0, 0]
                q = (torch.round(part / step) + zero).clamp(-8, 7)
                losses[shrink] = float(((inputs @ ((q - zero) * step - part).T) ** 2).sum())
            assert losses[min(losses, key=lambda f: abs(f - float(chosen[o, g])))] == pytest.approx(
                min(losses.values()), rel=1e-3
            )


def test_masks_are_the_definition():
    weight, x, _ = problem(5, 24)
    scores = wanda_scores(weight, (x**2).sum(0))
    torch.testing.assert_close(scores, weight.abs() * x.norm(dim=0))
    for share in (0.0, 0.25, 0.5):
        mask = mask_of_rows(scores, share)
        for row, kept in zip(scores, mask, strict=True):
            gone = int(share * 24)
            assert int((~kept).sum()) == gone
            if gone:
                assert float(row[~kept].max()) <= float(row[kept].min())
    mask = mask_n_of_m(scores)
    for row, kept in zip(scores.view(-1, 4), mask.view(-1, 4), strict=True):
        assert int(kept.sum()) == 2
        assert float(row[~kept].max()) <= float(row[kept].min())
    with pytest.raises(UserError, match="multiple of 4"):
        mask_n_of_m(torch.zeros(2, 6))
    with pytest.raises(UserError, match=r"sparsity = 1\.0"):
        mask_of_rows(scores, 1.0)


def text(seed: int = 3, count: int = 6) -> Calibration:
    documents = [row.tolist() for row in some_ids(4, 60, seed)]
    return draw_windows(documents, count=count, length=24, seed=seed, source="here")


def test_windows_are_seeded_and_hashed():
    same, other = text(), draw_windows([[1, 2, 3]], count=5, length=8, seed=0, source="x")
    assert torch.equal(text().ids, same.ids)
    assert text().sha256 == same.sha256 != text(4).sha256
    assert other.ids.tolist() == [[1, 2, 3]]
    assert set(same.describe()) == {"source", "seed", "windows", "window_tokens", "sha256"}
    with pytest.raises(UserError, match="give more"):
        draw_windows([[1]], count=1, length=8, seed=0, source="x")


def test_layers_see_what_the_compressed_blocks_before_them_give():
    model = small_model()
    calibration = text()
    seen_by: dict[str, torch.Tensor] = {}

    def change(path, layer, seen):
        seen_by[path] = seen.moments.clone()
        assert seen.rows == calibration.ids.numel()
        if path.startswith("blocks.0"):
            layer.weight.data.mul_(0.5)

    block_by_block(model, calibration, change, batch=4)
    # the second block's inputs, from the model as it now is
    inputs: list[torch.Tensor] = []
    model.blocks[1].mixer.qkv.register_forward_pre_hook(lambda m, x: inputs.append(x[0]))
    with torch.no_grad():
        model(calibration.ids)
    flat = inputs[0].flatten(0, 1)
    torch.testing.assert_close(seen_by["blocks.1.mixer.qkv"], flat.T @ flat, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_model_compressed_by_a_method_is_nearer_than_one_rounded(method, tied):
    ids, calibration = some_ids(4, 40, seed=9), text(count=40)
    with torch.inference_mode():
        expected = small_model(tied=tied)(ids)
    plan = plan_for(small_model(tied=tied), "int4-row")

    def distance(model) -> float:
        with torch.inference_mode():
            return float(((model(ids) - expected) ** 2).mean())

    rounded = distance(quantize(small_model(tied=tied), plan))
    model = compress(small_model(tied=tied), plan, method, calibration=calibration)
    assert distance(model) < 0.97 * rounded
    assert dict(plan_of(model).layers) == dict(plan.layers)
    assert model.made["method"] == method
    assert model.made["calibration"]["sha256"] == calibration.sha256


def test_hybrids_and_experts_are_compressed_where_they_have_linear_layers():
    mixture = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=64))
    block = BlockSpec(mixer=GatedDelta(num_heads=2, key_dim=32, value_dim=32), ffn=mixture)
    model = small_model(block=block)
    with torch.inference_mode():
        expected = model(some_ids())
    compress(model, plan_for(model, "int8-g32"), "gptq", calibration=text())
    paths = {path for path, _ in coded_layers(model)}
    assert "blocks.0.mixer.output" in paths
    assert not any("router" in path for path in paths)
    with torch.inference_mode():
        found = model(some_ids())
    assert float((found - expected).std()) < 0.1 * float(expected.std())


def test_methods_say_what_they_lack():
    model = small_model()
    plan = plan_for(model, "int4")
    with pytest.raises(UserError, match="needs calibration text"):
        compress(model, plan, "gptq")
    with pytest.raises(UserError, match="'best' is unknown; use one of rtn, gptq, awq"):
        compress(model, plan, "best")
    with pytest.raises(UserError, match="needs calibration text"):
        prune(model, 0.5, "wanda")


@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
def test_wanda_loses_less_than_magnitude(sparsity):
    ids, calibration = some_ids(4, 40, seed=9), text(count=40)

    # channels of very different size, which Wanda sees and magnitude does not
    def model():
        made = small_model()
        with torch.no_grad():
            for block in made.blocks:
                block.mixer_norm.weight.mul_(torch.logspace(-1, 1, SIZE))
                block.ffn_norm.weight.mul_(torch.logspace(-1, 1, SIZE))
        return made

    with torch.inference_mode():
        expected = model()(ids)
    errors = []
    for method in ("magnitude", "wanda"):
        pruned = prune(model(), sparsity, method, calibration=calibration)
        weight = pruned.blocks[1].ffn.down.weight
        assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
        assert not bool((pruned.embedding.weight == 0).any())
        with torch.inference_mode():
            errors.append(float(((pruned(ids) - expected) ** 2).mean()))
    assert errors[1] < errors[0]
