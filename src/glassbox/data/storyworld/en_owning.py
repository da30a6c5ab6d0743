"""English sentences of the story world: the plots of those who own something."""

from __future__ import annotations

OWNING = {
    "lost.put": """
        {hero.He} put {thing.the} {spot} and forgot it there.
        {hero.He} sat down to rest, laid {thing.the} {spot}, and forgot about it.
        There {hero.he} left {thing.the} {spot}, thinking of something else.
    """,
    "lost.move": """
        Then {hero.he} went on to {place2}.
        Later {hero.he} walked on to {place2}.
        When {weather}, {hero.he} hurried on to {place2}.
    """,
    "lost.miss": """
        Suddenly {hero.who} stood still. {hero.His} {thing} was gone!
        {hero.Who} felt in {hero.his} bag. Where was {thing.the}?
        Only then did {hero.who} notice that {thing.the} was missing.
    """,
    "lost.ask": """
        "Have you seen my {thing}?" {hero.he} asked {friend} the {fkind}. "It is {place.in}," said {friend.who}, "{spot}."
        {friend} the {fkind} came by. "I saw your {thing} {place.in}," said {friend.who}. "It is {spot}."
        "Where is my {thing}?" {hero.he} asked. "It is {spot}," said {friend} the {fkind}. "I saw it {place.in}."
    """,
    "lost.find": """
        {hero.Who} ran back to {place} and looked {spot}. There was {thing.the}!
        So {hero.who} went back to {place} and found {thing.the} {spot}.
        Back {place.in}, {hero.who} found {thing.the} {spot}, just as {friend.who} had said.
    """,
    "lost.end": """
        {hero} thanked {friend} and carried {thing.the} home with great care.
        From then on {hero} never let {thing.the} out of sight.
        {hero} had {thing.the} again and promised to thank {friend} with a cake.
    """,
    "moral.lost": """
        Look after what you love.
        Everything has its place, and it is good to remember it.
        Ask, and someone will help you.
    """,
    "hidden.put": """
        {hero.Who} kept {thing.the} in {color.a} {box}.
        Every night {hero.who} put {thing.the} into {color.a} {box}.
        {hero.Who} laid {thing.the} in {color.a} {box} and closed it well.
    """,
    "hidden.move": """
        While {hero.he} was away, the roof leaked, and the {color} {box} got wet. {friend} the {fkind} moved {thing.the} to {color2.a} {box2}.
        Meanwhile {friend} the {fkind} came to tidy up. {friend.He} took {thing.the} out of the {color} {box} and put it in {color2.a} {box2}.
        At home, {friend} the {fkind} saw mice at the {color} {box}. To be safe, {friend.he} put {thing.the} in {color2.a} {box2}.
    """,
    "hidden.empty": """
        When {hero.who} came home, {hero.he} opened the {color} {box}. It was empty!
        {hero.Who} came home and looked in the {color} {box}. There was nothing in it.
        Back home, {hero.who} opened the {color} {box} and turned pale, for it was empty.
    """,
    "hidden.ask": """
        "Where is my {thing}?" asked {hero.who}. "It is in the {color2} {box2}," said {friend.who}.
        "Somebody has stolen my {thing}!" cried {hero.who}. "No," said {friend.who}, "it is in the {color2} {box2}."
        "Do not cry," said {friend.who}. "Your {thing} is in the {color2} {box2}."
    """,
    "hidden.find": """
        {hero.Who} opened the {color2} {box2}, and there it was.
        And there it was, safe in the {color2} {box2}.
        It was true: {thing.the} was in the {color2} {box2}.
    """,
    "hidden.end": """
        {hero} held {thing.the} tight and laughed at {hero.his} own fright.
        {hero} took out {thing.the} and thanked {friend} for {friend.his} care.
        {hero} had {thing.the} again, and {friend} promised to leave a note next time.
    """,
    "moral.hidden": """
        Ask before you accuse.
        Not everything that is gone is lost.
        Tell your friends when you move their things.
    """,
    "taken.take": """
        {hero.He} put {thing.the} down for a moment. A cheeky {taker} snatched it and was gone!
        A hungry {taker} crept up, grabbed {thing.the} and made off with it.
        {hero.He} turned around once, and already {taker.a} had taken {thing.the} and fled.
    """,
    "taken.see": """
        {friend} the {fkind} had seen it all. "The {taker} is {spot}," said {friend.who}.
        "Look {spot}," said {friend} the {fkind}. "That is where the {taker} went."
        "Are you looking for the {taker}?" asked {friend} the {fkind}. "It is sitting {spot}."
    """,
    "taken.bait": """
        {hero} looked {spot} and saw {thing.the}. {hero.He} held out {food.a} to the {taker}.
        There, {spot}, was the {taker} with {thing.the}. {hero} offered it {food.a}.
        {hero} found the {taker} {spot}. "Would you like {food.a}?" {hero.he} asked softly.
    """,
    "taken.back": """
        The {taker} took {food.the} and gave back {thing.the}.
        At once the {taker} dropped {thing.the} and took {food.the}.
        The {taker} liked {food.the} better and let go of {thing.the}.
    """,
    "taken.end": """
        Now the {taker} had {food.the}, and {hero} had {thing.the} again.
        {hero} went home with {thing.the}, and the {taker} kept {food.the}.
        So {hero} got {thing.the} back, and the {taker} got {food.the}.
    """,
    "moral.taken": """
        A gift works better than a chase.
        A hungry thief needs a meal more than a beating.
        Gentle words open closed paws.
    """,
    "lend.first": """
        One {time}, {hero} lent {thing.the} to {friend} the {fkind}.
        "May I borrow your {thing}?" asked {friend} the {fkind} one {time}. {hero} gave it to {friend.him}.
        One {time}, {friend} the {fkind} needed {thing.a}, so {hero} lent {friend.him} {hero.own}.
    """,
    "lend.second": """
        A few days later, {friend} lent {thing.the} to {third} the {tkind}.
        But {third} the {tkind} needed {thing.the} too, and so {friend} gave it to {third.him}.
        The next week, {friend} passed {thing.the} on to {third} the {tkind}.
    """,
    "lend.ask": """
        "Who has my {thing}?" asked {hero.who}. "{third} has it," said {friend.who}.
        "{friend}, do you still have my {thing}?" asked {hero.who}. "No, {third} has it now," said {friend.who}.
        {hero} asked {friend.who} for {thing.the}. "I gave it to {third}," said {friend.who}.
    """,
    "lend.back": """
        That same evening {third} brought {thing.the} back, clean and shining. Now {hero} had {thing.the} again.
        {third} ran all the way and gave {thing.the} back to {hero} with many thanks.
        "Here it is, and thank you," said {third}, and gave {thing.the} back to {hero}.
    """,
    "lend.keep": """
        {hero} saw how happy {third} was. "Keep it," said {hero.who}, and so {third} had {thing.the} for good.
        "You need it more than I do," {hero} told {third.who}. From then on {third} had {thing.the}.
        "It is a present," said {hero.who} kindly, and {third} kept {thing.the}.
    """,
    "moral.lend": """
        A good thing grows better when it is passed on.
        What is lent in trust makes friends.
        Generous hands are never empty for long.
    """,
    "broke.borrow": """
        One {time}, {friend} the {fkind} borrowed {thing.the} and took it to {place}.
        {friend} the {fkind} borrowed {thing.the} one {time} and went to {place} with it.
        "Lend me your {thing}," said {friend} the {fkind} one {time}, and took it along to {place}.
    """,
    "broke.break": """
        There {weather}, {friend} slipped, and {thing.the} was ruined.
        Suddenly {weather}. {friend} fell, and {thing.the} was ruined.
        Then {weather}, and as {friend} ran for shelter, {thing.the} was ruined.
    """,
    "broke.tell": """
        {friend.Who} could have kept silent, but went straight to {hero.who}. "I ruined your {thing}. I am so sorry."
        "{hero}, I must tell you the truth," said {friend.who}. "I ruined your {thing}."
        {friend.Who} wept. "I ruined {thing.the}," {friend.he} told {hero.who}, "and I will make it good."
    """,
    "broke.mend": """
        {hero} was sad, but not angry. Together they took it to {third} the {tkind}, who mended it.
        "Thank you for telling me," said {hero.who}. They asked {third} the {tkind}, and {third} mended it.
        {hero} forgave {friend.him}. {third} the {tkind} knew what to do and mended {thing.the}.
    """,
    "broke.pay": """
        To pay for it, {friend.who} {task.past}.
        In return {friend.who} {task.past} for {third.who}.
        {friend.Who} {task.past} all week to pay {third.who} back.
    """,
    "broke.end": """
        {hero} had {thing.the} back, and {hero.he} trusted {friend} more than before.
        Soon {hero} had {thing.the} again, as good as new, and {friend} could sleep in peace.
        {third} gave {thing.the} back to {hero}, and the two friends laughed again.
    """,
    "moral.broke": """
        The truth mends more than glue.
        It takes courage to say sorry.
        Things can be mended, and so can friendships.
    """,
    "rescue.hear": """
        Then {weather}. {hero.He} heard a cry: {stray.a} was trapped {spot}.
        Suddenly {weather}, and something called for help. It was {stray.a}, stuck {spot}.
        There, {spot}, {hero.he} saw {stray.a} that could not get free. And then {weather}!
    """,
    "rescue.help": """
        {hero.Who} laid {thing.the} {spot2}, took hold with both hands and pulled the {stray} free.
        At once {hero.who} dropped {thing.the} {spot2} and ran to save the {stray}.
        To have both hands free, {hero.who} put {thing.the} {spot2}. Then {hero.he} lifted the {stray} out.
    """,
    "rescue.forget": """
        {hero.Who} carried the {stray} to a warm place and forgot all about {thing.the}.
        In the hurry {hero.who} left {thing.the} behind.
        Only at home did {hero.who} remember {thing.the}, and by then it was dark.
    """,
    "rescue.return": """
        Next morning {friend} the {fkind} knocked at the door with {thing.the}. "You saved my {stray}," said {friend.who}.
        The {stray} belonged to {friend} the {fkind}, who found {thing.the} and brought it to {hero}.
        "Thank you for saving my {stray}," said {friend} the {fkind}, who had found {thing.the} and now gave it back.
    """,
    "rescue.end": """
        So {hero} had {thing.the} again, and the {stray} came to visit every day.
        {hero} was glad to have {thing.the} back, and gladder still that the {stray} was safe.
        {hero} stroked the {stray} and put {thing.the} back in its place.
    """,
    "moral.rescue": """
        A good deed finds its way home.
        A living creature is worth more than any treasure.
        Help first and count later.
    """,
    "share.had": """
        {hero.He} had {n1} {food.many} in {hero.his} bag.
        In {hero.his} basket were {n1} {food.many}.
        {hero.He} took along {n1} {food.many}.
    """,
    "share.found": """
        An old neighbour gave {hero.him} {n2} more.
        On the way {hero.he} was given {n2} more.
        Then {hero.he} bought {n2} more.
    """,
    "share.total": """
        Now {hero.he} had {n3} {food.many}.
        {n1} and {n2} make {n3}, so {hero.he} had {n3} {food.many}.
        "{n1} and {n2} make {n3} {food.many}," {hero.he} counted.
    """,
    "share.meet": """
        There sat {friend} the {fkind}, who had nothing to eat.
        "I am so hungry," sighed {friend} the {fkind}, who was sitting there.
        {hero.He} met {friend} the {fkind}, whose bag was empty.
    """,
    "share.give": """
        {hero} gave {friend} {n4} {food.many}.
        "Take {n4} {food.many}," said {hero.who} to {friend}.
        {hero} put {n4} {food.many} into {friend}'s hands.
    """,
    "share.left": """
        {n3} take away {n4} leaves {n5}, so {hero} still had {n5} {food.many}.
        That left {hero} with {n5} {food.many}.
        Now {friend} had {n4} {food.many}, and {hero} had {n5} {food.many}.
    """,
    "share.drop": """
        On the way home {hero.who} dropped {thing.the} without noticing, but {friend.who} picked it up.
        When {hero.who} had gone, {friend.who} saw {thing.the} lying on the ground and took it.
        Then {weather}, and {hero.who} ran off without {thing.the}. {friend.Who} picked it up.
    """,
    "share.return": """
        "Wait, {hero}! You forgot this," called {friend.who}, and gave {thing.the} back.
        {friend} ran after {hero} and gave {thing.the} back.
        {friend} went to {hero}'s house and gave back {thing.the}.
    """,
    "share.end": """
        So {hero} had {thing.the} and {n5} {food.many}, and {friend} had {n4} {food.many}.
        {friend} ate {friend.his} {n4} {food.many}, {hero} ate {hero.his} {n5}, and {thing.the} lay safe beside {hero}.
        {hero} went home with {thing.the} and {n5} {food.many}, and {friend} was no longer hungry.
    """,
    "moral.share": """
        Whoever shares will not lose.
        Half a meal with a friend tastes better than a whole one alone.
        Kindness is never wasted.
    """,
}
