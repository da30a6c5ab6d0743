"""Chinese words of the story world. Kinds, things, places and foods share their ids with English."""

from __future__ import annotations

from glassbox.data.storyworld.en_lexicon import INDOORS
from glassbox.data.storyworld.template import Entity

GIRLS = (
    "小兰 小梅 小红 小玉 小燕 小霞 小芳 小娟 阿珍 阿秀 阿莲 阿桃 "
    "晓月 晓云 晓雪 丽丽 婷婷 圆圆 甜甜 文文 冰冰 莎莎 佳佳 蓉蓉"
)
BOYS = (
    "小明 小刚 小强 小军 小龙 小虎 小杰 小伟 阿福 阿牛 阿贵 阿宝 "
    "大勇 大壮 大成 大志 明明 亮亮 乐乐 壮壮 东东 涛涛 豆豆 阳阳"
)
# id word/measure word
KINDS = """
baker 面包师/位; gardener 园丁/位; fisher 渔民/位; shepherd 牧羊人/位; painter 画家/位
tailor 裁缝/位; sailor 水手/位; farmer 农民/位; teacher 老师/位; carpenter 木匠/位
potter 陶匠/位; miller 磨坊主/位; beekeeper 养蜂人/位; weaver 织布匠/位; clockmaker 钟表匠/位
drummer 鼓手/位; cobbler 鞋匠/位; blacksmith 铁匠/位; doctor 医生/位; cook 厨师/位
fox 狐狸/只; rabbit 兔子/只; bear 棕熊/只; mouse 老鼠/只; owl 猫头鹰/只; hedgehog 刺猬/只
frog 青蛙/只; badger 獾/只; duck 鸭子/只; squirrel 松鼠/只
"""
TRAITS = (
    "善良 勇敢 好奇 聪明 快活 温柔 诚实 害羞 倔强 耐心 骄傲 年轻 "
    "细心 文静 乐观 体贴 热心 大胆 爱幻想 爱干净 健忘 活泼 谦虚 和气"
)
COLORS = "红色 蓝色 绿色 黄色 白色 黑色 棕色 灰色 紫色 橙色"
BOXES = "箱子 篮子 柜子 木盒 铁皮桶 布袋 抽屉 背篓 竹筐 皮箱"
TAKERS = "山羊 小狗 猴子 乌鸦 喜鹊 鹦鹉 八哥 大白鹅"
STRAYS = "小猫/只; 小羊羔/只; 小猪/头; 小牛/头; 小马驹/匹; 小鸡/只; 小鹅/只; 小毛驴/头"

# id noun/what follows it to name the spot
PLACES = """
market 集市/上; garden 花园/里; river 河/边; mill 磨坊/里; forest 森林/里; hill 山坡/上
bridge 石桥/上; harbour 港口/; school 学校/里; meadow 草地/上; barn 谷仓/里
village square 村口广场/上; lake 湖/边; orchard 果园/里; well 水井/旁; castle 城堡/里; beach 沙滩/上
cave 山洞/里; library 图书馆/里; old tower 古塔/里; farm 农场/上; inn 客栈/里; station 车站/里
crossroads 十字路口/; wheat field 麦田/里; lighthouse 灯塔/里; bakery 面包房/里; island 小岛/上
valley 山谷/里; pond 池塘/边; park 公园/里; fountain 喷泉/旁; workshop 作坊/里; stable 马厩/里
greenhouse 花房/里; town gate 城门/口
"""
# id word/measure word: what one does with it
THINGS = """
kite 风筝/只: 在山坡上把它放得高高的
drum 鼓/面: 在节日里敲响它
flute 笛子/支: 在星空下吹它
lantern 灯笼/盏: 提着它走夜路
scarf 围巾/条: 在冷天围上它
map 地图/张: 照着它去远方
book 书/本: 坐在火炉边读它
toy boat 玩具船/只: 让它漂在水上
ball 皮球/个: 对着墙拍它
doll 布娃娃/个: 给它穿上绸衣
hat 帽子/顶: 星期天戴上它
coat 大衣/件: 穿着它过冬
ring 戒指/枚: 戴着它去跳舞
bell 铃铛/个: 每天早上摇响它
clock 座钟/台: 夜里听它滴答响
mirror 镜子/面: 把它挂在门边
lamp 台灯/盏: 晚上在它旁边看书
blanket 毯子/条: 盖着它睡觉
pillow 枕头/个: 枕着它休息
rope 绳子/根: 用它做一个秋千
hammer 锤子/把: 用它盖一间小屋
saw 锯子/把: 用它锯木柴
spade 铲子/把: 用它翻地
rake 耙子/把: 用它耙树叶
broom 扫帚/把: 用它打扫院子
brush 刷子/把: 用它刷篱笆
pen 钢笔/支: 用它写长长的信
notebook 本子/个: 在上面画小鸟
compass 指南针/个: 用它找北方
telescope 望远镜/架: 用它看月亮
umbrella 雨伞/把: 下雨天撑着它
teapot 茶壶/把: 用它泡薄荷茶
cup 杯子/个: 早饭时用它喝水
spoon 勺子/把: 用它搅汤
kettle 水壶/把: 用它烧水
pan 平底锅/口: 用它煎鸡蛋
whistle 哨子/个: 用它唤狗
fiddle 小提琴/把: 在婚礼上拉它
trumpet 小号/把: 在塔楼上吹响它
guitar 吉他/把: 弹着它唱歌
puzzle 拼图/盒: 在长夜里拼好它
puppet 木偶/个: 让它跳舞
fishing rod 鱼竿/根: 用它钓鳟鱼
net 渔网/张: 用它捉螃蟹
flag 旗子/面: 在屋顶上挥舞它
crown 王冠/顶: 演戏时戴上它
necklace 项链/条: 戴着它配绸裙子
candle 蜡烛/支: 晚饭时点上它
vase 花瓶/个: 用它插玫瑰
picture 画/幅: 把它挂在床头
watch 手表/块: 用它看时间
mask 面具/个: 戴着它去赶庙会
cloak 斗篷/件: 夜里裹着它
needle 针/根: 用它补衬衫
rug 地毯/块: 坐在上面烤火
magnifying glass 放大镜/个: 用它看甲虫
"""
REASONS = """
带它去赶夏天的集; 把它送给年老的姑姑; 拿它给孩子们看; 带它去逛庙会; 把它送给生病的邻居
带着它出远门; 用它给奶奶一个惊喜; 靠它赢得村里的比赛; 用它教小朋友们
"""
SPOTS_INSIDE = """
长凳下面; 门背后; 架子的最上层; 炉子旁边; 楼梯下面; 窗帘后面; 窗台上; 桌子底下; 梯子下面
碗橱后面; 最暗的角落里; 最高的房梁上
"""
SPOTS_OUTSIDE = """
老橡树下; 两块石头中间; 树洞里; 栅栏门旁边; 树篱后面; 高高的草丛里; 木桩旁边; 小路旁边
树墩上; 柴堆后面; 大车下面; 蚂蚁窝旁边; 大石头后面; 落叶下面
"""
TIMES = """
晴朗的早晨; 寒冷的傍晚; 刮风的下午; 下雨的早晨; 明媚的春日; 炎热的夏日; 有雾的秋晨; 结霜的冬日
安静的傍晚; 暖和的下午; 阴沉的早晨; 凉爽的清晨; 热闹的赶集日; 飘雪的下午; 愉快的星期天; 明亮的秋日
"""
WEATHERS = """
下起了大雨; 刮起了大风; 起了浓雾; 下起了大雪; 来了一场暴风雨; 下起了冰雹; 河水漫上了岸
天上划过一道闪电
"""
PASSERS = """
一位老奶奶; 一个小男孩; 一个过路的旅人; 邮递员; 一个好奇的邻居; 一个高个子的陌生人
一个小姑娘; 一个商人; 村长; 一位老爷爷
"""
# what is done/done
TASKS = """
扫地/扫了地; 喂鸡/喂了鸡; 挑水/挑了水; 劈柴/劈了柴; 刷篱笆/刷了篱笆; 修屋顶/修了屋顶
擦窗户/擦了窗户; 摘苹果/摘了苹果; 挤牛奶/挤了牛奶; 烤面包/烤了面包; 浇花/浇了花
堆干草/堆了干草; 削土豆/削了土豆; 打扫厨房/打扫了厨房; 挖水沟/挖了水沟; 擦靴子/擦了靴子
叠床单/叠了床单; 拔草/拔了草; 数羊/数了羊; 刷马/刷了马; 装货箱/装了货箱; 揉面/揉了面
洗锅/洗了锅; 挑种子/挑了种子; 晾衣服/晾了衣服; 剥豌豆/剥了豌豆; 装马车/装了马车
做黄油/做了黄油; 捡鸡蛋/捡了鸡蛋; 剪羊毛/剪了羊毛
"""
FOODS = """
plum 李子/个; apple 苹果/个; pear 梨/个; nut 榛子/颗; cherry 樱桃/颗; egg 鸡蛋/个; bun 馒头/个
carrot 胡萝卜/根; biscuit 饼干/块; peach 桃子/个; turnip 萝卜/个; onion 洋葱/个; potato 土豆/个
mushroom 蘑菇/朵; lemon 柠檬/个; orange 橘子/个; fig 无花果/个; radish 红薯/个; cake 蛋糕/块
tomato 西红柿/个; acorn 橡果/颗; walnut 核桃/个; chestnut 栗子/颗; melon 甜瓜/个; dumpling 饺子/个
pancake 煎饼/张; muffin 包子/个; strawberry 草莓/颗
"""
GOODS = """
shell 贝壳/个; button 纽扣/颗; pebble 鹅卵石/块; feather 羽毛/根; marble 弹珠/颗; bead 珠子/颗
stamp 邮票/张; ribbon 丝带/条; pencil 铅笔/支; nail 钉子/根; pin 别针/个; rose 玫瑰/朵
tulip 郁金香/朵; coin 铜钱/枚; card 卡片/张; brick 砖/块; log 木头/根; tile 瓦片/块
sticker 贴纸/张; peg 木夹/个
"""


def _split(block: str) -> list[str]:
    parts = (part.strip() for line in block.strip().splitlines() for part in line.split(";"))
    return [part for part in parts if part]


def _noun(category: str, identity: str, spelling: str, **more: str) -> Entity:
    word, _, measure = spelling.partition("/")
    measure = measure or "个"
    forms = {"": word, "a": f"一{measure}{word}", "m": measure, "the": word, "The": word}
    return Entity(category, identity, {**forms, **more})


def _named(category: str, line: str) -> Entity:
    identity, _, spelling = line.rpartition(" ")
    return _noun(category, identity, spelling)


def _person(name: str, pronoun: str) -> Entity:
    return Entity("name", name, {"": name, "he": pronoun})


def _place(line: str) -> Entity:
    identity, _, spelling = line.rpartition(" ")
    word, suffix = spelling.split("/")
    inside = "yes" if identity in INDOORS else ""
    spot = word + suffix
    # one goes to the riverside, not to the river
    goal = spot if suffix in ("边", "旁", "口") else word
    forms = {"": goal, "near": word, "in": f"在{spot}", "spot": spot, "inside": inside}
    return Entity("place", identity, forms)


def _thing(line: str) -> Entity:
    head, use = line.split(": ")
    identity, _, spelling = head.rpartition(" ")
    return _noun("thing", identity, spelling, use=use)


def _spot(phrase: str) -> Entity:
    return Entity("spot", phrase, {"": phrase, "in": f"在{phrase}"})


def _task(line: str) -> Entity:
    base, past = line.split("/")
    return Entity("task", base, {"": base, "past": past})


def _plain(category: str, words: list[str]) -> list[Entity]:
    return [Entity(category, word, {"": word}) for word in words]


def chinese_words() -> dict[str, list[Entity]]:
    """Every Chinese word by category."""
    return {
        "name": [_person(name, "她") for name in GIRLS.split()]
        + [_person(name, "他") for name in BOYS.split()],
        "kind": [_named("kind", line) for line in _split(KINDS)],
        "trait": _plain("trait", TRAITS.split()),
        "color": _plain("color", COLORS.split()),
        "box": [_noun("box", word, word) for word in BOXES.split()],
        "taker": [_noun("taker", word, f"{word}/只") for word in TAKERS.split()],
        "stray": [_noun("stray", line, line) for line in _split(STRAYS)],
        "time": _plain("time", _split(TIMES)),
        "place": [_place(line) for line in _split(PLACES)],
        "thing": [_thing(line) for line in THINGS.strip().splitlines()],
        "task": [_task(line) for line in _split(TASKS)],
        "food": [_named("food", line) for line in _split(FOODS)],
        "goods": [_named("goods", line) for line in _split(FOODS) + _split(GOODS)],
        "reason": _plain("reason", _split(REASONS)),
        "spot_in": [_spot(phrase) for phrase in _split(SPOTS_INSIDE)],
        "spot_out": [_spot(phrase) for phrase in _split(SPOTS_OUTSIDE)],
        "weather": _plain("weather", _split(WEATHERS)),
        "passer": _plain("passer", _split(PASSERS)),
    }
