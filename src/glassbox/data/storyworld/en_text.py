"""English sentences of the story world: one block an event, one alternative a line."""

from __future__ import annotations

SENTENCES = {
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
        One {time}, {hero} went to {place}.
        One {time}, {hero} set out for {place}.
        It was {time.a} when {hero} walked to {place}.
        On {time.a}, {hero} made {hero.his} way to {place}.
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
        "Good day, {hero}!" said {friend}.
        "How nice to see you, {hero}!" said {friend}.
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
        {friend} had {thing.a}, just what {hero} wished for. "It is yours for {thing2.a}," said {friend}.
        And look, {friend} was holding {thing.a}! "Bring me {thing2.a}, and it is yours," said {friend}.
        "Is that {thing.a}?" cried {hero}. "It is," said {friend}, "and I would trade it for {thing2.a}."
    """,
    "trade.fetch": """
        {hero} had {thing2.a} at home. It lay {spot}. {hero.He} ran all the way and brought it back.
        Luckily there was {thing2.a} in {hero}'s house, {spot}. {hero.He} hurried home to fetch it.
        {hero} remembered the old {thing2} at home. {hero.He} found it {spot} and carried it back.
    """,
    "trade.swap": """
        Then {hero} gave {thing2.the} to {friend}, and {friend} gave {thing.the} to {hero}.
        So they traded: {thing2.the} went to {friend}, and {thing.the} went to {hero}.
        "Done!" said {friend}, who took {thing2.the} and handed {thing.the} to {hero}.
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
        {friend} owned {thing.a}. "Help me today, and it is yours," {friend.he} told {hero}.
        "I have {thing.a} that I hardly use," said {friend}. "Work for me today and take it."
        "You may have my {thing}," said {friend}, "if you help me until sunset."
    """,
    "earn.work": """
        First {hero} {task.past}, and then {hero.he} {task2.past}.
        {hero} {task.past} until noon. After that {hero.he} {task2.past}.
        All morning {hero} {task.past}. In the afternoon {hero.he} {task2.past}.
    """,
    "earn.hard": """
        {hero.His} arms ached, but {hero.he} did not give up.
        It was hard work, and {hero.he} sang to forget how tired {hero.he} was.
        Even when {weather}, {hero.he} went on working.
    """,
    "earn.pay": """
        "You have kept your word," said {friend}, and gave {thing.the} to {hero}.
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
        {hero} had saved {n1} coins.
        In {hero.his} money box {hero} had {n1} coins.
        {hero} counted {hero.his} money. It came to {n1} coins.
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
        {hero} counted {n3} coins into the seller's hand, and {thing.the} was {hero.his}.
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
        {hero} heard that {thing.a} lay forgotten somewhere {place.in}. So one {time} {hero.he} set out.
        "There is {thing.a} hidden {place.in}," {passer} told {hero}. One {time} {hero.he} went to look for it.
        It was said that {thing.a} could be found {place.in}. One {time} {hero} put on {hero.his} boots and left.
    """,
    "journey.first": """
        On the way {hero.he} met {friend} the {fkind}, who gave {hero.him} {food.a}.
        Soon {friend} the {fkind} came along the road and gave {hero.him} {food.a} for the journey.
        First {hero.he} met {friend} the {fkind}. "Take {food.a} with you," said {friend}.
    """,
    "journey.second": """
        Then {hero.he} met {third} the {tkind}, who was very hungry. {hero} gave {food.the} to {third}.
        Farther on sat {third} the {tkind}, tired and hungry. {hero} gave {food.the} to {third}.
        Next {hero.he} met {third} the {tkind}. "I have not eaten all day," said {third}, so {hero} gave {food.the} to {third.him}.
    """,
    "journey.clue": """
        "Look {spot}," said {third} to thank {hero.him}.
        "You are kind," said {third}. "I will tell you a secret: look {spot}."
        {third} ate and whispered, "What you seek is {spot}."
    """,
    "journey.find": """
        {hero} came to {place} and looked {spot}. There was {thing.the}!
        So {hero} went to {place}, looked {spot} and found {thing.the}.
        When {hero} reached {place}, {thing.the} really was {spot}.
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
        One {time}, {friend} called {hero} to {friend.his} house. "There is a surprise for you here," {friend.he} said. "Find it!"
        One {time}, {friend} invited {hero}. "Something is hidden in my house," {friend.he} laughed. "Search!"
    """,
    "gift.search": """
        {hero} looked {spot2}. Nothing! "Cold, very cold," said {friend}.
        First {hero} searched {spot2}, but there was only dust.
        "Is it {spot2}?" asked {hero}. "No," said {friend}, "it is not."
    """,
    "gift.find": """
        Then {hero} looked {spot}, and there was {thing.the}!
        At last {hero} searched {spot}. "I have found {thing.the}!" {hero.he} cried.
        "Then it must be {spot}!" said {hero}, and pulled out {thing.the}.
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
        "I saw it first!" cried {friend} the {fkind}. "No, I did!" cried {hero}.
        At the same moment {friend} the {fkind} grabbed it, and they pulled and quarrelled.
    """,
    "turns.third": """
        {third} the {tkind} heard the noise. "Stop it and take turns," said {third}.
        Then {third} the {tkind} came by. "You can share it," said {third}.
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
        Suddenly {hero} stood still. {hero.His} {thing} was gone!
        {hero} felt in {hero.his} bag. Where was {thing.the}?
        Only then did {hero} notice that {thing.the} was missing.
    """,
    "lost.ask": """
        "Have you seen my {thing}?" {hero.he} asked {friend} the {fkind}. "It is {place.in}," said {friend}, "{spot}."
        {friend} the {fkind} came by. "I saw your {thing} {place.in}," said {friend}. "It is {spot}."
        "Where is my {thing}?" {hero.he} asked. "It is {spot}," said {friend} the {fkind}. "I saw it {place.in}."
    """,
    "lost.find": """
        {hero} ran back to {place} and looked {spot}. There was {thing.the}!
        So {hero} went back to {place} and found {thing.the} {spot}.
        Back {place.in}, {hero} found {thing.the} {spot}, just as {friend} had said.
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
        {hero} kept {thing.the} in {color.a} {box}.
        Every night {hero} put {thing.the} into {color.a} {box}.
        {hero} laid {thing.the} in {color.a} {box} and closed it well.
    """,
    "hidden.move": """
        While {hero.he} was away, {weather}, and the {color} {box} got wet. {friend} the {fkind} moved {thing.the} to {color2.a} {box2}.
        Meanwhile {friend} the {fkind} came to tidy up. {friend.He} took {thing.the} out of the {color} {box} and put it in {color2.a} {box2}.
        At home, {friend} the {fkind} saw mice at the {color} {box}. To be safe, {friend.he} put {thing.the} in {color2.a} {box2}.
    """,
    "hidden.empty": """
        When {hero} came home, {hero.he} opened the {color} {box}. It was empty!
        {hero} came home and looked in the {color} {box}. There was nothing in it.
        Back home, {hero} opened the {color} {box} and turned pale, for it was empty.
    """,
    "hidden.ask": """
        "Where is my {thing}?" asked {hero}. "It is in the {color2} {box2}," said {friend}.
        "Somebody has stolen my {thing}!" cried {hero}. "No," said {friend}, "it is in the {color2} {box2}."
        "Do not cry," said {friend}. "Your {thing} is in the {color2} {box2}."
    """,
    "hidden.find": """
        {hero} opened the {color2} {box2}, and there it was.
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
        {friend} the {fkind} had seen it all. "The {taker} is {spot}," said {friend}.
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
        One {time}, {friend} the {fkind} needed {thing.a}, so {hero} lent {friend.him} {hero.his}.
    """,
    "lend.second": """
        A few days later, {friend} lent {thing.the} to {third} the {tkind}.
        But {third} the {tkind} needed {thing.the} too, and so {friend} gave it to {third.him}.
        The next week, {friend} passed {thing.the} on to {third} the {tkind}.
    """,
    "lend.ask": """
        "Who has my {thing}?" asked {hero}. "{third} has it," said {friend}.
        "{friend}, do you still have my {thing}?" asked {hero}. "No, {third} has it now," said {friend}.
        {hero} asked {friend} for {thing.the}. "I gave it to {third}," said {friend}.
    """,
    "lend.back": """
        That same evening {third} brought {thing.the} back, clean and shining. Now {hero} had {thing.the} again.
        {third} ran all the way and gave {thing.the} back to {hero} with many thanks.
        "Here it is, and thank you," said {third}, and gave {thing.the} back to {hero}.
    """,
    "lend.keep": """
        {hero} saw how happy {third} was. "Keep it," said {hero}, and so {third} had {thing.the} for good.
        "You need it more than I do," {hero} told {third}. From then on {third} had {thing.the}.
        "It is a present," said {hero} kindly, and {third} kept {thing.the}.
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
        {friend} could have kept silent, but went straight to {hero}. "I ruined your {thing}. I am so sorry."
        "{hero}, I must tell you the truth," said {friend}. "I ruined your {thing}."
        {friend} wept. "I ruined {thing.the}," {friend.he} told {hero}, "and I will make it good."
    """,
    "broke.mend": """
        {hero} was sad, but not angry. Together they took it to {third} the {tkind}, who mended it.
        "Thank you for telling me," said {hero}. They asked {third} the {tkind}, and {third} mended it.
        {hero} forgave {friend.him}. {third} the {tkind} knew what to do and mended {thing.the}.
    """,
    "broke.pay": """
        To pay for it, {friend} {task.past}.
        In return {friend} {task.past} for {third}.
        {friend} {task.past} all week to pay {third} back.
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
        {hero} laid {thing.the} {spot2}, took hold with both hands and pulled the {stray} free.
        At once {hero} dropped {thing.the} {spot2} and ran to save the {stray}.
        To have both hands free, {hero} put {thing.the} {spot2}. Then {hero.he} lifted the {stray} out.
    """,
    "rescue.forget": """
        {hero} carried the {stray} to a warm place and forgot all about {thing.the}.
        In the hurry {hero} left {thing.the} behind.
        Only at home did {hero} remember {thing.the}, and by then it was dark.
    """,
    "rescue.return": """
        Next morning {friend} the {fkind} knocked at the door with {thing.the}. "You saved my {stray}," said {friend}.
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
        "Take {n4} {food.many}," said {hero} to {friend}.
        {hero} put {n4} {food.many} into {friend}'s hands.
    """,
    "share.left": """
        {n3} take away {n4} leaves {n5}, so {hero} still had {n5} {food.many}.
        That left {hero} with {n5} {food.many}.
        Now {friend} had {n4} {food.many}, and {hero} had {n5} {food.many}.
    """,
    "share.drop": """
        On the way home {hero} dropped {thing.the} without noticing, but {friend} picked it up.
        When {hero} had gone, {friend} saw {thing.the} lying on the ground and took it.
        Then {weather}, and {hero} ran off without {thing.the}. {friend} picked it up.
    """,
    "share.return": """
        "Wait, {hero}! You forgot this," called {friend}, and gave {thing.the} back.
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
    "sum.start": """
        {hero} had {n1} {goods.many}.
        {hero} counted {n1} {goods.many}.
        There were {n1} {goods.many} in {hero}'s bag.
    """,
    "sum.times": """
        {hero} had {n1} bags with {n2} {goods.many} in each.
        {hero} filled {n1} boxes with {n2} {goods.many} each.
        {hero} laid out {n1} rows of {n2} {goods.many}.
    """,
    "sum.plus": """
        Then {hero.he} found {n} more.
        {friend} gave {hero.him} {n} more.
        After that {hero.he} bought {n} more.
        A neighbour brought {hero.him} {n} more.
    """,
    "sum.minus": """
        Then {hero.he} gave {n} to {friend}.
        {hero.He} lost {n} on the way.
        After that {hero.he} sold {n}.
        {friend} took {n} of them.
    """,
    "sum.question": """
        How many {goods.many} did {hero} have then?
        How many {goods.many} were left in the end?
        How many {goods.many} did {hero} have at last?
    """,
    "chat.tell": """
        Tell me a story about {kind.a} named {hero} and {thing.a}.
        Please tell a story with {hero} the {kind} and {thing.a} in it.
        I would like a story about {hero}, {kind.a}, and {thing.a}.
    """,
    "chat.continue": """
        Continue this story:
        How does this story go on?
        Please finish this story:
    """,
    "chat.summary": """
        Tell this story in one sentence:
        Sum up this story in one sentence:
        What is this story about? One sentence, please.
    """,
    "chat.read": """
        Here is a story.
        Read this story.
        Listen to this story.
    """,
    "summary.trade": "{hero} the {kind} traded {thing2.a} with {friend} for {thing.a}.",
    "summary.earn": "{hero} the {kind} worked for {friend} and earned {thing.a}.",
    "summary.coins": "{hero} the {kind} saved {n3} coins and bought {thing.a}.",
    "summary.journey": "{hero} the {kind} was kind to {third} and so found {thing.a}.",
    "summary.gift": "{friend} hid {thing.a} as a present for {hero} the {kind}.",
    "summary.turns": "{hero} the {kind} and {friend} quarrelled over {thing.a} and learned to share it.",
    "summary.lost": "{hero} the {kind} lost {thing.a} and found it with the help of {friend}.",
    "summary.hidden": "{friend} moved {thing.a} that belonged to {hero} the {kind}, who found it again.",
    "summary.taken": "{taker.A} took {thing.a} from {hero} the {kind} and gave it back for {food.a}.",
    "summary.lend": "{hero} the {kind} lent {thing.a} to {friend}, who lent it to {third}.",
    "summary.broke": "{friend} ruined {thing.a} that belonged to {hero} the {kind}, told the truth and was forgiven.",
    "summary.rescue": "{hero} the {kind} saved {stray.a} and got {thing.a} back from {friend}.",
    "summary.share": "{hero} the {kind} shared some {food.many} with {friend} and got {thing.a} back.",
}

# kind: (questions, short answer, full sentence); x is the answer.
ASKINGS = {
    "want": ("What did {hero} want?|What did {hero} wish for?", "{x.a}", "{hero} wanted {x.a}."),
    "why": ("Why did {hero} want {thing.a}?", "to {x}", "{hero} wanted it to {x}."),
    "own": ("What was {hero}'s treasure?|What did {hero} own?", "{x.a}", "{hero} owned {x.a}."),
    "kind": ("Who was {hero}?|What was {hero}?", "{x.a}", "{hero} was {x.a}."),
    "home": ("Where did {hero} live?", "near {x}", "{hero} lived near {x}."),
    "place": ("Where did {hero} go?", "to {x}", "{hero} went to {x}."),
    "first_place": ("Where did {hero} go first?", "to {x}", "{hero} went to {x} first."),
    "next_place": ("Where did {hero} go next?", "to {x}", "Next {hero} went to {x}."),
    "friend_place": ("Where did {friend} go?", "to {x}", "{friend} went to {x}."),
    "has": (
        "Who has {item.the} at the end?|At the end, who has {item.the}?",
        "{x}",
        "{x} has {item.the}.",
    ),
    "has_animal": ("Who has {item.the} at the end?", "the {x}", "The {x} has {item.the}."),
    "who_kind": (
        "Who was the {other}?|Which of them was the {other}?",
        "{x}",
        "{x} was the {other}.",
    ),
    "found": ("Where was {thing.the} found?", "{x.in}", "It was {x.in}."),
    "lay": ("Where was {item.the}?", "{x.in}", "It was {x.in}."),
    "count": (
        "How many {item.many} did {who} have at the end?",
        "{x}",
        "{who} had {x} {item.many}.",
    ),
    "price": ("How many coins did {thing.the} cost?", "{x}", "It cost {x} coins."),
    "first_met": ("Whom did {hero} meet first?", "{x}", "{hero} met {x} first."),
    "first_task": ("What did {hero} do first?", "{hero.he} {x.past}", "{hero} {x.past} first."),
    "first_turn": ("Who had {thing.the} first?", "{x}", "{x} had it first."),
    "advice": ("Who ended the quarrel?", "{x}", "{x} ended it."),
    "gave": ("Who gave {hero} the present?", "{x}", "{x} gave it to {hero.him}."),
    "saw": ("Who had seen {thing.the}?", "{x}", "{x} had seen it."),
    "moved": ("Who moved {thing.the}?", "{x}", "{x} moved it."),
    "took": ("Who took {thing.the}?", "the {x}", "The {x} took it."),
    "broke": ("Who ruined {thing.the}?", "{x}", "{x} ruined it."),
    "mended": ("Who mended {thing.the}?", "{x}", "{x} mended it."),
    "saved": ("Which animal did {hero} save?", "{x.a}", "{hero} saved {x.a}."),
    "list": ("Who was in the story?|Name everyone in the story.", "{x}", "In the story were {x}."),
    "yes_want": ("Did {hero} want {y.a}?", "{x}", "{x.Cap}, {hero} wanted {thing.a}."),
    "yes_own": ("Did {hero} own {y.a}?", "{x}", "{x.Cap}, {hero} owned {thing.a}."),
}

PHRASES = {
    "container": "the {color} {box}",
    "in_container": "in the {color} {box}",
    "and": " and ",
    "comma": ", ",
    "yes": "yes",
    "no": "no",
    "question": "Question: ",
    "answer": "Answer: ",
    "result": "Answer: ",
    "first": "First, ",
    "then": "Then, ",
    "stop": ".",
    "use_tool": "Use the tool.",
}

# What a user may say in passing, and what the model says then.
SMALL_TALK = (
    ("Hello!|Hi there!|Good morning!", "Hello! Would you like to hear a story?"),
    (
        "Who are you?|What is your name?|What are you?",
        "I am Glassbox, a small language model. I tell stories and answer questions about them.",
    ),
    (
        "What can you do?|How can you help me?",
        "I can tell a story, answer questions about it, and work out small sums.",
    ),
    ("Thank you!|Thanks a lot!", "You are welcome. Shall I tell you another story?"),
    ("Goodbye!|See you!", "Goodbye! Come back when you want another story."),
    ("Are you a person?|Are you human?", "No, I am a small language model made of numbers."),
    (
        "How do you work?|How were you made?",
        "I read many short stories and learned to guess the next word.",
    ),
    ("How are you?|How do you feel?", "I am only a model, but I am ready for a story."),
)
