# %% [markdown] lang="en"
# # 22. A server

# %% [markdown] lang="zh"
# # 22. 服务器

# %% [markdown] lang="en" part="question"
# ## The question
#
# A model that answers in one Python process is of use to one person. How do many people ask it at the same time, see the words as they come, and
# hang up in the middle, without one of them harming the others?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 只在一个 Python 进程里回答问题的模型，只能给一个人用。怎样才能让许多人同时提问、看着文字逐个出现、中途挂断，而彼此互不影响？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Two worlds meet in a server. The network is made of many slow conversations, each of which waits most of the time; the model makes **one step after another**, and
# a step for eight sequences takes hardly longer than a step for one. So the conversations get threads (or coroutines), and the model gets a single loop:
#
# ```
#   browser A --.                                       .--> A: "The" " fox" " ran"
#   browser B ---+-- HTTP --> queue --> one loop: step --+--> B: "Once" " upon"
#   browser C --'             (limited)  all together    '--> C: (hung up: taken out of the batch)
# ```
#
# Text is streamed as **server-sent events**: an HTTP answer that does not end, made of lines `data: ...` with an empty line behind each. A network
# may cut them anywhere, even inside a letter.
#
# With a batch of $S$ sequences in a step of $t(S)$ seconds, the server makes $S / t(S)$ tokens a second and each reader gets $1 / t(S)$. As $t$ hardly grows,
# the first number grows with $S$ and the second stays: batching is how a server earns its keep.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 服务器里有两个世界。网络是许多缓慢的对话，大部分时间都在等待；模型则是**一步接一步**地走，而给八个序列走一步，几乎不比给一个序列走一步更久。
# 所以每个对话用一个线程（或协程），模型只用一个循环：
#
# ```
#   浏览器 A --.                                      .--> A: "The" " fox" " ran"
#   浏览器 B ---+-- HTTP --> 队列 --> 一个循环：一步 --+--> B: "Once" " upon"
#   浏览器 C --'            （有上限）    全部一起     '--> C:（已挂断：移出批次）
# ```
#
# 文本以**服务器推送事件**（server-sent events）的形式流出：一个不结束的 HTTP 响应，由一行行 `data: ...` 组成，每个事件后面有一个空行。
# 网络可能在任何地方切断它们，甚至在一个字的中间。
#
# 一批 $S$ 个序列走一步用 $t(S)$ 秒，服务器每秒产出 $S / t(S)$ 个词元，每个读者每秒得到 $1 / t(S)$ 个。$t$ 几乎不增长，
# 所以前者随 $S$ 增长，后者不变：服务器就是靠批处理才划算的。

# %% [markdown] lang="en" part="code"
# ## A model, and one loop
#
# The model is as small as can be: a table of which character follows which, from a text. It pretends that a step takes some milliseconds, however many sequences are
# in the batch. Everything around it is what a real server has.

# %% [markdown] lang="zh" part="code"
# ## 一个模型，一个循环
#
# 模型尽可能小：从一段文本统计哪个字符后面跟哪个字符。假设每一步需要几毫秒，与批次里有多少个序列无关。它周围的一切，则和真正的服务器一样。

# %%
import itertools
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
STEP_SECONDS = 0.004 if TEST_SIZE else 0.02
LENGTH = 24 if TEST_SIZE else 60

TEXT = "the fox ran to the river and the river ran to the sea. " * 3
CHARACTERS = sorted(set(TEXT))
PLACE = {character: number for number, character in enumerate(CHARACTERS)}
COUNTS = torch.full((len(CHARACTERS), len(CHARACTERS)), 0.01)
for before, after in itertools.pairwise(TEXT):
    COUNTS[PLACE[before], PLACE[after]] += 1


def model_step(last: list[str]) -> list[str]:
    """The next character of every sequence of the batch, in one step."""
    time.sleep(STEP_SECONDS)
    rows = COUNTS[[PLACE.get(one, 0) for one in last]]
    return [CHARACTERS[number] for number in torch.multinomial(rows, 1).flatten().tolist()]


@dataclass
class Request:
    """What was asked, and where its pieces of text go; None ends them."""

    prompt: str
    most: int
    pieces: queue.Queue = field(default_factory=queue.Queue)
    text: str = ""
    gone: bool = False  # the reader has hung up


class Engine:
    """The one thread that runs the model: it takes requests between two steps, and gives each its piece."""

    def __init__(self, slots: int, most_waiting: int):
        self.slots, self.waiting = slots, queue.Queue(maxsize=most_waiting)
        self.running: list[Request] = []
        self.steps = self.made = 0
        threading.Thread(target=self.loop, daemon=True).start()

    def submit(self, request: Request) -> None:
        self.waiting.put_nowait(request)  # raises queue.Full

    def loop(self) -> None:
        while True:
            while len(self.running) < self.slots and (
                self.running == [] or not self.waiting.empty()
            ):
                self.running.append(self.waiting.get())  # sleeps where there is nothing to do
            self.running = [one for one in self.running if not one.gone]
            if not self.running:
                continue
            self.steps += 1
            for one, piece in zip(
                self.running,
                model_step([r.prompt[-1] if not r.text else r.text[-1] for r in self.running]),
                strict=True,
            ):
                one.text += piece
                one.pieces.put(piece)
                self.made += 1
            for one in [one for one in self.running if len(one.text) >= one.most]:
                one.pieces.put(None)
                self.running.remove(one)


# %% [markdown] lang="en"
# Note what the loop does *not* do: it never waits for a reader. Pieces go into the request's own queue, and a slow reader fills only that.
#
# ## HTTP by hand
#
# The handler runs in a thread of the connection. It checks the body **before** it submits anything, answers with one clear line where it is wrong, and turns away
# what the queue cannot hold with 429: a client told to come back later is better off than one that waits without an end.

# %% [markdown] lang="zh"
# 注意循环*不做*什么：它从不等待读者。每一片文字放进请求自己的队列，读得慢的人只会堆满他自己的那一条。
#
# ## 手写 HTTP
#
# 处理函数运行在连接自己的线程里。它在提交之前**先检查**请求体，有错就用一行话说清楚；队列装不下的，用 429 拒绝：
# 让客户端稍后再来，好过让它没完没了地等。


# %%
class Handler(BaseHTTPRequestHandler):
    engine: Engine

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if size > 10_000:
            return self.refuse(413, f"the body has {size} bytes; send at most 10000")
        try:
            body = json.loads(self.rfile.read(size))
            prompt, most = str(body["prompt"]), int(body.get("max_tokens", 16))
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(400, f"send JSON with a prompt: {error!r}")
        if not prompt or not 1 <= most <= 200:
            return self.refuse(
                400,
                f"max_tokens = {most} and a prompt of {len(prompt)} characters: give 1 to 200, and a prompt",
            )
        request = Request(prompt, most)
        try:
            self.engine.submit(request)
        except queue.Full:
            return self.refuse(429, "too many requests are waiting; try again in a second")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            while (piece := request.pieces.get()) is not None:
                self.wfile.write(f"data: {json.dumps({'text': piece})}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the reader hung up: nobody needs the rest
            request.gone = True

    def refuse(self, status: int, message: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": message}}).encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections that the system holds until a thread takes them
    daemon_threads = True


def serve(slots: int, most_waiting: int = 64) -> tuple[str, Engine]:
    """Start a server on a free port; its address and its engine."""
    engine = Engine(slots, most_waiting)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"engine": engine}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", engine


def ask(url: str, **body: object):
    """The pieces of an answer, as they come."""
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])["text"]


url, engine = serve(slots=8)
began = time.perf_counter()
times = [time.perf_counter() - began for _ in ask(url, prompt="the ", max_tokens=LENGTH)]
print(
    f"first piece after {1000 * times[0]:.0f} ms, all {len(times)} after {1000 * times[-1]:.0f} ms"
)


def refusal(**body: object) -> str:
    """The status and the line with which a wrong request is refused."""
    try:
        next(ask(url, **body))
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.loads(error.read())['error']['message']}"
    return "it was taken"


for wrong in ({"prompt": ""}, {"prompt": "a", "max_tokens": 10_000}, {"text": "a"}):
    print(refusal(**wrong))

# %% [markdown] lang="en"
# ## Many at a time
#
# Eight clients ask at once. With one slot they queue; with eight they share every step. The steps say why: the same text in an eighth of them.

# %% [markdown] lang="zh"
# ## 许多人同时提问
#
# 八个客户端同时提问。只有一个槽位时大家排队；有八个槽位时每一步由大家共享。看步数就明白了：同样多的文字，只用八分之一的步数。


# %%
def load(slots: int, clients: int) -> tuple[float, list[float], int]:
    """Seconds until all have their answers, when each had its own, and the steps of the model."""
    url, engine = serve(slots)
    began, ends = time.perf_counter(), []

    def client() -> None:
        for _ in ask(url, prompt="the ", max_tokens=LENGTH):
            pass
        ends.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, sorted(ends), engine.steps


found = {slots: load(slots, clients=8) for slots in (1, 2, 4, 8)}
for slots, (seconds, ends, steps) in found.items():
    print(f"{slots} slots: {seconds:5.2f} s for all, the first had its answer after {ends[0]:.2f} s; "
          f"{steps:4} steps, {8 * LENGTH / seconds:5.0f} characters/s")  # fmt: skip

# %% alt_en="Lines of the number of finished answers over time, one for each number of slots: with one slot a staircase, with eight slots all finish together much earlier." alt_zh="已完成回答数随时间变化的折线，每条对应一种槽位数：一个槽位时是缓慢上升的台阶，八个槽位时全部一起提前很多完成。"
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
for slots, (_, ends, _) in found.items():
    axis.step([0, *ends], range(len(ends) + 1), where="post", label=f"{slots} slots")
axis.set(xlabel="seconds", ylabel="answers finished")
axis.legend(frameon=False)
plt.show()

# %% [markdown] lang="en"
# ## Who hangs up, and who comes too many
#
# A reader that closes the connection must not cost the others anything: the handler notices at its next write, and the engine takes the request out of the batch.
# And a full queue says so at once.

# %% [markdown] lang="zh"
# ## 中途挂断的，和来得太多的
#
# 读者关掉连接，不能让别人付出代价：处理函数在下一次写入时发现，引擎把请求移出批次。队列满了，就立刻说明。

# %%
url, engine = serve(slots=1, most_waiting=2)
answer = ask(url, prompt="the ", max_tokens=200)
next(answer)
answer.close()  # hangs up after one piece
for _ in range(200):
    if not engine.running:
        break
    time.sleep(0.02)
print(
    f"after hanging up: {engine.made} of 200 pieces were made, {len(engine.running)} requests run"
)

codes = []


def crowd() -> None:
    try:
        for _ in ask(url, prompt="the ", max_tokens=LENGTH):
            pass
        codes.append(200)
    except urllib.error.HTTPError as error:
        codes.append(error.code)


threads = [threading.Thread(target=crowd) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(
    "eight at once, one slot and two places in the queue:",
    {code: codes.count(code) for code in sorted(codes)},
)

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`build_app`](../src/glassbox/serving/app.py): OpenAI's paths over FastAPI, so that any client of that API can ask.
# - [`Worker`](../src/glassbox/serving/worker.py) is the one thread above. [`Engine`](../src/glassbox/inference/engine.py) is its step: schedule, run, postprocess, with a paged
#   cache, shared prefixes and preemption (lesson 20).
# - [`Connections`](../src/glassbox/serving/connections.py) bounds what a socket may do: how many at once, how long for the headers, how long idle.
# - [`Gate`](../src/glassbox/serving/gate.py) looks at keys, host names and sizes before anything is read.
# - [`TextStream`](../src/glassbox/inference/detokenizer.py) holds text back while it might be the beginning of a stop string, or half a letter.
#
# `glassbox serve MODEL` starts it; [the guide](../docs/guides/serving.md) has its limits and metrics.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`build_app`](../src/glassbox/serving/app.py)：基于 FastAPI 的 OpenAI 接口，任何该接口的客户端都能使用。
# - [`Worker`](../src/glassbox/serving/worker.py) 就是上面那个唯一的线程。[`Engine`](../src/glassbox/inference/engine.py) 是它的一步：调度、运行、后处理，带分页缓存、
#   共享前缀和抢占（第 20 课）。
# - [`Connections`](../src/glassbox/serving/connections.py) 限制每个连接的行为：同时多少个、等待请求头多久、空闲多久。
# - [`Gate`](../src/glassbox/serving/gate.py) 在读取任何内容之前，先检查密钥、主机名和大小。
# - [`TextStream`](../src/glassbox/inference/detokenizer.py) 遇到可能是停止串开头的文字，或半个字符，会先扣住不发。
#
# 用 `glassbox serve MODEL` 启动；限制与指标见[指南](../docs/guides/serving.md)。

# %%
import glassbox
from glassbox.inference.detokenizer import TextStream

tokenizer = glassbox.train_tokenizer(["你好，世界。 the end of it. "], vocab_size=260)
stream = TextStream(tokenizer, ["the end"])
for token in tokenizer.encode("好 the english"):
    print(repr(stream.push(token)), end=" ")
print("| left:", repr(stream.flush()))

# %% [markdown] lang="en"
# Half of a Chinese character is held back until its last byte is there, and " the en" until it is certain that it is no stop string.

# %% [markdown] lang="zh"
# 汉字在最后一个字节到齐之前不会发出；“the en”在确定不是停止串之前也不会发出。

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 22` writes a file with the graded ones.
#
# <!-- exercise 22.1 -->
#
# <!-- exercise 22.2 -->
#
# <!-- exercise 22.3 -->
#
# **22.4 Fairness** One client sends fifty requests, another sends one. Who waits? Change `Engine.loop` so that it takes turns between clients, and draw the waiting times
# before and after.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 22` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 22.1 -->
#
# <!-- exercise 22.2 -->
#
# <!-- exercise 22.3 -->
#
# **22.4 公平** 一个客户端发来五十个请求，另一个只发一个。谁在等？修改 `Engine.loop`，让它在客户端之间轮流取请求，并画出修改前后的等待时间。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The model in the event loop.** A step of 50 ms on the thread that answers `/health` makes the server look dead whenever it works.
# - **No limit on waiting requests.** Under load every answer comes later than the one before, until all of them are too late to matter.
# - **Checks after the work**: a text of 4 MB is tokenized for twenty seconds and then refused for its length.
# - **Half a letter sent**: bytes decoded token by token turn emoji and Chinese into replacement characters.
# - **The stop string shown.** What might be its beginning must be held back until it is clear that it is not.
# - **A client that hangs up keeps generating**, and takes a place in every batch until its limit.
# - **Headers without an end.** A thousand connections that send one byte a minute occupy every thread; slow ones need a deadline.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **模型跑在事件循环里。** 回答 `/health` 的线程上有 50 毫秒的步骤，服务器一忙起来看着就像死了。
# - **等待队列没有上限。** 负载一高，每个回答都比上一个更晚，直到全都晚得没有意义。
# - **先干活后检查**：4 MB 的文本先分词二十秒，再因为太长而拒绝。
# - **发出半个字**：逐个词元解码字节，表情符号和汉字就变成了替换字符。
# - **把停止串显示了出来。** 可能是它开头的文字，必须先扣住，确定不是之后再发。
# - **客户端挂断后还在生成**，在每个批次里占着位置，直到长度上限。
# - **永远发不完的请求头。** 一千个连接每分钟只发一个字节，就能占满所有线程；慢连接要有时限。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Yu et al., *Orca: A Distributed Serving System for Transformer-Based Generative Models*, OSDI 2022: batching step by step
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*, [arXiv:2309.06180](https://arxiv.org/abs/2309.06180)
# - The HTML standard, section [Server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html)
# - [The guide to serving](../docs/guides/serving.md), [SECURITY.md](../SECURITY.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Yu 等，*Orca: A Distributed Serving System for Transformer-Based Generative Models*，OSDI 2022：逐步批处理
# - Kwon 等，*Efficient Memory Management for Large Language Model Serving with PagedAttention*，[arXiv:2309.06180](https://arxiv.org/abs/2309.06180)
# - HTML 标准，[Server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html) 一节
# - [服务指南](../docs/guides/serving.md)、[SECURITY.md](../SECURITY.md)
