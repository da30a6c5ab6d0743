"""English sentences of the story world: openings, and the plots of those who want something."""

from __future__ import annotations

# One block an event, one alternative a line.
WANTING = {
    "open": """
        Once upon a time, {trait.a} {kind} named {hero} lived near {home}.
        There was once {trait.a} {kind} called {hero}, who lived near {home}.
        Near {home} lived {trait.a} {kind}. {hero.His} name was {hero}.
        {hero} was {trait.a} {kind} who lived near {home}.
        Long ago, near {home}, there lived {trait.a} {kind} by the name of {hero}.
        Everyone near {home} knew {hero}, {trait.a} {kind}.
    """,
    "want.thing": """
        More than anything, {hero.he} wanted {thing.a}.
        {hero.He} had wanted {thing.a} for a whole year.
        One wish never left {hero.him}: {hero.he} wanted {thing.a}.
        "If only I had {thing.a}!" {hero.he} often said.
        Night after night {hero.he} dreamed of {thing.a}.
    """,
    "want.reason": """
        {hero.He} longed to {reason}.
        Every day {hero.he} thought of it and hoped to {reason}.
        "Then I could {reason}," {hero.he} told everybody.
        And why? {hero.He} wished to {reason}.
    """,
    "own": """
        {hero.His} dearest treasure was {thing.a}. {hero.He} loved to {thing.use}.
        {hero.He} owned {thing.a} and liked nothing better than to {thing.use}.
        {hero.He} had {thing.a} from {hero.his} grandmother. How {hero.he} loved to {thing.use}!
        Nothing was dearer to {hero.him} than {hero.his} {thing}. {hero.He} liked to {thing.use}.
    """,
    "scene": """
        One {time}, {hero.who} went to {place}.
        One {time}, {hero.who} set out for {place}.
        It was {time.a} when {hero.who} walked to {place}.
        On {time.a}, {hero.who} made {hero.his} way to {place}.
    """,
    "detail": """
        Sparrows were chattering on the roofs.
        Somewhere a dog barked twice and fell silent.
        The air smelled of bread and wood smoke.
        A bee hummed lazily past {hero.his} ear.
        {hero.He} whistled a tune as {hero.he} went.
        Nobody else was about so early.
        Children were skipping along the road.
        The leaves rustled as if they were whispering.
    """,
    "meet": """
        There {hero.he} met {friend} the {fkind}.
        {friend} the {fkind} was already there.
        Whom should {hero.he} meet there but {friend} the {fkind}?
        {place.In} stood {friend} the {fkind}.
    """,
    "greet": """
        "Good day, {hero}!" said {friend.who}.
        "How nice to see you, {hero}!" said {friend.who}.
        {hero} and {friend} shook hands like old friends.
        {friend} smiled and waved at {hero}.
    """,
    "recap.has": """
        Who had {thing.the} now? {x} had it.
        "Who has {thing.the} now?" asked {passer}. "{x} has it," came the answer.
        So it was {x} who had {thing.the} now.
    """,
    "recap.has_animal": """
        Who had {thing.the} now? The {x} had it.
        "Who has {thing.the} now?" asked {passer}. "The {x} has it," came the answer.
        So it was the {x} that had {thing.the} now.
    """,
    "recap.at": """
        Where was {hero} now? {hero.He} was {x.in}.
        "Where is {hero} now?" asked {passer}. "{hero.He} is {x.in}," came the answer.
    """,
    "recap.thing": """
        And where was {thing.the}? It was {x.in}.
        "Where is {thing.the}?" asked {passer}. Only the wind knew that it was {x.in}.
        All this time {thing.the} was {x.in}.
    """,
    "recap.food": """
        So now {x} had {food.the}.
        Who had {food.the} now? {x} had it.
    """,
    "trade.offer": """
        {friend.Who} had {thing.a}, just what {hero.who} wished for. "It is yours for {thing2.a}," said {friend.who}.
        And look, {friend.who} was holding {thing.a}! "Bring me {thing2.a}, and it is yours," said {friend.who}.
        "Is that {thing.a}?" cried {hero.who}. "It is," said {friend.who}, "and I would trade it for {thing2.a}."
    """,
    "trade.fetch": """
        {hero} had {thing2.a} at home. It lay {spot}. {hero.He} ran all the way and brought it back.
        Luckily there was {thing2.a} in {hero}'s house, {spot}. {hero.He} hurried home to fetch it.
        {hero} remembered the old {thing2} at home. {hero.He} found it {spot} and carried it back.
    """,
    "trade.swap": """
        Then {hero} gave {thing2.the} to {friend}, and {friend} gave {thing.the} to {hero}.
        So they traded: {thing2.the} went to {friend}, and {thing.the} went to {hero}.
        "Done!" said {friend.who}, who took {thing2.the} and handed {thing.the} to {hero}.
    """,
    "trade.end": """
        Now {hero} had {thing.the}, {friend} had {thing2.the}, and both went home smiling.
        {hero} took {thing.the} home, {friend} kept {thing2.the}, and neither was ever sorry.
        That night {hero} sat beside {thing.the}, while {friend} danced around {thing2.the}.
    """,
    "moral.trade": """
        A fair trade makes two people happy.
        What you no longer need may be just what a friend is looking for.
        An honest bargain leaves both sides richer.
    """,
    "earn.offer": """
        {friend.Who} owned {thing.a}. "Help me today, and it is yours," {friend.he} told {hero.who}.
        "I have {thing.a} that I hardly use," said {friend.who}. "Work for me today and take it."
        "You may have my {thing}," said {friend.who}, "if you help me until sunset."
    """,
    "earn.work": """
        First {hero.who} {task.past}, and then {hero.he} {task2.past}.
        {hero.Who} {task.past} until noon. After that {hero.he} {task2.past}.
        All morning {hero.who} {task.past}. In the afternoon {hero.he} {task2.past}.
    """,
    "earn.hard": """
        {hero.His} arms ached, but {hero.he} did not give up.
        It was hard work, and {hero.he} sang to forget how tired {hero.he} was.
        Even when {weather}, {hero.he} went on working.
    """,
    "earn.pay": """
        "You have kept your word," said {friend.who}, and gave {thing.the} to {hero}.
        In the evening {friend} gave {thing.the} to {hero}. "You have earned it," {friend.he} said.
        {friend} nodded, fetched {thing.the} and put it into {hero}'s hands.
    """,
    "earn.end": """
        {hero} carried {thing.the} home, tired and proud.
        Now {thing.the} belonged to {hero}, who treasured it all the more.
        {hero} went home with {thing.the} and slept until late next morning.
    """,
    "moral.earn": """
        What we work for is twice our own.
        Honest work brings its reward.
        Wishes do not come true by sitting still.
    """,
    "coins.saved": """
        {hero.Who} had saved {n1} coins.
        In {hero.his} money box {hero.who} had {n1} coins.
        {hero.Who} counted {hero.his} money. It came to {n1} coins.
    """,
    "coins.earned": """
        {hero.He} helped {friend} the {fkind} to {task} and was paid {n2} coins.
        {friend} the {fkind} needed help. {hero} {task.past} for {friend.him} and earned {n2} coins.
        "Please {task} for me," said {friend} the {fkind}. {hero} did so and got {n2} coins.
    """,
    "coins.total": """
        Now {hero.he} had {n1} and {n2}, which makes {n3} coins.
        {n1} coins and {n2} coins made {n3} coins.
        "{n1} and {n2} make {n3}," {hero.he} counted.
    """,
    "coins.price": """
        Somebody there was selling {thing.a} for {n3} coins.
        {thing.A} was for sale there. It cost {n3} coins.
        "Only {n3} coins for this fine {thing}!" a merchant was shouting.
    """,
    "coins.buy": """
        {hero} paid all {n3} coins and took {thing.the}.
        {hero} counted {n3} coins into the seller's hand, and {thing.the} was {hero.own}.
        "Here are {n3} coins," said {hero}, and {hero.he} bought {thing.the}.
    """,
    "coins.end": """
        {hero.His} purse was empty, but {hero} had {thing.the}.
        Then {hero} ran to show {thing.the} to {friend}, who was glad for {hero.him}.
        {hero} went home without a coin, but with {thing.the} under {hero.his} arm.
    """,
    "moral.coins": """
        Little by little, small savings grow.
        Whoever can wait and save can buy without borrowing.
        Patience fills the purse.
    """,
    "journey.rumour": """
        {hero.Who} heard that {thing.a} lay forgotten somewhere {place.in}. So one {time} {hero.he} set out.
        "There is {thing.a} hidden {place.in}," {passer} told {hero.who}. One {time} {hero.he} went to look for it.
        It was said that {thing.a} could be found {place.in}. One {time} {hero.who} put on {hero.his} boots and left.
    """,
    "journey.first": """
        On the way {hero.he} met {friend} the {fkind}, who gave {hero.him} {food.a}.
        Soon {friend} the {fkind} came along the road and gave {hero.him} {food.a} for the journey.
        First {hero.he} met {friend} the {fkind}. "Take {food.a} with you," said {friend.who}.
    """,
    "journey.second": """
        Then {hero.he} met {third} the {tkind}, who was very hungry. {hero} gave {food.the} to {third}.
        Farther on sat {third} the {tkind}, tired and hungry. {hero} gave {food.the} to {third}.
        Next {hero.he} met {third} the {tkind}. "I have not eaten all day," said {third.who}, so {hero} gave {food.the} to {third.him}.
    """,
    "journey.clue": """
        "Look {spot}," said {third.who} to thank {hero.him}.
        "You are kind," said {third.who}. "I will tell you a secret: look {spot}."
        {third.Who} ate and whispered, "What you seek is {spot}."
    """,
    "journey.find": """
        {hero.Who} came to {place} and looked {spot}. There was {thing.the}!
        So {hero.who} went to {place}, looked {spot} and found {thing.the}.
        When {hero.who} reached {place}, {thing.the} really was {spot}.
    """,
    "journey.end": """
        {hero} took {thing.the} home and never forgot {third}.
        {hero} danced all the way home with {thing.the}.
        From then on {hero} had {thing.the}, and a new friend in {third}.
    """,
    "moral.journey": """
        Kindness on the road comes back to you.
        A small gift can open a big door.
        Whoever shares the last bite is never poor.
    """,
    "gift.plan": """
        {friend} the {fkind} heard of this and secretly bought {thing.a}.
        Now {friend} the {fkind} was a true friend, and in secret {friend.he} got hold of {thing.a}.
        {friend} the {fkind} knew of the wish. One day {friend.he} brought home {thing.a} and told nobody.
    """,
    "gift.hide": """
        {friend.He} hid it {spot}.
        To keep it a surprise, {friend.he} put it {spot}.
        Nobody saw how {friend.he} hid it {spot}.
    """,
    "gift.invite": """
        One {time}, {friend.who} called {hero.who} to {friend.his} house. "There is a surprise for you here," {friend.he} said. "Find it!"
        One {time}, {friend.who} invited {hero.who}. "Something is hidden in my house," {friend.he} laughed. "Search!"
    """,
    "gift.search": """
        {hero.Who} looked {spot2}. Nothing! "Cold, very cold," said {friend.who}.
        First {hero.who} searched {spot2}, but there was only dust.
        "Is it {spot2}?" asked {hero.who}. "No," said {friend.who}, "it is not."
    """,
    "gift.find": """
        Then {hero.who} looked {spot}, and there was {thing.the}!
        At last {hero.who} searched {spot}. "I have found {thing.the}!" {hero.he} cried.
        "Then it must be {spot}!" said {hero.who}, and pulled out {thing.the}.
    """,
    "gift.end": """
        {hero} hugged {friend} and took {thing.the} home.
        "It is yours," said {friend}, and {hero} could not let go of {thing.the} all evening.
        Now {hero} had {thing.the} and, what was more, a friend like {friend}.
    """,
    "moral.gift": """
        A good friend listens to your wishes.
        The best gifts are given in secret.
        To give joy is to have joy.
    """,
    "turns.see": """
        There {hero.he} found {thing.a} {spot}.
        Something lay {spot}. It was {thing.a}!
        {hero.He} looked {spot} and saw {thing.a}.
    """,
    "turns.grab": """
        But {friend} the {fkind} seized it too. "It is mine!" they both shouted.
        "I saw it first!" cried {friend} the {fkind}. "No, I did!" cried {hero.who}.
        At the same moment {friend} the {fkind} grabbed it, and they pulled and quarrelled.
    """,
    "turns.third": """
        {third} the {tkind} heard the noise. "Stop it and take turns," said {third.who}.
        Then {third} the {tkind} came by. "You can share it," said {third.who}.
        "If you pull, it will break," said {third} the {tkind}, who was passing by.
    """,
    "turns.rule": """
        "{first} has {thing.the} first, and then {second}."
        So first {first} had {thing.the}, and after that {second} had it.
        They drew straws: {first} was first to have {thing.the}, {second} was second.
    """,
    "turns.end": """
        From that day {hero} and {friend} shared {thing.the} and did not quarrel again.
        Soon {hero} and {friend} found that {thing.the} was more fun for two.
        {hero} and {friend} became friends, and {thing.the} belonged to both.
    """,
    "moral.turns": """
        Those who take turns both win.
        Sharing is better than shouting.
        Two who quarrel lose what two who share can enjoy.
    """,
}
