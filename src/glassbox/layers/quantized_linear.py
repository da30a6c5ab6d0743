"""Linear and embedding layers whose matrix is kept in few bits and multiplied out of them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.weight_codes import Parts, WeightCodes, bands


class _Product(torch.autograd.Function):
    """x W^T of a matrix in codes: the gradient goes to x alone, by the widened matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: CodedMatrix) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return matrix.format.linear(x, matrix.parts()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        matrix: CodedMatrix = ctx.matrix
        total = torch.zeros(
            (*grad.shape[:-1], matrix.columns), dtype=grad.dtype, device=grad.device
        )
        start = 0
        for band in bands(matrix.parts(), matrix.columns):
            wide = matrix.format.decode(band, matrix.columns, grad.dtype)
            total += grad[..., start : start + len(wide)] @ wide
            start += len(wide)
        return total, None


class CodedMatrix(nn.Module):
    """The parts of a (rows, columns) matrix as buffers, and its product with activations.

    `pack` puts them in the order of this machine's kernels; what is saved is the plain order.
    """

    few_rows: ClassVar[bool] = False
    """Whether activations are a few rows as a rule."""

    def __init__(self, codes: WeightCodes, rows: int, columns: int) -> None:
        super().__init__()
        self.format = codes
        self.rows = rows
        self.columns = columns
        self.is_packed = False
        self._extra: tuple[str, ...] = ()
        self.names = tuple(codes.layout(rows, columns))
        for name, (shape, dtype) in codes.layout(rows, columns).items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def _held(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(name) for name in (*self.names, *self._extra)}

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.get_buffer(self.names[0]).device

    def parts(self) -> dict[str, Tensor]:
        """The parts in the plain order."""
        held = {name: self.get_buffer(name) for name in self.names}
        return self.format.unpack(held, self.columns) if self.is_packed else held

    def set_parts(self, parts: Parts) -> None:
        """Put these in the place of the parts, as they are."""
        for name in self.names:
            setattr(self, name, parts[name])

    def pack(self) -> None:
        """Put the parts in the kernels' order, if they have one here and this is not done."""
        if self.is_packed or self.get_buffer(self.names[0]).device.type != "cpu":
            return
        packed = self.format.pack(self.parts(), self.columns, few_rows=self.few_rows)
        if packed is None:
            return
        for name, part in packed.items():
            if name in self.names:
                setattr(self, name, part)
            else:
                self.register_buffer(name, part, persistent=False)
                self._extra = (*self._extra, name)
        self.is_packed = True

    def unpack(self) -> None:
        """Put the parts in the plain order again."""
        if self.is_packed:
            parts = self.parts()
            for name in self._extra:
                delattr(self, name)
            self._extra = ()
            self.set_parts(parts)
            self.is_packed = False

    @property
    def held_bytes(self) -> int:
        """Memory that the matrix takes now."""
        return sum(part.numel() * part.element_size() for part in self.buffers(recurse=False))

    def dense(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "O I"]:
        """The matrix, widened."""
        return self.format.decode(self.parts(), self.columns, dtype)

    def product(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """x W^T in x's dtype; derivatives go to x."""
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Product.apply(x, self)
            return y
        if self.is_packed:
            return self.format.packed_linear(x, self._held()).to(x.dtype)
        return self.format.linear(x, {name: self.get_buffer(name) for name in self.names}).to(
            x.dtype
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_packed:
            for name, part in self.parts().items():
                destination[prefix + name] = part

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> CodedMatrix:
        """Moves reach the parts, casts do not: a scale stays in the dtype that the codes say."""
        self.unpack()
        held = {name: self._buffers.pop(name) for name in self.names}
        super()._apply(fn, recurse)
        for name, part in held.items():
            assert part is not None
            self._buffers[name] = fn(part.contiguous().view(torch.uint8)).view(part.dtype)
        return self


class QuantizedLinear(CodedMatrix):
    """y = x W^T + b with W in codes; W itself is not trained.

    input_scales: factors on the channels of x, which the codes of W allow for (AWQ); None for none.

    Tested against: `Linear` with the widened matrix, outputs and gradients.
    """

    def __init__(
        self,
        codes: WeightCodes,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        into_residual: bool = False,
    ) -> None:
        super().__init__(codes, out_features, in_features)
        self.input_scales: Tensor | None
        self.into_residual = into_residual
        self.in_features = in_features
        self.out_features = out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.register_buffer("input_scales", None)

    def scale_inputs(self, factors: Float[Tensor, " I"] | None) -> None:
        """Multiply inputs by these from here on; the codes are then those of W / factors."""
        self.input_scales = factors

    @classmethod
    def empty(cls, linear: Linear, codes: WeightCodes) -> QuantizedLinear:
        """The layer in the place of a plain one, its parts yet to be set; the bias is shared."""
        with torch.device("meta"):
            layer = cls(
                codes, linear.in_features, linear.out_features, into_residual=linear.into_residual
            )
        layer.bias = linear.bias
        return layer.train(linear.training)

    @classmethod
    def from_linear(cls, linear: Linear, codes: WeightCodes) -> QuantizedLinear:
        """The same layer with its matrix rounded."""
        layer = cls.empty(linear, codes)
        layer.set_parts(codes.encode(linear.weight.detach()))
        return layer

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """W, widened, for what reads a layer's matrix itself."""
        return self.dense(torch.float32 if self.bias is None else self.bias.dtype)

    def dense(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "O I"]:
        """W, widened."""
        if self.input_scales is None:
            return super().dense(dtype)
        return (super().dense() * self.input_scales.float()).to(dtype)

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Project the last axis."""
        if self.input_scales is not None:
            x = x * self.input_scales.to(x.dtype)
        y = self.product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_linear(self, dtype: torch.dtype = torch.float32) -> Linear:
        """The dense layer of the widened matrix."""
        with torch.device("meta"):
            linear = Linear(self.in_features, self.out_features, into_residual=self.into_residual)
        linear.weight = nn.Parameter(self.dense(dtype))
        linear.bias = self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """The settings shown by `print(model)`."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.format}"
        )


class QuantizedEmbedding(CodedMatrix):
    """Rows of a (V, D) table in codes, widened when they are looked up, and the product with all of it.

    dtype: what rows and products are returned in. Tested against: `Embedding` of the widened table.
    """

    few_rows: ClassVar[bool] = True

    def __init__(
        self, codes: WeightCodes, num_rows: int, hidden_size: int, *, dtype: torch.dtype
    ) -> None:
        super().__init__(codes, num_rows, hidden_size)
        self.num_rows = num_rows
        self.hidden_size = hidden_size
        self.dtype = dtype

    @classmethod
    def empty(cls, embedding: Embedding, codes: WeightCodes) -> QuantizedEmbedding:
        """The layer in the place of a plain one, its parts yet to be set."""
        with torch.device("meta"):
            layer = cls(codes, embedding.num_rows, embedding.hidden_size, dtype=embedding.dtype)
        return layer.train(embedding.training)

    @classmethod
    def from_embedding(cls, embedding: Embedding, codes: WeightCodes) -> QuantizedEmbedding:
        """The same table with its rows rounded."""
        layer = cls.empty(embedding, codes)
        layer.set_parts(codes.encode(embedding.weight.detach()))
        return layer

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """The table, widened."""
        return self.dense(self.dtype)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """Look up rows."""
        rows = self.format.take_rows(self._held(), ids.reshape(-1), self.columns)
        return self.format.decode(rows, self.columns, self.dtype).view(*ids.shape, -1)

    def project(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Scores of every row: hidden W^T."""
        return self.product(hidden)

    def to_embedding(self) -> Embedding:
        """The plain table, widened."""
        with torch.device("meta"):
            embedding = Embedding(self.num_rows, self.hidden_size)
        embedding.weight = nn.Parameter(self.dense(self.dtype))
        return embedding.train(self.training)

    def extra_repr(self) -> str:
        """The settings shown by `print(model)`."""
        return f"{self.num_rows}, {self.hidden_size}, {self.format}"
