"""Chinese sentences of the story world: one block an event, one alternative a line."""

from __future__ import annotations

SENTENCES = {
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
        一个{time}，{hero}去了{place}。
        在一个{time}，{hero}动身前往{place}。
        那是一个{time}，{hero}来到了{place}。
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
        “你好啊，{hero}！”{friend}说。
        “{hero}，见到你真高兴！”{friend}说。
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
        {friend}正好有{thing.a}。“你拿{thing2.a}来换吧。”{friend}说。
        看哪，{friend}手里就有{thing.a}！“给我{thing2.a}，它就归你。”{friend}说。
        “那是{thing.a}吗？”{hero}叫了起来。“是的，”{friend}说，“我想用它换{thing2.a}。”
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
        {friend}有{thing.a}。“今天帮我干活，它就是你的。”{friend}对{hero}说。
        “我有{thing.a}，平时用不着，”{friend}说，“你替我干一天活，就拿去吧。”
        “你要是帮我干到太阳下山，”{friend}说，“我就送你{thing.a}。”
    """,
    "earn.work": """
        {hero}先{task.past}，然后又{task2.past}。
        上午，{hero}{task.past}。下午，{hero.he}{task2.past}。
        {hero}一早就{task.past}，吃过午饭又{task2.past}。
    """,
    "earn.hard": """
        {hero.he}的胳膊又酸又疼，可是{hero.he}没有停下。
        活儿很累，{hero.he}就唱着歌给自己打气。
        后来{weather}，{hero.he}还是接着干。
    """,
    "earn.pay": """
        “你说到做到。”{friend}说着，把{thing}给了{hero}。
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
        {hero}已经攒了{n1}枚铜钱。
        {hero}的存钱罐里有{n1}枚铜钱。
        {hero}数了数自己的钱，一共{n1}枚铜钱。
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
        {hero}听说{place.spot}有{thing.a}，早被人忘了。一个{time}，{hero.he}出发了。
        “{place.spot}藏着{thing.a}。”{passer}告诉{hero}。一个{time}，{hero.he}就去找它。
        人们都说，{place.spot}能找到{thing.a}。一个{time}，{hero}穿上靴子上了路。
    """,
    "journey.first": """
        路上，{hero.he}遇见了{fkind}{friend}，{friend}给了{hero.he}{food.a}。
        {hero.he}先碰到了{fkind}{friend}。“带上{food.a}吧。”{friend}说。
        没走多远，{fkind}{friend}迎面走来，送给{hero.he}{food.a}路上吃。
    """,
    "journey.second": """
        后来{hero.he}遇见了{tkind}{third}，{third}饿极了。{hero}就把{food}给了{third}。
        再往前走，{tkind}{third}坐在路边，又累又饿。{hero}把{food}给了{third}。
        接着{hero.he}碰到{tkind}{third}。“我一天没吃东西了。”{third}说。{hero}便把{food}给了{third}。
    """,
    "journey.clue": """
        “去{spot}看看吧。”{third}感激地说。
        “你心肠真好，”{third}说，“告诉你一个秘密：去{spot}找。”
        {third}吃完，悄悄地说：“你要找的东西就在{spot}。”
    """,
    "journey.find": """
        {hero}到了{place}，{spot.in}一看，{thing}果然在那里！
        于是{hero}来到{place}，{spot.in}找到了{thing}。
        {hero}一到{place}，就看见{thing}真的{spot.in}。
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
        一个{time}，{friend}把{hero}叫到家里，说：“这里有个惊喜，你来找吧！”
        一个{time}，{friend}请{hero}来做客。“我家藏着一样东西，”{friend.he}笑着说，“找找看！”
    """,
    "gift.search": """
        {hero}看了看{spot2}，什么也没有！“不对，不对。”{friend}说。
        {hero}先去{spot2}找，那里只有灰尘。
        “是{spot2.in}吗？”{hero}问。“不是。”{friend}说。
    """,
    "gift.find": """
        {hero}又看了看{spot}，{thing}就在那里！
        最后{hero}去{spot}找。“我找到{thing}了！”{hero.he}喊道。
        “那一定{spot.in}！”{hero}说着，拿出了{thing}。
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
        {tkind}{third}听见了吵闹声。“别吵了，轮流用吧。”{third}说。
        这时{tkind}{third}走了过来。“你们可以一起用呀。”{third}说。
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
    "lost.put": """
        {hero.he}把{thing}放{spot.in}，转身就忘了。
        {hero.he}坐下来歇脚，顺手把{thing}搁{spot.in}，就忘了这回事。
        {hero.he}想着别的事，把{thing}忘{spot.in}了。
    """,
    "lost.move": """
        接着{hero.he}又去了{place2}。
        后来{hero.he}往前走，到了{place2}。
        忽然{weather}，{hero.he}赶紧跑到{place2}。
    """,
    "lost.miss": """
        {hero}突然站住了。{thing}不见了！
        {hero}摸了摸口袋，{thing}到哪里去了？
        这时{hero}才发现，{thing}丢了。
    """,
    "lost.ask": """
        “你看见我的{thing}了吗？”{hero.he}问{fkind}{friend}。“它在{place.spot}，”{friend}说，“就{spot.in}。”
        {fkind}{friend}走了过来。“我在{place.spot}看见过你的{thing}，”{friend}说，“它{spot.in}。”
        “我的{thing}在哪里？”{hero.he}问。“它{spot.in}，”{fkind}{friend}说，“我在{place.spot}看见的。”
    """,
    "lost.find": """
        {hero}跑回{place}，往{spot}一看，{thing}就在那里！
        {hero}回到{place}，{spot.in}找到了{thing}。
        {hero}回到{place}，{thing}果然{spot.in}，跟{friend}说的一样。
    """,
    "lost.end": """
        {hero}谢过{friend}，小心地把{thing}带回了家。
        从此{hero}再也不让{thing}离开自己的眼睛。
        {hero}又有了{thing}，答应请{friend}吃蛋糕。
    """,
    "moral.lost": """
        心爱的东西要好好保管。
        东西要放在该放的地方。
        只要开口问，总有人会帮你。
    """,
    "hidden.put": """
        {hero}把{thing}收在一个{color}的{box}里。
        每天晚上，{hero}都把{thing}放进一个{color}的{box}里。
        {hero}把{thing}放进一个{color}的{box}，关得好好的。
    """,
    "hidden.move": """
        {hero.he}不在的时候，{weather}，{color}的{box}湿了。{fkind}{friend}把{thing}移到了一个{color2}的{box2}里。
        这时，{fkind}{friend}来收拾屋子，把{thing}从{color}的{box}里拿出来，放进了一个{color2}的{box2}。
        家里，{fkind}{friend}看见老鼠在啃{color}的{box}，就把{thing}放进了一个{color2}的{box2}。
    """,
    "hidden.empty": """
        {hero}回到家，打开{color}的{box}，里面是空的！
        {hero}回家以后，往{color}的{box}里一看，什么也没有。
        一到家，{hero}就打开{color}的{box}。空空的，{hero.he}的脸都白了。
    """,
    "hidden.ask": """
        “我的{thing}在哪里？”{hero}问。“在{color2}的{box2}里。”{friend}说。
        “有人偷了我的{thing}！”{hero}叫道。“没有，”{friend}说，“它在{color2}的{box2}里。”
        “别哭，”{friend}说，“你的{thing}在{color2}的{box2}里。”
    """,
    "hidden.find": """
        {hero}打开{color2}的{box2}，它就在里面。
        可不是嘛，它好好地躺在{color2}的{box2}里。
        果然，{thing}就在{color2}的{box2}里。
    """,
    "hidden.end": """
        {hero}紧紧抱着{thing}，笑自己白白吓了一跳。
        {hero}拿出{thing}，感谢{friend}想得周到。
        {hero}又有了{thing}，{friend}答应下次留张字条。
    """,
    "moral.hidden": """
        先问清楚，再责怪人。
        看不见的东西不一定丢了。
        动了朋友的东西，要告诉朋友。
    """,
    "taken.take": """
        {hero.he}刚把{thing}放下，一只调皮的{taker}抢了就跑！
        一只饿坏了的{taker}悄悄过来，叼起{thing}就逃。
        {hero.he}一转身，一只{taker}已经拿了{thing}逃走了。
    """,
    "taken.see": """
        {fkind}{friend}全看见了。“{taker}{spot.in}。”{friend}说。
        “去{spot}看看，”{fkind}{friend}说，“{taker}往那边跑了。”
        “你在找{taker}吗？”{fkind}{friend}问，“它就{spot.in}。”
    """,
    "taken.bait": """
        {hero}往{spot}一看，{thing}就在那里。{hero.he}拿出{food.a}，递给{taker}。
        {spot}，{taker}正守着{thing}。{hero}拿出{food.a}逗它。
        {hero}{spot.in}找到了{taker}。“你想吃{food.a}吗？”{hero.he}轻声问。
    """,
    "taken.back": """
        {taker}接过{food}，把{thing}还给了{hero}。
        {taker}马上丢下{thing}，拿走了{food}。
        {taker}更喜欢{food}，就放开了{thing}。
    """,
    "taken.end": """
        现在{taker}有了{food}，{hero}又有了{thing}。
        {hero}带着{thing}回家，{taker}留下了{food}。
        就这样，{hero}拿回了{thing}，{taker}得到了{food}。
    """,
    "moral.taken": """
        送一样礼物，胜过追一里路。
        饿肚子的小偷需要的是饭，不是棍子。
        好言好语最能打动人。
    """,
    "lend.first": """
        一个{time}，{hero}把{thing}借给了{fkind}{friend}。
        “能借我{thing}吗？”一个{time}，{fkind}{friend}问。{hero}就把它给了{friend}。
        一个{time}，{fkind}{friend}需要{thing.a}，{hero}就把自己的借给了{friend.he}。
    """,
    "lend.second": """
        过了几天，{friend}又把{thing}借给了{tkind}{third}。
        可是{tkind}{third}也需要{thing}，{friend}就把它给了{third}。
        第二个星期，{friend}把{thing}转给了{tkind}{third}。
    """,
    "lend.ask": """
        “我的{thing}在谁那里？”{hero}问。“在{third}那里。”{friend}说。
        “{friend}，{thing}还在你那里吗？”{hero}问。“不在了，现在在{third}那里。”{friend}说。
        {hero}向{friend}要{thing}。“我把它给了{third}。”{friend}说。
    """,
    "lend.back": """
        当天傍晚，{third}把{thing}擦得干干净净，还了回来。现在{hero}又有{thing}了。
        {third}一路跑来，连声道谢，把{thing}还给了{hero}。
        “还给你，谢谢！”{third}说着，把{thing}交还给{hero}。
    """,
    "lend.keep": """
        {hero}看见{third}那么开心，就说：“你留着吧。”从此{thing}归了{third}。
        “你比我更需要它。”{hero}对{third}说。从此{third}有了{thing}。
        “送给你了。”{hero}温和地说。{third}就留下了{thing}。
    """,
    "moral.lend": """
        好东西传来传去，越传越好。
        信任能换来朋友。
        大方的人，手里永远不会空。
    """,
    "broke.borrow": """
        一个{time}，{fkind}{friend}借走了{thing}，带着它去了{place}。
        {fkind}{friend}在一个{time}借了{thing}，拿着它到{place}去。
        “把{thing}借给我吧。”一个{time}，{fkind}{friend}说，随后带着它去了{place}。
    """,
    "broke.break": """
        在那里，忽然{weather}，{friend}滑了一跤，把{thing}弄坏了。
        没想到{weather}。{friend}摔倒了，{thing}也坏了。
        后来{weather}，{friend}跑去躲避，慌忙中弄坏了{thing}。
    """,
    "broke.tell": """
        {friend}本可以不说，却马上去找{hero}：“我弄坏了你的{thing}，真对不起。”
        “{hero}，我得跟你说实话，”{friend}说，“我把你的{thing}弄坏了。”
        {friend}哭了。“我弄坏了{thing}，”{friend.he}对{hero}说，“我一定赔。”
    """,
    "broke.mend": """
        {hero}有点难过，却没有生气。他们一起去找{tkind}{third}，{third}把它修好了。
        “谢谢你告诉我。”{hero}说。他们请来{tkind}{third}，{third}修好了它。
        {hero}原谅了{friend.he}。{tkind}{third}有办法，修好了{thing}。
    """,
    "broke.pay": """
        为了付工钱，{friend}{task.past}。
        作为报答，{friend}替{third}{task.past}。
        {friend}第二天就替{third}{task.past}，算是还了人情。
    """,
    "broke.end": """
        {hero}拿回了{thing}，也更信任{friend}了。
        {hero}又有了{thing}，跟新的一样，{friend}也能睡个安稳觉了。
        {third}把{thing}还给{hero}，两个朋友又笑了。
    """,
    "moral.broke": """
        实话比胶水粘得更牢。
        说“对不起”需要勇气。
        东西能修好，友情也能修好。
    """,
    "rescue.hear": """
        忽然{weather}。{hero.he}听见叫声：{stray.a}被困{spot.in}。
        后来{weather}，有谁在呼救。原来是{stray.a}，卡{spot.in}。
        {spot}，{hero.he}看见{stray.a}动弹不得。偏偏这时{weather}！
    """,
    "rescue.help": """
        {hero}把{thing}放{spot2.in}，双手用力，救出了{stray}。
        {hero}立刻把{thing}丢{spot2.in}，跑去救{stray}。
        为了腾出手来，{hero}把{thing}搁{spot2.in}，然后抱出了{stray}。
    """,
    "rescue.forget": """
        {hero}把{stray}抱到暖和的地方，把{thing}忘得一干二净。
        匆忙之中，{hero}忘了拿{thing}。
        回到家，{hero}才想起{thing}，可是天已经黑了。
    """,
    "rescue.return": """
        第二天早上，{fkind}{friend}带着{thing}来敲门。“你救了我的{stray}。”{friend}说。
        {stray}的主人是{fkind}{friend}，{friend.he}找到{thing}，给{hero}送了回来。
        “谢谢你救了我的{stray}。”{fkind}{friend}说。{friend.he}捡到了{thing}，现在还给{hero}。
    """,
    "rescue.end": """
        就这样，{hero}又有了{thing}，{stray}天天来看{hero.he}。
        {hero}拿回{thing}很高兴，{stray}平安无事更让{hero.he}高兴。
        {hero}摸了摸{stray}，把{thing}放回了原处。
    """,
    "moral.rescue": """
        做了好事，好事会找上门来。
        一条小生命比任何宝贝都贵重。
        先帮忙，后算账。
    """,
    "share.had": """
        {hero.he}的口袋里有{n1}{food.m}{food}。
        {hero.he}的篮子里装着{n1}{food.m}{food}。
        {hero.he}随身带了{n1}{food.m}{food}。
    """,
    "share.found": """
        老邻居又给了{hero.he}{n2}{food.m}。
        路上有人又送给{hero.he}{n2}{food.m}。
        后来{hero.he}又买了{n2}{food.m}。
    """,
    "share.total": """
        现在{hero.he}有{n3}{food.m}{food}。
        {n1}加{n2}等于{n3}，{hero.he}有{n3}{food.m}{food}了。
        “{n1}加{n2}，一共{n3}{food.m}{food}。”{hero.he}数着。
    """,
    "share.meet": """
        {fkind}{friend}坐在那里，什么吃的也没有。
        “我好饿啊。”坐在那里的{fkind}{friend}叹气说。
        {hero.he}遇见了{fkind}{friend}，{friend}的口袋空空的。
    """,
    "share.give": """
        {hero}给了{friend}{n4}{food.m}{food}。
        “拿{n4}{food.m}{food}去吃吧。”{hero}对{friend}说。
        {hero}把{n4}{food.m}{food}放到{friend}手里。
    """,
    "share.left": """
        {n3}减{n4}等于{n5}，{hero}还有{n5}{food.m}{food}。
        这样{hero}还剩{n5}{food.m}{food}。
        现在{friend}有{n4}{food.m}{food}，{hero}有{n5}{food.m}{food}。
    """,
    "share.drop": """
        回家的路上，{hero}不小心掉了{thing}，{friend}捡了起来。
        {hero}走后，{friend}看见{thing}掉在地上，就捡了起来。
        忽然{weather}，{hero}匆匆跑了，忘了{thing}。{friend}把它捡了起来。
    """,
    "share.return": """
        “等等，{hero}！你忘了东西。”{friend}喊着，把{thing}还给了{hero}。
        {friend}追上{hero}，把{thing}还给了{hero.he}。
        {friend}来到{hero}家，把{thing}还给了{hero}。
    """,
    "share.end": """
        就这样，{hero}有{thing}和{n5}{food.m}{food}，{friend}有{n4}{food.m}{food}。
        {friend}吃着{n4}{food.m}{food}，{hero}吃着{n5}{food.m}，{thing}好好地放在{hero}身边。
        {hero}带着{thing}和{n5}{food.m}{food}回家，{friend}也不饿了。
    """,
    "moral.share": """
        肯分享的人不会吃亏。
        和朋友分着吃，半顿饭也香。
        善良从来不会白费。
    """,
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
