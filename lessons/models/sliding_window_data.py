"""Training examples for next-token prediction: windows that slide over a text.

    python sliding_window_data.py                              # on a short story in this file
    python sliding_window_data.py --path the-verdict.txt --window 6 --stride 3

A window of T inputs has T targets: the same tokens, one place later. Stride T uses every token as a
target once; a smaller stride makes overlapping windows, so more examples of the same tokens. Tokens
are words and signs here, which makes the windows readable. It needs torch alone.
"""

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

STORY = """The old clockmaker had one customer left. Every spring the customer brought the same clock,
and every spring the clockmaker found nothing wrong with it. "It is slow," said the customer. "It
is exact," said the clockmaker. "It is we who hurry." In the tenth spring the customer came without
the clock. "Is it broken at last?" asked the clockmaker. "No," said the customer, and sat down. "I
have stopped hurrying." So they drank tea, and nobody in the shop looked at the time."""


class Windows(Dataset):
    """Item i is (inputs, targets), each (T): tokens i * stride to i * stride + T, and one later.

    A window that would reach beyond the text is left out, so that all rows have the same length.
    """

    def __init__(self, tokens: Tensor, window: int, stride: int) -> None:
        self.tokens, self.window, self.stride = tokens, window, stride

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.window - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.stride
        row = self.tokens[start : start + self.window + 1]
        return row[:-1], row[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="a text file, such as The Verdict")
    parser.add_argument("--window", type=int, default=6, help="tokens in a row (T)")
    parser.add_argument("--stride", type=int, default=3, help="tokens from one start to the next")
    parser.add_argument("--batch", type=int, default=4, help="rows in a batch (B)")
    options = parser.parse_args()
    if min(options.window, options.stride, options.batch) < 1:
        parser.error("--window, --stride and --batch are at least 1")
    text = options.path.read_text(encoding="utf-8") if options.path else STORY
    words = re.findall(r"\w+|[^\w\s]", text)
    vocab = sorted(set(words))
    number = {word: i for i, word in enumerate(vocab)}
    tokens = torch.tensor([number[word] for word in words])
    window, stride = options.window, options.stride
    data = Windows(tokens, window, stride)
    if not len(data):
        parser.error(
            f"the text has {len(tokens)} tokens; a window and its target take {window + 1}"
        )
    print(f"{len(tokens)} tokens, {len(vocab)} different; window {window}, stride {stride}")

    print("\nThe first windows; every position is an example of its own: context -> next token")
    for index in range(min(3, len(data))):
        inputs, targets = ([vocab[i] for i in row] for row in data[index])
        print(f"  {index}  inputs  {' '.join(inputs)}\n     targets {' '.join(targets)}")
    inputs, targets = ([vocab[i] for i in row] for row in data[0])
    for place in range(window):
        print(f"     {' '.join(inputs[: place + 1]):>40} -> {targets[place]}")

    print("\nWhat the stride does: rows, and how many tokens are a target how often")
    print("  stride   rows   never   once  more often  examples a token")
    for other in sorted({1, max(1, window // 2), window, 2 * window}):
        rows = Windows(tokens, window, other)
        times = torch.zeros(len(tokens), dtype=torch.long)
        for i in range(len(rows)):
            times[i * other + 1 : i * other + 1 + window] += 1
        never, once, more = (times == 0).sum(), (times == 1).sum(), (times > 1).sum()
        share = len(rows) * window / len(tokens)
        print(f"  {other:6d} {len(rows):6d} {never:7d} {once:6d} {more:11d} {share:17.2f}")
    print(
        "  (the first token has nothing before it, and the tail that fills no window is left out)"
    )

    print("\nThe same rows at once with torch's unfold, without copying a token")
    rows = tokens.unfold(0, window + 1, stride)  # a view (N, T + 1)
    same = all(
        torch.equal(torch.cat([x, y[-1:]]), row) for (x, y), row in zip(data, rows, strict=True)
    )
    print(f"  {tuple(rows.shape)}, equal to the data set above: {same}")

    loader = DataLoader(
        data, batch_size=options.batch, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    inputs, targets = next(iter(loader))
    print(f"\nA shuffled batch: inputs {tuple(inputs.shape)}, targets {tuple(targets.shape)}")
    for row in inputs.tolist():
        print("  " + " ".join(vocab[i] for i in row))
    print(
        "\nSplit a text before cutting windows: with a stride below the window, neighbouring windows"
    )
    print(
        "share tokens, and a random split of windows would put training text into the validation."
    )


if __name__ == "__main__":
    main()
