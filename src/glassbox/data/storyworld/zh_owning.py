"""Chinese sentences of the story world: the plots of those who own something."""

from __future__ import annotations

OWNING = {
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
        {hero.who}突然站住了。{thing}不见了！
        {hero.who}摸了摸口袋，{thing}到哪里去了？
        这时{hero.who}才发现，{thing}丢了。
    """,
    "lost.ask": """
        “你看见我的{thing}了吗？”{hero.he}问{fkind}{friend}。“它在{place.spot}，”{friend.who}说，“就{spot.in}。”
        {fkind}{friend}走了过来。“我在{place.spot}看见过你的{thing}，”{friend.who}说，“它{spot.in}。”
        “我的{thing}在哪里？”{hero.he}问。“它{spot.in}，”{fkind}{friend}说，“我在{place.spot}看见的。”
    """,
    "lost.find": """
        {hero.who}跑回{place}，往{spot}一看，{thing}就在那里！
        {hero.who}回到{place}，{spot.in}找到了{thing}。
        {hero.who}回到{place}，{thing}果然{spot.in}，跟{friend.who}说的一样。
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
        {hero.who}把{thing}收在一个{color}的{box}里。
        每天晚上，{hero.who}都把{thing}放进一个{color}的{box}里。
        {hero.who}把{thing}放进一个{color}的{box}，关得好好的。
    """,
    "hidden.move": """
        {hero.he}不在的时候，屋顶漏了雨，{color}的{box}湿了。{fkind}{friend}把{thing}移到了一个{color2}的{box2}里。
        这时，{fkind}{friend}来收拾屋子，把{thing}从{color}的{box}里拿出来，放进了一个{color2}的{box2}。
        家里，{fkind}{friend}看见老鼠在啃{color}的{box}，就把{thing}放进了一个{color2}的{box2}。
    """,
    "hidden.empty": """
        {hero.who}回到家，打开{color}的{box}，里面是空的！
        {hero.who}回家以后，往{color}的{box}里一看，什么也没有。
        一到家，{hero.who}就打开{color}的{box}。空空的，{hero.he}的脸都白了。
    """,
    "hidden.ask": """
        “我的{thing}在哪里？”{hero.who}问。“在{color2}的{box2}里。”{friend.who}说。
        “有人偷了我的{thing}！”{hero.who}叫道。“没有，”{friend.who}说，“它在{color2}的{box2}里。”
        “别哭，”{friend.who}说，“你的{thing}在{color2}的{box2}里。”
    """,
    "hidden.find": """
        {hero.who}打开{color2}的{box2}，它就在里面。
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
        {fkind}{friend}全看见了。“{taker}{spot.in}。”{friend.who}说。
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
        “我的{thing}在谁那里？”{hero.who}问。“在{third}那里。”{friend.who}说。
        “{friend}，{thing}还在你那里吗？”{hero.who}问。“不在了，现在在{third}那里。”{friend.who}说。
        {hero}向{friend}要{thing}。“我把它给了{third}。”{friend.who}说。
    """,
    "lend.back": """
        当天傍晚，{third}把{thing}擦得干干净净，还了回来。现在{hero}又有{thing}了。
        {third}一路跑来，连声道谢，把{thing}还给了{hero}。
        “还给你，谢谢！”{third}说着，把{thing}交还给{hero}。
    """,
    "lend.keep": """
        {hero}看见{third}那么开心，就说：“你留着吧。”从此{thing}归了{third}。
        “你比我更需要它。”{hero.who}对{third.who}说。从此{third}有了{thing}。
        “送给你了。”{hero.who}温和地说。{third}就留下了{thing}。
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
        {friend.who}本可以不说，却马上去找{hero.who}：“我弄坏了你的{thing}，真对不起。”
        “{hero}，我得跟你说实话，”{friend.who}说，“我把你的{thing}弄坏了。”
        {friend.who}哭了。“我弄坏了{thing}，”{friend.he}对{hero.who}说，“我一定赔。”
    """,
    "broke.mend": """
        {hero}有点难过，却没有生气。他们一起去找{tkind}{third}，{third}把它修好了。
        “谢谢你告诉我。”{hero.who}说。他们请来{tkind}{third}，{third}修好了它。
        {hero}原谅了{friend.he}。{tkind}{third}有办法，修好了{thing}。
    """,
    "broke.pay": """
        为了付工钱，{friend.who}{task.past}。
        作为报答，{friend.who}替{third.who}{task.past}。
        {friend.who}第二天就替{third.who}{task.past}，算是还了人情。
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
        {hero.who}把{thing}放{spot2.in}，双手用力，救出了{stray}。
        {hero.who}立刻把{thing}丢{spot2.in}，跑去救{stray}。
        为了腾出手来，{hero.who}把{thing}搁{spot2.in}，然后抱出了{stray}。
    """,
    "rescue.forget": """
        {hero.who}把{stray}抱到暖和的地方，把{thing}忘得一干二净。
        匆忙之中，{hero.who}忘了拿{thing}。
        回到家，{hero.who}才想起{thing}，可是天已经黑了。
    """,
    "rescue.return": """
        第二天早上，{fkind}{friend}带着{thing}来敲门。“你救了我的{stray}。”{friend.who}说。
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
        “拿{n4}{food.m}{food}去吃吧。”{hero.who}对{friend.who}说。
        {hero}把{n4}{food.m}{food}放到{friend}手里。
    """,
    "share.left": """
        {n3}减{n4}等于{n5}，{hero}还有{n5}{food.m}{food}。
        这样{hero}还剩{n5}{food.m}{food}。
        现在{friend}有{n4}{food.m}{food}，{hero}有{n5}{food.m}{food}。
    """,
    "share.drop": """
        回家的路上，{hero.who}不小心掉了{thing}，{friend.who}捡了起来。
        {hero.who}走后，{friend.who}看见{thing}掉在地上，就捡了起来。
        忽然{weather}，{hero.who}匆匆跑了，忘了{thing}。{friend.who}把它捡了起来。
    """,
    "share.return": """
        “等等，{hero}！你忘了东西。”{friend.who}喊着，把{thing}还给了{hero}。
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
}
