"""What happens in a story, in no language: each plot changes the world and tells of each change.

Facts are tuples of a verb and roles: ("has", who, what), ("at", who, place), ("in", what, spot),
("count", who, what, number), ("met", who, whom), ("did", who, task), ("wants", who, what).
A later fact about the same thing replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable

from glassbox.data.storyworld.story import Story
from glassbox.data.storyworld.template import Entity


def tell_opening(s: Story) -> bool:
    """Who and where, and what is wanted or owned. Returns whether the hero still wants it."""
    s.tell("open")
    s.fact("lives", "hero", "home")
    s.fact("is", "hero", "kind")
    s.cast.append("hero")
    wants = s.chooser.pick((True, False))
    if wants:
        s.tell("want.thing")
        thing = s.roles["thing"]
        if s.maybe(0.5):
            s.pool("reason", (Entity("reason", thing.id, {"": thing.forms["use"]}),))
        s.tell("want.reason")
        s.fact("wants", "hero", "thing")
        s.fact("because", "hero", "thing", "reason")
        s.ask("want", "thing")
        s.ask("why", "reason")
    else:
        s.tell("own")
        s.fact("has", "hero", "thing")
        s.ask("own", "thing")
    s.ask("kind", "kind")
    s.ask("home", "home")
    return wants


def _scene(s: Story, question: str = "place") -> None:
    s.tell("scene")
    s.fact("at", "hero", "place")
    s.ask(question, "place")
    if s.maybe(0.3):
        s.tell("detail")


def _meet(s: Story) -> None:
    s.tell("meet")
    s.fact("met", "hero", "friend")
    s.fact("is", "friend", "fkind")
    s.cast.append("friend")
    s.ask("who_kind", "friend", other="fkind")
    if s.maybe(0.3):
        s.tell("greet")


def _known(s: Story, person: str, kind: str) -> None:
    s.fact("is", person, kind)
    s.cast.append(person)
    s.ask("who_kind", person, other=kind)


def _give(s: Story, giver: str, taker: str, what: str) -> None:
    s.fact("gives", giver, taker, what)


def trade(s: Story) -> None:
    """Hero and friend swap things."""
    _scene(s)
    _meet(s)
    s.tell("trade.offer")
    s.fact("has", "friend", "thing")
    s.spots("spot")
    s.paragraph()
    s.tell("trade.fetch")
    s.fact("has", "hero", "thing2")
    s.ask("lay", "spot", item="thing2")
    s.fact("lay", "thing2", "spot")
    s.recap(("recap.has", "friend"), ("recap.at", "place"))
    s.tell("trade.swap")
    _give(s, "hero", "friend", "thing2")
    _give(s, "friend", "hero", "thing")
    s.paragraph()
    s.tell("trade.end")
    s.ask("has", "hero", item="thing")
    s.ask("has", "friend", item="thing2")


def earn(s: Story) -> None:
    """Hero works for the thing."""
    _scene(s)
    _meet(s)
    s.tell("earn.offer")
    s.fact("has", "friend", "thing")
    s.paragraph()
    s.tell("earn.work")
    s.fact("did", "hero", "task")
    s.fact("did", "hero", "task2")
    s.ask("first_task", "task")
    if s.maybe(0.5):
        s.tell("earn.hard")
    s.recap(("recap.has", "friend"), ("recap.at", "place"))
    s.tell("earn.pay")
    _give(s, "friend", "hero", "thing")
    s.paragraph()
    s.tell("earn.end")
    s.ask("has", "hero", item="thing")


def coins(s: Story) -> None:
    """Hero saves and earns coins, and buys the thing."""
    s.numbers("n1", 2, 9)
    s.tell("coins.saved")
    s.fact("coins", "hero", "n1")
    s.numbers("n2", 2, 9)
    s.tell("coins.earned")
    s.set_number("n3", s.value("n1") + s.value("n2"))
    s.fact("did", "hero", "task")
    s.fact("coins", "hero", "n3")
    _known(s, "friend", "fkind")
    s.tell("coins.total")
    s.paragraph()
    _scene(s)
    s.tell("coins.price")
    s.ask("price", "n3", other="n2")
    s.tell("coins.buy")
    s.fact("has", "hero", "thing")
    s.recap(("recap.has", "hero"), ("recap.at", "place"))
    s.paragraph()
    s.tell("coins.end")
    s.ask("has", "hero", item="thing")


def journey(s: Story) -> None:
    """A kindness on the road is repaid with the way to the thing."""
    s.tell("journey.rumour")
    s.ask("place", "place")
    s.paragraph()
    s.tell("journey.first")
    s.fact("met", "hero", "friend")
    s.fact("has", "hero", "food")
    _known(s, "friend", "fkind")
    s.recap(("recap.food", "hero"))
    s.spots("spot", "place")
    s.tell("journey.second")
    s.fact("met", "hero", "third")
    _give(s, "hero", "third", "food")
    _known(s, "third", "tkind")
    s.fact("in", "thing", "spot")
    s.tell("journey.clue")
    s.ask("first_met", "friend")
    s.ask("has", "third", item="food")
    s.tell("journey.find")
    s.fact("at", "hero", "place")
    s.fact("has", "hero", "thing")
    s.ask("found", "spot")
    s.paragraph()
    s.tell("journey.end")
    s.ask("has", "hero", item="thing")


def gift(s: Story) -> None:
    """A friend hides the wished-for thing as a surprise."""
    s.tell("gift.plan")
    _known(s, "friend", "fkind")
    s.fact("has", "friend", "thing")
    s.spots("spot")
    s.tell("gift.hide")
    s.fact("in", "thing", "spot")
    s.paragraph()
    s.tell("gift.invite")
    s.recap(("recap.thing", "spot"))
    s.spots("spot2")
    s.tell("gift.search")
    s.tell("gift.find")
    s.fact("has", "hero", "thing")
    s.ask("found", "spot")
    s.paragraph()
    s.tell("gift.end")
    s.ask("has", "hero", item="thing")
    s.ask("gave", "friend")
    s.fact("gave", "friend", "hero", "thing")


def turns(s: Story) -> None:
    """Two want one thing; a third has them take turns."""
    _scene(s)
    s.spots("spot", "place")
    s.tell("turns.see")
    s.fact("in", "thing", "spot")
    s.ask("found", "spot")
    s.tell("turns.grab")
    s.fact("met", "hero", "friend")
    _known(s, "friend", "fkind")
    s.paragraph()
    s.tell("turns.third")
    s.fact("met", "hero", "third")
    _known(s, "third", "tkind")
    first = s.chooser.pick(("hero", "friend"))
    s.alias("first", first)
    s.alias("second", "friend" if first == "hero" else "hero")
    s.tell("turns.rule")
    s.fact("turn", "first", "thing")
    s.fact("turn", "second", "thing")
    s.ask("first_turn", "first")
    s.ask("advice", "third")
    s.fact("advised", "third")
    s.paragraph()
    s.tell("turns.end")


def lost(s: Story) -> None:
    """The thing is left behind and found again with a friend's help."""
    _scene(s, "first_place")
    s.spots("spot", "place")
    s.tell("lost.put")
    s.fact("in", "thing", "spot")
    s.tell("lost.move")
    s.fact("at", "hero", "place2")
    s.ask("next_place", "place2")
    s.recap(("recap.thing", "spot"), ("recap.at", "place2"))
    s.paragraph()
    s.tell("lost.miss")
    s.tell("lost.ask")
    _known(s, "friend", "fkind")
    s.fact("met", "hero", "friend")
    s.tell("lost.find")
    s.fact("at", "hero", "place")
    s.fact("has", "hero", "thing")
    s.ask("found", "spot")
    s.ask("saw", "friend")
    s.fact("saw", "friend", "thing")
    s.paragraph()
    s.tell("lost.end")
    s.ask("has", "hero", item="thing")


def hidden(s: Story) -> None:
    """While the hero is away, the thing is moved from one box to another."""
    s.tell("hidden.put")
    s.container("spot", "color", "box")
    s.fact("in", "thing", "spot")
    _scene(s)
    s.paragraph()
    s.tell("hidden.move")
    s.container("spot2", "color2", "box2")
    _known(s, "friend", "fkind")
    s.fact("in", "thing", "spot2")
    s.fact("moved", "friend", "thing")
    s.recap(("recap.thing", "spot2"), ("recap.at", "place"))
    s.tell("hidden.empty")
    s.tell("hidden.ask")
    s.tell("hidden.find")
    s.fact("has", "hero", "thing")
    s.ask("found", "spot2")
    s.ask("moved", "friend")
    s.paragraph()
    s.tell("hidden.end")
    s.ask("has", "hero", item="thing")


def taken(s: Story) -> None:
    """An animal takes the thing and gives it back for something to eat."""
    _scene(s)
    s.tell("taken.take")
    s.fact("has", "taker", "thing")
    s.ask("took", "taker")
    s.recap(("recap.has_animal", "taker"), ("recap.at", "place"))
    s.paragraph()
    s.spots("spot", "place")
    s.tell("taken.see")
    _known(s, "friend", "fkind")
    s.fact("in", "thing", "spot")
    s.tell("taken.bait")
    s.fact("has", "hero", "food")
    s.tell("taken.back")
    _give(s, "hero", "taker", "food")
    _give(s, "taker", "hero", "thing")
    s.ask("found", "spot")
    s.paragraph()
    s.tell("taken.end")
    s.ask("has", "hero", item="thing")
    s.ask("has_animal", "taker", item="food")


def lend(s: Story) -> None:
    """The thing passes from hand to hand."""
    s.tell("lend.first")
    _give(s, "hero", "friend", "thing")
    _known(s, "friend", "fkind")
    s.recap(("recap.has", "friend"))
    s.paragraph()
    s.tell("lend.second")
    _give(s, "friend", "third", "thing")
    _known(s, "third", "tkind")
    s.recap(("recap.has", "third"))
    s.tell("lend.ask")
    s.paragraph()
    if s.chooser.pick((True, False)):
        s.tell("lend.back")
        _give(s, "third", "hero", "thing")
        s.ask("has", "hero", item="thing")
    else:
        s.tell("lend.keep")
        s.ask("has", "third", item="thing")


def broke(s: Story) -> None:
    """A borrowed thing breaks, and the borrower owns up."""
    s.tell("broke.borrow")
    _known(s, "friend", "fkind")
    _give(s, "hero", "friend", "thing")
    s.fact("at", "friend", "place")
    s.ask("friend_place", "place")
    s.tell("broke.break")
    s.fact("broke", "friend", "thing")
    s.ask("broke", "friend")
    s.paragraph()
    s.tell("broke.tell")
    s.tell("broke.mend")
    _known(s, "third", "tkind")
    s.fact("mended", "third", "thing")
    s.ask("mended", "third")
    s.tell("broke.pay")
    s.fact("did", "friend", "task")
    s.paragraph()
    s.tell("broke.end")
    s.fact("has", "hero", "thing")
    s.ask("has", "hero", item="thing")


def rescue(s: Story) -> None:
    """The hero leaves the thing behind to save an animal, and is repaid."""
    _scene(s)
    s.spots("spot", "place")
    s.tell("rescue.hear")
    s.ask("saved", "stray")
    s.ask("lay", "spot", item="stray")
    s.fact("lay", "stray", "spot")
    s.paragraph()
    s.spots("spot2", "place")
    s.tell("rescue.help")
    s.fact("in", "thing", "spot2")
    s.fact("saved", "hero", "stray")
    s.recap(("recap.thing", "spot2"))
    s.tell("rescue.forget")
    s.tell("rescue.return")
    _known(s, "friend", "fkind")
    s.fact("has", "friend", "thing")
    _give(s, "friend", "hero", "thing")
    s.paragraph()
    s.tell("rescue.end")
    s.ask("has", "hero", item="thing")


def share(s: Story) -> None:
    """The hero shares food, and the one who was helped brings back the lost thing."""
    _scene(s)
    s.numbers("n1", 2, 9)
    s.tell("share.had")
    s.fact("count", "hero", "food", "n1")
    s.numbers("n2", 2, 9)
    s.tell("share.found")
    s.set_number("n3", s.value("n1") + s.value("n2"))
    s.fact("count", "hero", "food", "n3")
    s.tell("share.total")
    s.paragraph()
    s.tell("share.meet")
    s.fact("met", "hero", "friend")
    _known(s, "friend", "fkind")
    s.numbers("n4", 2, s.value("n3") - 2)
    s.tell("share.give")
    s.set_number("n5", s.value("n3") - s.value("n4"))
    s.fact("count", "friend", "food", "n4")
    s.fact("count", "hero", "food", "n5")
    s.tell("share.left")
    s.recap(("recap.at", "place"))
    s.tell("share.drop")
    s.fact("has", "friend", "thing")
    s.tell("share.return")
    _give(s, "friend", "hero", "thing")
    s.paragraph()
    s.tell("share.end")
    s.ask("count", "n5", item="food", who="hero")
    s.ask("count", "n4", item="food", who="friend")
    s.ask("has", "hero", item="thing")


WANTING: tuple[Callable[[Story], None], ...] = (trade, earn, coins, journey, gift, turns)
OWNING: tuple[Callable[[Story], None], ...] = (lost, hidden, taken, lend, broke, rescue, share)


def tell_story(s: Story) -> None:
    """Tell a whole story: opening, one plot, and the moral that follows from it."""
    wants = tell_opening(s)
    s.chooser.opening()
    s.paragraph()
    plot = s.chooser.pick(WANTING if wants else OWNING)
    s.plot = plot.__name__
    plot(s)
    s.tell("moral." + s.plot)
    s.name_cast()
    s.ask("list", "names")
    s.ask("yes_want" if wants else "yes_own", "thing")
