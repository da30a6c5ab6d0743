"""English words of the story world."""

from __future__ import annotations

from glassbox.data.storyworld.template import Entity

GIRLS = (
    "Mia Anna Lily Rosa Clara Nora Ella Ruby Ivy Hazel Greta Wanda "
    "Tilda Maya Zoe June Alma Cora Dora Elsie Flora Hilda Ida Lena"
)
BOYS = (
    "Tom Ben Leo Max Sam Hugo Oscar Felix Jack Otto Finn Paul "
    "Karl Emil Theo Noah Adam Bruno Dan Eli Fred Gus Hans Jonas"
)
KINDS = (
    "baker gardener fisher shepherd painter tailor sailor farmer teacher carpenter potter miller "
    "beekeeper weaver clockmaker drummer cobbler blacksmith doctor cook "
    "fox rabbit bear mouse owl hedgehog frog badger duck squirrel"
)
TRAITS = (
    "kind brave curious clever cheerful gentle honest shy stubborn patient proud young old careful "
    "quiet merry thoughtful friendly bold dreamy tidy forgetful lively modest"
)
COLORS = "red blue green yellow white black brown grey purple orange"
BOXES = "box basket chest trunk crate sack barrel drawer cupboard bag"
TAKERS = "goat puppy monkey raven magpie parrot jackdaw goose"
STRAYS = "kitten lamb piglet calf foal chick gosling donkey"

PLACES = """
at the market; in the garden; by the river; at the mill; in the forest; on the hill; on the bridge
at the harbour; at the school; in the meadow; in the barn; in the village square; by the lake
in the orchard; by the well; at the castle; on the beach; in the cave; in the library
in the old tower; on the farm; at the inn; at the station; at the crossroads; in the wheat field
at the lighthouse; in the bakery; on the island; in the valley; by the pond; in the park
by the fountain; in the workshop; in the stable; in the greenhouse; at the town gate
"""
INDOORS = frozenset(
    {"mill", "school", "barn", "castle", "library", "old tower", "inn", "station"}
    | {"lighthouse", "bakery", "workshop", "stable"}
)
# Each thing can be carried and kept in a chest; what follows it is what one does with it.
THINGS = """
kite: fly it over the hills
drum: beat it at every feast
flute: play it under the stars
lantern: carry it through the dark
scarf: wear it on cold days
map: follow it to far lands
book: read it by the fire
toy boat: sail it on the water
ball: bounce it against the wall
doll: dress it in silk
hat: wear it on Sundays
coat: keep warm in it all winter
ring: wear it at the dance
bell: ring it every morning
clock: hear it tick at night
mirror: hang it by the door
lamp: read beside it at night
blanket: sleep under it
pillow: rest a tired head on it
rope: make a swing with it
hammer: build a shed with it
saw: cut firewood with it
spade: dig the garden with it
rake: gather leaves with it
broom: sweep the yard with it
brush: paint the fence with it
pen: write long letters with it
notebook: draw birds in it
compass: find the north with it
telescope: look at the moon through it
umbrella: stay dry under it
teapot: make mint tea in it
cup: drink from it at breakfast
spoon: stir the soup with it
kettle: boil water in it
pan: fry eggs in it
whistle: call the dogs with it
fiddle: play it at weddings
trumpet: blow it from the tower
guitar: sing along with it
puzzle: solve it on long evenings
puppet: make it dance
fishing rod: catch trout with it
net: catch crabs with it
flag: wave it from the roof
crown: wear it in the play
necklace: wear it with a silk dress
candle: light it at supper
vase: fill it with roses
picture: hang it above the bed
watch: tell the time by it
mask: wear it at the carnival
cloak: wrap up in it at night
needle: mend shirts with it
rug: sit on it by the stove
magnifying glass: study beetles with it
"""
REASONS = """
take it to the summer fair; give it to an old aunt; show it to the children
bring it to the spring feast; give it to a sick neighbour; take it on a long journey
surprise grandmother with it; win the village contest with it; teach the little ones with it
"""
SPOTS_INSIDE = """
under the bench; behind the door; on the top shelf; beside the stove; under the stairs
behind the curtain; on the windowsill; under the table; under the ladder; behind the cupboard
in the darkest corner; on the highest beam
"""
SPOTS_OUTSIDE = """
beneath the old oak; between two stones; in the hollow tree; beside the gate; behind the hedge
in the tall grass; near the fence; beside the path; on the tree stump; behind the woodpile
under the cart; beside the anthill; behind the big rock; under the fallen leaves
"""
TIMES = """
sunny morning; cold evening; windy afternoon; rainy morning; bright spring day; hot summer day
misty autumn morning; frosty winter day; quiet evening; warm afternoon; grey morning; fine day
busy market day; snowy afternoon; pleasant Sunday; bright autumn day
"""
WEATHERS = """
it began to rain hard; a strong wind rose; thick fog came down; snow began to fall
a storm broke over the hills; hail beat down on the roofs; the river rose over its banks
lightning flashed across the sky
"""
PASSERS = """
an old woman; a little boy; a passing traveller; the postman; a curious neighbour
a tall stranger; a young girl; a merchant; the mayor; an old man
"""
TASKS = """
sweep the floor/swept; feed the hens/fed; carry the water/carried; chop the wood/chopped
paint the fence/painted; mend the roof/mended; wash the windows/washed; pick the apples/picked
milk the cows/milked; bake the bread/baked; water the flowers/watered; stack the hay/stacked
peel the potatoes/peeled; clean the kitchen/cleaned; dig the ditch/dug; polish the boots/polished
fold the sheets/folded; pull the weeds/pulled; count the sheep/counted; brush the horse/brushed
pack the crates/packed; knead the dough/kneaded; scrub the pots/scrubbed; sort the seeds/sorted
hang the washing/hung; shell the peas/shelled; load the wagon/loaded; churn the butter/churned
gather the eggs/gathered; shear the sheep/sheared
"""
FOODS = (
    "plum apple pear nut cherry/cherries egg bun carrot biscuit peach/peaches turnip onion "
    "potato/potatoes mushroom lemon orange fig radish/radishes cake tomato/tomatoes acorn walnut "
    "chestnut melon dumpling pancake muffin strawberry/strawberries"
)
GOODS = (
    "shell button pebble feather marble bead stamp ribbon pencil nail pin rose tulip coin card "
    "brick log tile sticker peg"
)


def article(word: str) -> str:
    """'a' or 'an' before a word of this lexicon.

    >>> article("owl"), article("kite")
    ('an', 'a')
    """
    return "an" if word[0] in "aeiou" or word.startswith("honest") else "a"


def _noun(category: str, word: str, **more: str) -> Entity:
    a = f"{article(word)} {word}"
    forms = {"": word, "a": a, "A": a.capitalize(), "the": f"the {word}", "The": f"The {word}"}
    return Entity(category, word, {**forms, **more})


def _person(name: str, pronouns: str) -> Entity:
    he, him, his, own = pronouns.split()
    forms = {"": name, "he": he, "him": him, "his": his, "own": own}
    return Entity("name", name, {**forms, "He": he.capitalize(), "His": his.capitalize()})


def _split(block: str) -> list[str]:
    return [part.strip() for line in block.strip().splitlines() for part in line.split(";")]


def _place(phrase: str) -> Entity:
    word = phrase[phrase.index("the ") :]
    inside = "yes" if word[4:] in INDOORS else ""
    capital = phrase[0].upper() + phrase[1:]
    return Entity("place", word[4:], {"": word, "in": phrase, "In": capital, "inside": inside})


def _thing(line: str) -> Entity:
    word, use = line.split(": ")
    return _noun("thing", word, use=use)


def _countable(category: str, word: str) -> Entity:
    one, _, many = word.partition("/")
    return _noun(category, one, many=many or one + "s")


def _task(line: str) -> Entity:
    base, past = line.split("/")
    verb, rest = base.split(" ", 1)
    return Entity("task", base, {"": base, "past": f"{past} {rest}", "verb": verb})


def _phrase(category: str, phrase: str) -> Entity:
    cap = phrase[0].upper() + phrase[1:]
    return Entity(category, phrase, {"": phrase, "in": phrase, "Cap": cap})


def english_words() -> dict[str, list[Entity]]:
    """Every English word by category."""
    return {
        "name": [_person(name, "she her her hers") for name in GIRLS.split()]
        + [_person(name, "he him his his") for name in BOYS.split()],
        "kind": [_noun("kind", word) for word in KINDS.split()],
        "trait": [_noun("trait", word) for word in TRAITS.split()],
        "color": [_noun("color", word) for word in COLORS.split()],
        "box": [_noun("box", word) for word in BOXES.split()],
        "taker": [_noun("taker", word) for word in TAKERS.split()],
        "stray": [_noun("stray", word) for word in STRAYS.split()],
        "time": [_noun("time", word) for word in _split(TIMES)],
        "place": [_place(phrase) for phrase in _split(PLACES)],
        "thing": [_thing(line) for line in THINGS.strip().splitlines()],
        "task": [_task(line) for line in _split(TASKS)],
        "food": [_countable("food", word) for word in FOODS.split()],
        "goods": [_countable("goods", word) for word in (FOODS + " " + GOODS).split()],
        "reason": [_phrase("reason", phrase) for phrase in _split(REASONS)],
        "spot_in": [_phrase("spot", phrase) for phrase in _split(SPOTS_INSIDE)],
        "spot_out": [_phrase("spot", phrase) for phrase in _split(SPOTS_OUTSIDE)],
        "weather": [_phrase("weather", phrase) for phrase in _split(WEATHERS)],
        "passer": [_phrase("passer", phrase) for phrase in _split(PASSERS)],
    }
