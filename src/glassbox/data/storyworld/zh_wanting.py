"""Chinese sentences of the story world: openings, and the plots of those who want something."""

from __future__ import annotations

# One block an event, one alternative a line.
WANTING = {
    "open": """
        从前，有一{kind.m}{trait}的{kind}，名叫{hero}，住在{home.near}附近。
        很久很久以前，{home.near}附近住着一{kind.m}{trait}的{kind}，名字叫{hero}。
        {hero}是一{kind.m}{trait}的{kind}，家住{home.near}附近。
        {home.near}附近人人都认识{hero}，一{kind.m}{trait}的{kind}。
        有一{kind.m}{trait}的{kind}住在{home.near}附近，大家都叫{hero.he}{hero}。
    """,
    "want.thing": """
        {hero.he}最想要的是{thing.a}。
        {hero.he}想要{thing.a}，已经想了整整一年。
        {hero.he}心里一直有个愿望：得到{thing.a}。
        “要是我有{thing.a}就好了！”{hero.he}常常说。
        {hero.he}天天晚上都梦见{thing.a}。
    """,
    "want.reason": """
        {hero.he}盼着能{reason}。
        “那样我就可以{reason}了。”{hero.he}逢人就说。
        为什么呢？因为{hero.he}想{reason}。
        {hero.he}每天都盘算着怎样{reason}。
    """,
    "own": """
        {hero.he}最心爱的宝贝是{thing.a}，{hero.he}喜欢{thing.use}。
        {hero.he}有{thing.a}，最爱做的事就是{thing.use}。
        奶奶送给{hero.he}{thing.a}，{hero.he}总爱{thing.use}。
        {hero.he}有{thing.a}，看得比什么都宝贵，常常{thing.use}。
    """,
    "scene": """
        一个{time}，{hero.who}去了{place}。
        在一个{time}，{hero.who}动身前往{place}。
        那是一个{time}，{hero.who}来到了{place}。
    """,
    "detail": """
        麻雀在屋檐上叽叽喳喳地叫。
        远处有只狗叫了两声，又安静下来。
        空气里飘着饭菜和柴火的香味。
        一只蜜蜂懒洋洋地从{hero.he}耳边飞过。
        {hero.he}一路走，一路哼着小曲。
        孩子们在路上跳着绳。
        树叶沙沙响，好像在说悄悄话。
    """,
    "meet": """
        在那里，{hero.he}遇见了{fkind}{friend}。
        {fkind}{friend}已经在那里了。
        你猜{hero.he}碰到了谁？原来是{fkind}{friend}。
        {place.spot}站着{fkind}{friend}。
    """,
    "greet": """
        “你好啊，{hero}！”{friend.who}说。
        “{hero}，见到你真高兴！”{friend.who}说。
        {hero}和{friend}像老朋友一样握了握手。
        {friend}笑着向{hero}招手。
    """,
    "recap.has": """
        现在{thing}在谁那里？在{x}那里。
        “{thing}现在在谁手里？”{passer}问。“在{x}手里。”有人回答。
        这时候，{thing}在{x}手里。
    """,
    "recap.has_animal": """
        现在{thing}在谁那里？在{x}那里。
        “{thing}现在在哪里？”{passer}问。“被{x}拿走了。”有人回答。
    """,
    "recap.at": """
        {hero}现在在哪里呢？{hero.he}{x.in}。
        “{hero}现在在哪里？”{passer}问。“{hero.he}{x.in}。”有人回答。
    """,
    "recap.thing": """
        那么，{thing}在哪里呢？它{x.in}。
        “{thing}在哪里？”{passer}问。只有风知道，它{x.in}。
        这段时间里，{thing}一直{x.in}。
    """,
    "recap.food": """
        现在{food}在{x}手里。
        {food}在谁那里？在{x}那里。
    """,
    "trade.offer": """
        {friend.who}正好有{thing.a}。“你拿{thing2.a}来换吧。”{friend.who}说。
        看哪，{friend.who}手里就有{thing.a}！“给我{thing2.a}，它就归你。”{friend.who}说。
        “那是{thing.a}吗？”{hero.who}叫了起来。“是的，”{friend.who}说，“我想用它换{thing2.a}。”
    """,
    "trade.fetch": """
        {hero}家里有{thing2.a}，就放{spot.in}。{hero.he}一路跑回家，把它拿了来。
        幸好{hero}家里{spot}有{thing2.a}。{hero.he}赶紧回家去取。
        {hero}想起家里有{thing2.a}。{hero.he}{spot.in}找到了它，带了回来。
    """,
    "trade.swap": """
        于是{hero}把{thing2}给了{friend}，{friend}把{thing}给了{hero}。
        就这样，他们交换了：{thing2}归{friend}，{thing}归{hero}。
        “一言为定！”{friend}接过{thing2}，把{thing}递给了{hero}。
    """,
    "trade.end": """
        现在{hero}有了{thing}，{friend}有了{thing2}，两人都笑着回家了。
        {hero}把{thing}带回家，{friend}留下了{thing2}，谁也没有后悔。
        那天晚上，{hero}守着{thing}，{friend}围着{thing2}跳起了舞。
    """,
    "moral.trade": """
        公平的交换让两个人都高兴。
        你用不着的东西，也许正是朋友要找的。
        买卖公道，朋友长久。
    """,
    "earn.offer": """
        {friend.who}有{thing.a}。“今天帮我干活，它就是你的。”{friend.who}对{hero.who}说。
        “我有{thing.a}，平时用不着，”{friend.who}说，“你替我干一天活，就拿去吧。”
        “你要是帮我干到太阳下山，”{friend.who}说，“我就送你{thing.a}。”
    """,
    "earn.work": """
        {hero.who}先{task.past}，然后又{task2.past}。
        上午，{hero.who}{task.past}。下午，{hero.he}{task2.past}。
        {hero.who}一早就{task.past}，吃过午饭又{task2.past}。
    """,
    "earn.hard": """
        {hero.he}的胳膊又酸又疼，可是{hero.he}没有停下。
        活儿很累，{hero.he}就唱着歌给自己打气。
        后来{weather}，{hero.he}还是接着干。
    """,
    "earn.pay": """
        “你说到做到。”{friend.who}说着，把{thing}给了{hero}。
        傍晚，{friend}把{thing}交给{hero}，说：“这是你应得的。”
        {friend}点点头，取来{thing}，放到{hero}手里。
    """,
    "earn.end": """
        {hero}带着{thing}回家，又累又自豪。
        现在{thing}是{hero}的了，{hero.he}格外爱惜它。
        {hero}抱着{thing}回家，一觉睡到第二天中午。
    """,
    "moral.earn": """
        自己挣来的东西最珍贵。
        一分耕耘，一分收获。
        光坐着不动，愿望不会成真。
    """,
    "coins.saved": """
        {hero.who}已经攒了{n1}枚铜钱。
        {hero.who}的存钱罐里有{n1}枚铜钱。
        {hero.who}数了数自己的钱，一共{n1}枚铜钱。
    """,
    "coins.earned": """
        {hero.he}帮{fkind}{friend}{task}，得到{n2}枚铜钱。
        “请帮我{task}吧。”{fkind}{friend}说。{hero}照办了，挣到{n2}枚铜钱。
        {fkind}{friend}请{hero.he}{task}，付给{hero.he}{n2}枚铜钱。
    """,
    "coins.total": """
        {n1}枚加{n2}枚，现在{hero.he}有{n3}枚铜钱了。
        “{n1}加{n2}等于{n3}。”{hero.he}数着铜钱。
        原来的{n1}枚和新挣的{n2}枚，合起来是{n3}枚。
    """,
    "coins.price": """
        那里有人在卖{thing.a}，要{n3}枚铜钱。
        那里正好有{thing.a}出售，价钱是{n3}枚铜钱。
        “快来看，{thing.a}只要{n3}枚铜钱！”一个商人喊着。
    """,
    "coins.buy": """
        {hero}付了{n3}枚铜钱，买下了{thing}。
        {hero}数出{n3}枚铜钱，{thing}就归{hero.he}了。
        “给你{n3}枚铜钱。”{hero}说着，买下了{thing}。
    """,
    "coins.end": """
        {hero}的钱袋空了，可是{hero.he}有了{thing}。
        {hero}跑去把{thing}拿给{friend}看，{friend}也替{hero.he}高兴。
        {hero}一枚钱也不剩，却带着{thing}高高兴兴地回了家。
    """,
    "moral.coins": """
        积少成多，聚沙成塔。
        会等待、会积攒的人，不用向人借。
        有耐心，钱袋才会满。
    """,
    "journey.rumour": """
        {hero.who}听说{place.spot}有{thing.a}，早被人忘了。一个{time}，{hero.he}出发了。
        “{place.spot}藏着{thing.a}。”{passer}告诉{hero.who}。一个{time}，{hero.he}就去找它。
        人们都说，{place.spot}能找到{thing.a}。一个{time}，{hero.who}穿上靴子上了路。
    """,
    "journey.first": """
        路上，{hero.he}遇见了{fkind}{friend}，{friend}给了{hero.he}{food.a}。
        {hero.he}先碰到了{fkind}{friend}。“带上{food.a}吧。”{friend.who}说。
        没走多远，{fkind}{friend}迎面走来，送给{hero.he}{food.a}路上吃。
    """,
    "journey.second": """
        后来{hero.he}遇见了{tkind}{third}，{third}饿极了。{hero}就把{food}给了{third}。
        再往前走，{tkind}{third}坐在路边，又累又饿。{hero}把{food}给了{third}。
        接着{hero.he}碰到{tkind}{third}。“我一天没吃东西了。”{third.who}说。{hero}便把{food}给了{third}。
    """,
    "journey.clue": """
        “去{spot}看看吧。”{third.who}感激地说。
        “你心肠真好，”{third.who}说，“告诉你一个秘密：去{spot}找。”
        {third.who}吃完，悄悄地说：“你要找的东西就在{spot}。”
    """,
    "journey.find": """
        {hero.who}到了{place}，{spot.in}一看，{thing}果然在那里！
        于是{hero.who}来到{place}，{spot.in}找到了{thing}。
        {hero.who}一到{place}，就看见{thing}真的{spot.in}。
    """,
    "journey.end": """
        {hero}把{thing}带回家，永远记得{third}。
        {hero}带着{thing}，一路跳着舞回家。
        从此{hero}有了{thing}，还多了{third}这个朋友。
    """,
    "moral.journey": """
        路上的善意会回到你身边。
        小小的礼物能打开大大的门。
        肯分出最后一口饭的人，永远不会穷。
    """,
    "gift.plan": """
        {fkind}{friend}听说了这件事，偷偷买了{thing.a}。
        {fkind}{friend}是个真朋友，悄悄弄到了{thing.a}。
        {fkind}{friend}知道这个愿望。有一天，{friend.he}带回{thing.a}，谁也没告诉。
    """,
    "gift.hide": """
        {friend.he}把它藏{spot.in}。
        为了给人惊喜，{friend.he}把它放{spot.in}。
        没有人看见，{friend.he}把它藏{spot.in}。
    """,
    "gift.invite": """
        一个{time}，{friend.who}把{hero.who}叫到家里，说：“这里有个惊喜，你来找吧！”
        一个{time}，{friend.who}请{hero.who}来做客。“我家藏着一样东西，”{friend.he}笑着说，“找找看！”
    """,
    "gift.search": """
        {hero.who}看了看{spot2}，什么也没有！“不对，不对。”{friend.who}说。
        {hero.who}先去{spot2}找，那里只有灰尘。
        “是{spot2.in}吗？”{hero.who}问。“不是。”{friend.who}说。
    """,
    "gift.find": """
        {hero.who}又看了看{spot}，{thing}就在那里！
        最后{hero.who}去{spot}找。“我找到{thing}了！”{hero.he}喊道。
        “那一定{spot.in}！”{hero.who}说着，拿出了{thing}。
    """,
    "gift.end": """
        {hero}抱了抱{friend}，把{thing}带回了家。
        “它是你的了。”{friend}说。{hero}整个晚上都舍不得放下{thing}。
        现在{hero}有了{thing}，更有了{friend}这样的好朋友。
    """,
    "moral.gift": """
        好朋友会记住你的愿望。
        最好的礼物是悄悄送出的。
        给别人快乐，自己也快乐。
    """,
    "turns.see": """
        在那里，{hero.he}{spot.in}发现了{thing.a}。
        {spot}有一样东西，原来是{thing.a}！
        {hero.he}往{spot}一看，看见了{thing.a}。
    """,
    "turns.grab": """
        可是{fkind}{friend}也抓住了它。“这是我的！”两个都喊。
        “是我先看见的！”{fkind}{friend}叫道。“不，是我！”{hero}也叫道。
        就在这时，{fkind}{friend}也伸手来抢，两个争了起来。
    """,
    "turns.third": """
        {tkind}{third}听见了吵闹声。“别吵了，轮流用吧。”{third.who}说。
        这时{tkind}{third}走了过来。“你们可以一起用呀。”{third.who}说。
        “再抢就要坏了。”路过的{tkind}{third}说。
    """,
    "turns.rule": """
        于是{first}先用{thing}，然后轮到{second}。
        他们抽了签：{first}第一个用{thing}，{second}第二个用。
        “{first}先用{thing}，{second}后用。”大家都同意了。
    """,
    "turns.end": """
        从那天起，{hero}和{friend}共用{thing}，再也不吵架了。
        不久，{hero}和{friend}发现，两个一起用{thing}更有意思。
        {hero}和{friend}成了朋友，{thing}归两个共有。
    """,
    "moral.turns": """
        懂得轮流，大家都赢。
        分享比争吵好。
        两个争，都会输；两个分，都快乐。
    """,
}
