"""Exercise 7.2: GPT-2's published tensors into the layout of nn.Linear."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def open_published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's published tensors, by the names and in the layout of modules made of nn.Linear.

    - "transformer." in front of a name goes away, where it is there.
    - The weights of attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj are stored (in, out);
      nn.Linear wants (out, in). wte.weight and wpe.weight stay as they are.
    - "h.N.attn.bias" and "h.N.attn.masked_bias" are masks, not weights: they are left out.
    - "lm_head.weight" is a copy of the token table: it is left out.
    """
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name == "lm_head.weight":
            continue
        matrix = ".c_" in name and name.endswith(".weight")
        found[name] = tensor.T if matrix else tensor
    return found


def oracle(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With regular expressions."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(?:transformer\.)?((?:h\.\d+|wte|wpe|ln_f)\..*)", name)
        if match and not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", match[1]):
            square = re.fullmatch(r"h\.\d+\.(attn|mlp)\.c_(attn|proj|fc)\.weight", match[1])
            found[match[1]] = tensor.transpose(0, 1) if square else tensor
    return found


def cases() -> list[Case]:
    """A name or two, one block, then a whole small model with and without prefix, masks and head."""
    draw = torch.Generator().manual_seed(72)

    def block(size: int, prefix: str) -> dict[str, Tensor]:
        shapes = {
            "ln_1.weight": (size,),
            "ln_1.bias": (size,),
            "attn.c_attn.weight": (size, 3 * size),
            "attn.c_attn.bias": (3 * size,),
            "attn.c_proj.weight": (size, size),
            "attn.c_proj.bias": (size,),
            "mlp.c_fc.weight": (size, 4 * size),
            "mlp.c_fc.bias": (4 * size,),
            "mlp.c_proj.weight": (4 * size, size),
            "mlp.c_proj.bias": (size,),
        }
        return {prefix + name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    def table(rows: int, size: int) -> Tensor:
        return torch.randn(rows, size, generator=draw)

    mask = torch.ones(3, 3).tril()[None, None]
    whole: dict[str, Tensor] = {"transformer.wte.weight": table(5, 2)}
    whole["transformer.wpe.weight"] = table(3, 2)
    for layer in range(2):
        whole |= block(2, f"transformer.h.{layer}.")
        whole[f"transformer.h.{layer}.attn.bias"] = mask
        whole[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    whole["transformer.ln_f.weight"] = torch.ones(2)
    whole["lm_head.weight"] = whole["transformer.wte.weight"]
    return [
        Case(({"wte.weight": table(3, 2)},)),
        Case(({"h.0.attn.c_proj.weight": table(2, 2)},)),
        Case((block(2, "h.0."),)),
        Case(({"h.0.attn.bias": mask, "h.0.attn.c_attn.bias": torch.randn(6, generator=draw)},)),
        Case((block(3, "transformer.h.11."),)),
        Case((whole,)),
    ]


_MASKS = 'name.endswith((".attn.bias", ".attn.masked_bias"))'
_MATRIX = 'matrix = ".c_" in name and name.endswith(".weight")'

EXERCISE = Exercise(
    number="7.2",
    title=Both("Opening the published weights", "打开公开的权重"),
    statement=Both(
        "GPT-2's tensors were saved with names, layouts and leftovers of their own. Return a new dict that modules made of `nn.Linear` "
        "can load: without the prefix `transformer.`, the four matrices of each block transposed, without the masks and without the copy "
        "of the token table.",
        "GPT-2 的张量有自己的名字和布局，还带着一些多余的东西。返回一个新的字典，让由 `nn.Linear` 组成的模块可以加载："
        "去掉前缀 `transformer.`，转置每个块的四个矩阵，去掉掩码，去掉词元表的副本。",
    ),
    solution=(open_published,),
    oracle={"open_published": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "nothing_transposed",
            Both(
                "the matrices stay (in, out); nn.Linear keeps (out, in)",
                "矩阵仍是（输入，输出）；nn.Linear 的布局是（输出，输入）",
            ),
            edits=(("tensor.T if matrix else tensor", "tensor"),),
        ),
        Mistake(
            "square_not_transposed",
            Both(
                "attn.c_proj.weight is not transposed: it is square, so no shape complains, and the model writes nonsense",
                "attn.c_proj.weight 没有转置：它是方阵，形状检查发现不了，模型却会胡言乱语",
            ),
            edits=((_MATRIX, _MATRIX + ' and "attn.c_proj" not in name'),),
        ),
        Mistake(
            "tables_transposed",
            Both(
                "the token or position table is transposed as well: a table is looked up by rows in both layouts",
                "词元表或位置表也被转置了：两种布局里，表都是按行查的",
            ),
            edits=((_MATRIX, "matrix = tensor.dim() == 2"),),
        ),
        Mistake(
            "biases_lost",
            Both(
                "c_attn.bias is gone: it too ends in attn.bias, but it is no mask",
                "c_attn.bias 不见了：它的名字也以 attn.bias 结尾，但它不是掩码",
            ),
            edits=(('(".attn.bias", ".attn.masked_bias")', '("attn.bias", ".attn.masked_bias")'),),
        ),
        Mistake(
            "masks_kept",
            Both(
                "the masks attn.bias and attn.masked_bias are still there; they are no weights",
                "attn.bias 和 attn.masked_bias 还在；它们是掩码，不是权重",
            ),
            edits=((_MASKS, "False"),),
        ),
        Mistake(
            "masked_bias_kept",
            Both(
                "attn.masked_bias is still there; it is the number that filled masked scores",
                "attn.masked_bias 还在；它是当年用来填充被掩盖分数的数",
            ),
            edits=((_MASKS, 'name.endswith(".attn.bias")'),),
        ),
        Mistake(
            "prefix_kept",
            Both(
                "names still begin with transformer.; load_state_dict(strict=False) would then load nothing, silently",
                "名字前仍有 transformer.；这时用 load_state_dict(strict=False) 会悄无声息地什么都不加载",
            ),
            edits=(('name.removeprefix("transformer.")', "name"),),
        ),
        Mistake(
            "head_kept",
            Both(
                "lm_head.weight is still there; the head is the token table",
                "lm_head.weight 还在；输出头就是词元表",
            ),
            edits=(('name == "lm_head.weight"', 'name == ""'),),
        ),
    ),
    hints=(
        Both(
            "Print the names of the last case and mark what must happen to each.",
            "打印最后一个用例的名字，逐个标出该怎么处理。",
        ),
        Both(
            "Which ending tells h.0.attn.bias from h.0.attn.c_attn.bias?",
            "用什么结尾才能区分 h.0.attn.bias 和 h.0.attn.c_attn.bias？",
        ),
        Both(
            "All four matrices that are transposed have `.c_` in their names, and so do their biases.",
            "需要转置的四个矩阵名字里都有 `.c_`，它们的偏置也有。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
