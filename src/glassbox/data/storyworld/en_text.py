"""English sentences of the story world: sums, requests, summaries, questions, small talk."""

from __future__ import annotations

from glassbox.data.storyworld.en_owning import OWNING
from glassbox.data.storyworld.en_wanting import WANTING

SENTENCES = {
    **WANTING,
    **OWNING,
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
