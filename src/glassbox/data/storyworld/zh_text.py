"""Chinese sentences of the story world: sums, requests, summaries, questions, small talk."""

from __future__ import annotations

from glassbox.data.storyworld.zh_owning import OWNING
from glassbox.data.storyworld.zh_wanting import WANTING

SENTENCES = {
    **WANTING,
    **OWNING,
    "sum.start": """
        {hero}有{n1}{goods.m}{goods}。
        {hero}数了数，有{n1}{goods.m}{goods}。
        {hero}的袋子里有{n1}{goods.m}{goods}。
    """,
    "sum.times": """
        {hero}有{n1}个袋子，每个袋子里有{n2}{goods.m}{goods}。
        {hero}装了{n1}个盒子，每个盒子里有{n2}{goods.m}{goods}。
        {hero}摆了{n1}排{goods}，每排{n2}{goods.m}。
    """,
    "sum.plus": """
        后来{hero.he}又找到{n}{goods.m}。
        {friend}又给了{hero.he}{n}{goods.m}。
        {hero.he}又买了{n}{goods.m}。
        邻居又送来{n}{goods.m}。
    """,
    "sum.minus": """
        {hero.he}送给{friend}{n}{goods.m}。
        路上{hero.he}丢了{n}{goods.m}。
        {hero.he}卖掉了{n}{goods.m}。
        {friend}拿走了{n}{goods.m}。
    """,
    "sum.question": """
        现在{hero}有多少{goods.m}{goods}？
        最后还有多少{goods.m}{goods}？
        {hero}手里还有多少{goods.m}{goods}？
    """,
    "chat.tell": """
        请讲一个故事，主角是{kind}{hero}，故事里要有{thing.a}。
        给我讲一个关于{kind}{hero}和{thing.a}的故事吧。
        我想听{kind}{hero}的故事，里面要有{thing.a}。
    """,
    "chat.continue": """
        请把这个故事讲完：
        这个故事接下来怎么样了？
        请续写这个故事：
    """,
    "chat.summary": """
        请用一句话讲讲这个故事：
        请用一句话概括这个故事：
        这个故事讲了什么？请用一句话回答。
    """,
    "chat.read": """
        请读这个故事。
        这里有一个故事。
        听我讲一个故事。
    """,
    "summary.trade": "{kind}{hero}用{thing2.a}跟{friend}换来了{thing.a}。",
    "summary.earn": "{kind}{hero}替{friend}干活，得到了{thing.a}。",
    "summary.coins": "{kind}{hero}攒了{n3}枚铜钱，买到了{thing.a}。",
    "summary.journey": "{kind}{hero}好心帮了{third}，因此找到了{thing.a}。",
    "summary.gift": "{friend}藏起{thing.a}，当作礼物送给{kind}{hero}。",
    "summary.turns": "{kind}{hero}和{friend}为{thing.a}争吵，后来学会了分享。",
    "summary.lost": "{kind}{hero}丢了{thing.a}，在{friend}的帮助下找了回来。",
    "summary.hidden": "{friend}挪动了{kind}{hero}的{thing}，后来{hero}又找到了它。",
    "summary.taken": "{taker.a}抢走了{kind}{hero}的{thing}，{hero}用{food.a}换了回来。",
    "summary.lend": "{kind}{hero}把{thing}借给{friend}，{friend}又借给了{third}。",
    "summary.broke": "{friend}弄坏了{kind}{hero}的{thing}，说了实话，得到了原谅。",
    "summary.rescue": "{kind}{hero}救了{stray.a}，{friend}把{thing}还给了{hero.he}。",
    "summary.share": "{kind}{hero}把{food}分给{friend}，{friend}送回了{hero.he}的{thing}。",
}

# kind: (questions, short answer, full sentence); x is the answer.
ASKINGS = {
    "want": ("{hero}想要什么？|{hero}的愿望是得到什么？", "{x.a}", "{hero}想要{x.a}。"),
    "why": ("{hero}为什么想要{thing.a}？", "为了{x}", "{hero}想要它，是为了{x}。"),
    "own": ("{hero}的宝贝是什么？|{hero}有什么宝贝？", "{x.a}", "{hero}的宝贝是{x.a}。"),
    "kind": ("{hero}是谁？|{hero}是做什么的，还是什么动物？", "{x.a}", "{hero}是{x.a}。"),
    "home": ("{hero}住在哪里？", "{x.near}附近", "{hero}住在{x.near}附近。"),
    "place": ("{hero}去了哪里？", "{x}", "{hero}去了{x}。"),
    "first_place": ("{hero}先去了哪里？", "{x}", "{hero}先去了{x}。"),
    "next_place": ("{hero}接着去了哪里？", "{x}", "{hero}接着去了{x}。"),
    "friend_place": ("{friend}去了哪里？", "{x}", "{friend}去了{x}。"),
    "has": ("最后{item}在谁那里？|故事结束时，谁有{item}？", "{x}", "{item}在{x}那里。"),
    "has_animal": ("最后{item}在谁那里？", "{x}", "{item}在{x}那里。"),
    "who_kind": ("谁是{other}？|他们当中哪一个是{other}？", "{x}", "{x}是{other}。"),
    "found": ("{thing}是在哪里找到的？", "{x.in}", "{thing}是{x.in}找到的。"),
    "lay": ("{item}原来在哪里？", "{x.in}", "{item}原来{x.in}。"),
    "count": ("最后{who}有多少{item.m}{item}？", "{x}{item.m}", "{who}有{x}{item.m}{item}。"),
    "price": ("{thing}卖多少枚铜钱？", "{x}枚", "{thing}卖{x}枚铜钱。"),
    "first_met": ("{hero}先遇见了谁？", "{x}", "{hero}先遇见了{x}。"),
    "first_task": ("{hero}先做了什么？", "{x.past}", "{hero}先{x.past}。"),
    "first_turn": ("谁先用{thing}？", "{x}", "{x}先用{thing}。"),
    "advice": ("谁劝住了争吵？", "{x}", "{x}劝住了他们。"),
    "gave": ("谁送给{hero}礼物？", "{x}", "{x}送给{hero}礼物。"),
    "saw": ("谁看见过{thing}？", "{x}", "{x}看见过{thing}。"),
    "moved": ("谁挪动了{thing}？", "{x}", "{x}挪动了{thing}。"),
    "took": ("谁抢走了{thing}？", "{x}", "{x}抢走了{thing}。"),
    "broke": ("谁弄坏了{thing}？", "{x}", "{x}弄坏了{thing}。"),
    "mended": ("谁修好了{thing}？", "{x}", "{x}修好了{thing}。"),
    "saved": ("{hero}救了什么动物？", "{x.a}", "{hero}救了{x.a}。"),
    "list": ("故事里有谁？|请说出故事里的每一个角色。", "{x}", "故事里有{x}。"),
    "yes_want": ("{hero}想要{y.a}吗？", "{x}", "{x}，{hero}想要的是{thing.a}。"),
    "yes_own": ("{hero}的宝贝是{y.a}吗？", "{x}", "{x}，{hero}的宝贝是{thing.a}。"),
}

PHRASES = {
    "container": "{color}的{box}",
    "in_container": "在{color}的{box}里",
    "and": "和",
    "comma": "、",
    "yes": "是的",
    "no": "不是",
    "question": "问：",
    "answer": "答：",
    "result": "答案：",
    "first": "首先，",
    "then": "然后，",
    "stop": "。",
    "use_tool": "请用工具计算。",
}

# What a user may say in passing, and what the model says then.
SMALL_TALK = (
    ("你好！|嗨！|早上好！", "你好！想听一个故事吗？"),
    (
        "你是谁？|你叫什么名字？|你是什么？",
        "我是 Glassbox，一个小小的语言模型。我会讲故事，也会回答关于故事的问题。",
    ),
    ("你会做什么？|你能帮我什么？", "我会讲故事，回答故事里的问题，还会做简单的算术。"),
    ("谢谢你！|多谢！", "不客气。要不要再听一个故事？"),
    ("再见！|下次见！", "再见！想听故事的时候再来找我。"),
    ("你是人吗？|你是真人吗？", "不是，我是由许多数字组成的小语言模型。"),
    ("你是怎么工作的？|你是怎么做出来的？", "我读了许多小故事，学会了猜下一个词。"),
    ("你好吗？|你感觉怎么样？", "我只是一个模型，不过随时可以讲故事。"),
)
