"""A language model in one hundred lines. It reads the text below letter by letter, then writes.

python minimal_llm.py [--steps 400] [--prompt "The "] [--length 400]      needs torch alone
"""

import argparse
import math

import torch
from torch import nn
from torch.nn import functional as F

TEXT = """
The station on Quiet Hill keeps a log. Every evening one of us writes down the day's weather.

Monday 3. Rain until noon; then the wind turned north and the sky cleared. Anna mended the fence.
Tuesday 4. Fog all morning. "Nobody can see the harbour," said Viktor, and he was right.
Wednesday 5. First frost! The glass fell to -2 at 6:40 and rose to 9 by 13:15. Humidity: 81%.
Thursday 6. A ship (the Zephyr, 120 crew) asked for our report @ 17:00. We sent [wind 14, rain 0].
Friday 7. Bread is $3 in the village; Ida walked down & carried home 2 loaves + 1 jar of honey.
Saturday 8. Ulla and Jonas counted geese: 48 in the first flock, 59 in the next. 48 + 59 = 107.
Sunday 9. A light breeze. Xenia showed Leo the planet Jupiter through the old telescope.

How do we read the wind? Look at the trees. If the leaves move, the wind is light; if the branches
move, it is strong; if the whole tree moves, stay indoors. Paul calls this rule #1, and it is the
only rule that the children remember. Rule #2: never leave the door of the instrument box open.

How do we read the clouds? High and thin clouds promise a dry day; low and grey clouds promise rain
before the evening. Yusuf keeps a score: right/wrong = 31/9 this year. "Better than the radio!"

*Notes for the next keeper* Wind the clock at 8. Empty the rain gauge after you have read it, not
before. Keep the lamp clean, the kettle full and the log honest. When the fog comes in from the
sea, ring the bell four times a quarter until you can see the harbour again. Then go home and sleep.
Good luck from Omar, Helga, Karl, Greta, Edith, Rosa, Carla, Dora, Nils, Quentin and Beatrix.
"""
WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT, BATCH = 128, 2, 4, 512, 64, 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):  # (batch, time, width)
        batch, time, _ = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, time, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        future = torch.ones(time, time, dtype=torch.bool).triu(1)  # what no position may see
        seen = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Model(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, vocab)

    def forward(self, ids):  # (batch, time) -> logits of the next character (batch, time, vocab)
        return self.head(self.blocks(self.tokens(ids) + self.positions.weight[: ids.shape[1]]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--prompt", default="The ")
    parser.add_argument("--length", type=int, default=400)
    options = parser.parse_args()
    torch.manual_seed(1)
    chars = sorted(set(TEXT))
    if not options.prompt or not set(options.prompt) <= set(chars):
        parser.error(f"--prompt takes one or more of the text's characters: {''.join(chars[1:])}")
    data = torch.tensor([chars.index(char) for char in TEXT])
    model = Model(len(chars))
    params = list(model.parameters())
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    print(f"{len(chars)} characters, {sum(p.numel() for p in params):,} parameters")

    for step in range(1, options.steps + 1):
        starts = torch.randint(len(data) - CONTEXT, (BATCH, 1))
        rows = data[starts + torch.arange(CONTEXT + 1)]  # each row: CONTEXT inputs, one target more
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        with torch.no_grad():  # Adam
            for p, mean, square in zip(params, means, squares, strict=True):
                mean.lerp_(p.grad, 0.1)
                square.lerp_(p.grad.square(), 0.01)
                p -= 2e-3 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
                p.grad = None
        if step % 50 == 0 or step == options.steps:
            print(f"step {step}: loss {loss.item():.3f}")

    ids = [chars.index(char) for char in options.prompt]
    with torch.no_grad():
        for _ in range(options.length):
            logits = model(torch.tensor([ids[-CONTEXT:]]))[0, -1]
            ids.append(torch.multinomial((logits / 0.7).softmax(-1), 1).item())
    print("".join(chars[i] for i in ids))


if __name__ == "__main__":
    main()
