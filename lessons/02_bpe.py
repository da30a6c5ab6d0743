# %% [markdown] lang="en"
# # 2. Byte pair encoding

# %% [markdown] lang="zh"
# # 2. 字节对编码

# %% [markdown] lang="en" part="question"
# ## The question
#
# Characters make long sequences; whole words make a table without end, and the next text has a word that is not in it. What lies
# between, covers every text of the world, and is short where the text is ordinary?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 按字符切，序列太长；按整词切，词表没有尽头，而且新文本里总有没见过的词。有没有一种折中，
# 能表示世界上的任何文本，又让常见的文本变短？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Begin with the 256 bytes, of which every text is made. Find the pair of neighbours that occurs most often, give it a new number, replace it
# everywhere, and repeat. What is learned is the list of **merges**, in order:
#
# $$(a, b)^{*} = \arg\max_{(a,b)} \sum_{w} n_w \cdot \#\{i : w_i = a,\ w_{i+1} = b\}$$
#
# ```
#   l o w   l o w   l o w e r   n e w e s t        most frequent: l o
#   lo w    lo w    lo w e r    n e w e s t        then: lo w
#   low     low     low e r     n e w e s t        ...
# ```
#
# To **encode** a new word, start from its bytes and apply, again and again, the merge that was learned first among those that apply. Two
# relatives cut differently: **WordPiece** takes the longest piece from the left; **Unigram** gives every piece a probability and takes the cut whose
# product is largest.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 从 256 个字节出发，任何文本都由它们组成。找出出现最多的相邻对，给它一个新编号，凡出现之处都替换，如此反复。
# 学到的就是一串按顺序排列的**合并**：
#
# $$(a, b)^{*} = \arg\max_{(a,b)} \sum_{w} n_w \cdot \#\{i : w_i = a,\ w_{i+1} = b\}$$
#
# ```
#   l o w   l o w   l o w e r   n e w e s t        出现最多：l o
#   lo w    lo w    lo w e r    n e w e s t        其次：lo w
#   low     low     low e r     n e w e s t        ……
# ```
#
# **编码**新单词时，从它的字节开始，每次在适用的合并里选最早学到的那个来用，直到没有可用的为止。
# 还有两种近亲，切法不同：**WordPiece** 从左边取最长的子词；**Unigram** 给每个子词一个概率，取乘积最大的切法。

# %% [markdown] lang="en" part="code"
# ## Words first
#
# A text is cut into words before anything is merged, so that no token reaches across a border such as "dog." The space goes with the word
# behind it, as in GPT-2. The pattern below is GPT-2's, written for Python's own `re`.

# %% [markdown] lang="zh" part="code"
# ## 先切成单词
#
# 合并之前先把文本切成单词，这样就不会有词元跨过“dog.”这样的边界。空格归后面的单词，与 GPT-2 相同。
# 下面是 GPT-2 的切分规则，用 Python 自带的 `re` 写出。

# %%
import os
import random
import re
from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt

TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def write_text(sentences: int) -> str:
    draw = random.Random(0)
    who = ["The keeper", "A sailor", "The old captain", "Nobody", "My neighbour's daughter"]
    does = ["watches", "watched", "is watching", "counts", "counted", "is counting", "remembers"]
    what = [
        "the lighthouse",
        "the newest lanterns",
        "lower clouds",
        "the slowest boats",
        "20 seagulls",
    ]
    when = ["tonight", "every morning", "whenever it's raining", "in the harbour", "don't ask why"]
    return " ".join(
        f"{draw.choice(who)} {draw.choice(does)} {draw.choice(what)}, {draw.choice(when)}."
        for _ in range(sentences)
    )


text = write_text(300 if TEST_SIZE else 3000)
words = Counter(WORDS.findall(text))
print(WORDS.findall("The keeper doesn't watch 20 boats."))
print(f"{len(text):,} characters, {sum(words.values()):,} words, {len(words)} different")

# %% [markdown] lang="en"
# ## Learn merges
#
# Counting on distinct words, each times how often it occurs, saves most of the work. Ties go to the lower ids, so that the result is the same every
# time.

# %% [markdown] lang="zh"
# ## 学习合并
#
# 在不同的单词上计数，再乘以各自的出现次数，可以省掉大部分工作。次数相同时取编号小的，这样每次的结果都一样。


# %%
def merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, place = [], 0
    while place < len(tokens):
        found = tuple(tokens[place : place + 2]) == pair
        out.append(new if found else tokens[place])
        place += 2 if found else 1
    return out


def learn(words: Counter, num_merges: int) -> list[tuple[int, int]]:
    split = [(list(word.encode()), count) for word, count in words.items()]
    merges = []
    for new in range(256, 256 + num_merges):
        counts = Counter()
        for tokens, count in split:
            for pair in pairwise(tokens):
                counts[pair] += count
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], -pair[0], -pair[1]))
        split = [(merge(tokens, best, new), count) for tokens, count in split]
        merges.append(best)
    return merges


def spell(merges: list[tuple[int, int]]) -> list[bytes]:
    pieces = [bytes([n]) for n in range(256)]
    for first, second in merges:
        pieces.append(pieces[first] + pieces[second])
    return pieces


merges = learn(words, 60 if TEST_SIZE else 250)
pieces = spell(merges)
print("first merges:", [pieces[256 + n].decode() for n in range(12)])
print("last merges: ", [piece.decode() for piece in pieces[-6:]])

# %% [markdown] lang="en"
# ## Encode and decode

# %% [markdown] lang="zh"
# ## 编码与解码


# %%
def encode_word(word: str, merges: list[tuple[int, int]]) -> list[int]:
    rank = {pair: number for number, pair in enumerate(merges)}
    tokens = list(word.encode())
    while True:
        known = [rank[pair] for pair in pairwise(tokens) if pair in rank]
        if not known:
            return tokens
        first = min(known)
        tokens = merge(tokens, merges[first], 256 + first)


def encode(text: str) -> list[int]:
    return [token for word in WORDS.findall(text) for token in encode_word(word, merges)]


def decode(ids: list[int]) -> str:
    return b"".join(pieces[i] for i in ids).decode(errors="replace")


for sample in ("The keeper watches the lower lanterns.", "Watching lowlands", "灯塔 🙂"):
    ids = encode(sample)
    print(
        f"{len(sample):3} characters, {len(ids):3} tokens:",
        [pieces[i].decode(errors="replace") for i in ids],
    )
    assert decode(ids) == sample

# %% [markdown] lang="en"
# Nothing is unknown: what was never learned falls back to bytes, and a Chinese character costs three tokens here, as no merge joins its bytes. This
# is why the corpus of a tokenizer must be like the texts that it will see.
#
# ## WordPiece and Unigram on the same word
#
# With the same pieces, three rules may cut the same word in three ways.

# %% [markdown] lang="zh"
# 没有什么是未知的：没学过的内容退回到字节，所以这里一个汉字要用三个词元，因为没有合并把它的字节连起来。
# 分词器的训练语料必须接近将来要处理的文本，原因就在这里。
#
# ## 同一个词，WordPiece 与 Unigram 怎么切
#
# 子词相同，三种规则却可能切出三种结果。

# %%
import math


def longest_match(word: str, known: set[str]) -> list[str]:
    out = []
    while word:
        size = max(n for n in range(1, len(word) + 1) if word[:n] in known)
        out, word = [*out, word[:size]], word[size:]
    return out


def likeliest(word: str, scores: dict[str, float]) -> list[str]:
    best = [(0.0, [])] + [(-math.inf, [])] * len(word)
    for end in range(1, len(word) + 1):
        for begin in range(end):
            piece = word[begin:end]
            score = best[begin][0] + scores.get(piece, -math.inf)
            if score > best[end][0]:
                best[end] = (score, [*best[begin][1], piece])
    return best[-1][1]


scores = dict.fromkeys("unhapiestd", -7.0) | {
    "un": -3.0,
    "unh": -5.5,
    "happi": -4.0,
    "app": -4.5,
    "iest": -3.5,
    "est": -3.0,
}
print("longest match:", longest_match("unhappiest", set(scores)))
print("likeliest:    ", likeliest("unhappiest", scores))
learned = [
    (ord("u"), ord("n")),
    (ord("p"), ord("p")),
    (ord("a"), 257),
    (ord("e"), ord("s")),
    (259, ord("t")),
]
spelled = spell(learned)
print("BPE:          ", [spelled[i].decode() for i in encode_word("unhappiest", learned)])

# %% alt_en="Bytes per token of the text against the number of merges, on a logarithmic axis: it begins at 1 and rises steeply at first, then flattens as whole words are reached." alt_zh="文本的每词元字节数随合并次数的变化，横轴为对数：从 1 开始，先快速上升，到整词之后逐渐变平。"
counts, lengths = [0, 1, 2, 5, 10, 20, 40, len(merges)], []
for count in counts:
    tokens = sum(n * len(encode_word(word, merges[:count])) for word, n in words.items())
    lengths.append(len(text.encode()) / tokens)
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot([count + 1 for count in counts], lengths, marker="o")
axis.set(xscale="log", xlabel="merges + 1", ylabel="bytes a token", title="what merges buy")
plt.show()

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`train_merges_plain`](../src/glassbox/tokenizers/bpe_training.py) is `learn` above; [`train_merges`](../src/glassbox/tokenizers/bpe_training.py) keeps
#   the counts of pairs and a linked list of tokens up to date instead of counting anew, so that a merge costs its occurrences alone.
# - [`Tokenizer`](../src/glassbox/tokenizers/tokenizer.py) encodes, with a cache of words and special tokens; it opens GPT-2's and Llama's files.
# - [`WordPieceModel`](../src/glassbox/tokenizers/wordpiece.py) and [`UnigramModel`](../src/glassbox/tokenizers/unigram.py).
# - [tokens.py](models/tokens.py) encodes as GPT-2 does, with its published merges.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`train_merges_plain`](../src/glassbox/tokenizers/bpe_training.py) 就是上面的 `learn`；[`train_merges`](../src/glassbox/tokenizers/bpe_training.py)
#   不重新计数，而是维护各对的计数和词元链表，一次合并的开销只与它的出现次数有关。
# - [`Tokenizer`](../src/glassbox/tokenizers/tokenizer.py) 负责编码，带单词缓存和特殊词元；能打开 GPT-2、Llama 的文件。
# - [`WordPieceModel`](../src/glassbox/tokenizers/wordpiece.py) 与 [`UnigramModel`](../src/glassbox/tokenizers/unigram.py)。
# - [tokens.py](models/tokens.py) 用 GPT-2 公布的合并，按 GPT-2 的方式编码。

# %%
from glassbox.tokenizers import train_bpe
from glassbox.tokenizers.bpe_training import tokenizer_from_merges
from glassbox.tokenizers.patterns import PreTokenizer

sample = "The old captain remembers the slowest boats, doesn't he?"
spelled_merges = [(pieces[first], pieces[second]) for first, second in merges]
tokenizer = tokenizer_from_merges(spelled_merges, PreTokenizer.named("gpt2"), ())
theirs = [tokenizer.token_bytes(i) for i in tokenizer.encode(sample)]
print("encoded to the same tokens:", theirs == [pieces[i] for i in encode(sample)])

trained = train_bpe([text], 256 + len(merges), pattern="gpt2", special_tokens=())
same = {trained.token_bytes(n) for n in range(256, trained.vocab_size)} & set(pieces[256:])
print(
    f"learned: {len(same)} of {len(merges)} tokens are the same; ties fall otherwise, as GPT-2 orders the bytes in its own way"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 2` writes a file with the graded ones.
#
# <!-- exercise 2.1 -->
#
# <!-- exercise 2.2 -->
#
# <!-- exercise 2.3 -->
#
# **2.4 Two languages** Learn 200 merges from English text, 200 from Chinese, and 200 from both. How many bytes a token does each need for each
# language?
#
# **2.5 Faster** `learn` counts all pairs again for every merge. Keep the counts, and change only those that a merge touches. How much faster is
# it with 1,000 merges?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 2` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 2.1 -->
#
# <!-- exercise 2.2 -->
#
# <!-- exercise 2.3 -->
#
# **2.4 两种语言** 分别用英文、中文、中英混合的文本各学 200 个合并。每种分词器在每种语言上每词元多少字节？
#
# **2.5 更快** `learn` 每次合并都要重新统计所有的对。请保留计数，只改动合并涉及的那些。学 1,000 个合并能快多少？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Merges applied from left to right**, or the longest piece first: the ids differ from those of the model's training, and nothing complains.
# - **Training that counts all words again for every merge**: hours for what takes seconds.
# - **Half a character printed**: a token may end within a UTF-8 character; decode bytes only when they are whole.
# - **Special tokens in user text**: `<|endoftext|>` typed by a user must stay text.
# - **A space lost or doubled** at the border of prompt and answer: "the" and " the" are different tokens.
# - **The tokenizer saved without its pattern**, or with another one: the merges fit, the words do not.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **从左到右合并**，或者先取最长的：编号与模型训练时不同，却没有任何报错。
# - **每次合并都重新数一遍所有单词**：几秒的事要跑几个小时。
# - **打印出半个字符**：词元可能在一个 UTF-8 字符的中间结束；凑齐了字节再解码。
# - **用户文本里的特殊词元**：用户输入的 `<|endoftext|>` 必须当作普通文本。
# - **提示词与回答的交界处丢了或多了空格**：“the”和“ the”是不同的词元。
# - **保存分词器时漏了切分规则**，或者换了规则：合并对得上，单词却对不上。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Sennrich et al., *Neural Machine Translation of Rare Words with Subword Units*, [arXiv:1508.07909](https://arxiv.org/abs/1508.07909): BPE
# - Kudo, *Subword Regularization*, [arXiv:1804.10959](https://arxiv.org/abs/1804.10959): Unigram
# - Radford et al., *Language Models are Unsupervised Multitask Learners* (2019), section 2.2: bytes
# - [The guide to tokenizers](../docs/guides/tokenizers.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Sennrich 等，*Neural Machine Translation of Rare Words with Subword Units*，[arXiv:1508.07909](https://arxiv.org/abs/1508.07909)：BPE
# - Kudo，*Subword Regularization*，[arXiv:1804.10959](https://arxiv.org/abs/1804.10959)：Unigram
# - Radford 等，*Language Models are Unsupervised Multitask Learners*（2019），2.2 节：字节
# - [分词器指南](../docs/guides/tokenizers.md)
