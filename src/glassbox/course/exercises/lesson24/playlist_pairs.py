"""Exercise 24.1: the pairs of centre and neighbour in playlists."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def playlist_pairs(lists: list[list[int]], window: int) -> list[tuple[int, int]]:
    """(centre, neighbour) for every two songs of one list that stand at most `window` places apart.

    In order of the lists, of the centre's place in its list, then of the neighbour's. A song beside itself
    at another place of the list is a pair; a place is no neighbour of itself.
    """
    found = []
    for one in lists:
        for place, centre in enumerate(one):
            first = max(0, place - window)
            places = range(first, min(len(one), place + window + 1))
            found += [(centre, one[other]) for other in places if other != place]
    return found


def oracle(lists: list[list[int]], window: int) -> list[tuple[int, int]]:
    """By distances between all places."""
    return [
        (one[a], one[b])
        for one in lists
        for a in range(len(one))
        for b in range(len(one))
        if 0 < abs(a - b) <= window
    ]


def cases() -> list[Case]:
    """Lists of one, two and more songs, some of which come again, and several windows."""
    return [
        Case(([[1, 2]], 1)),
        Case(([[1, 2, 3]], 1)),
        Case(([[4]], 2)),
        Case(([[1, 2], [3, 4]], 1)),
        Case(([[1, 2, 3, 4, 5]], 2)),
        Case(([[7, 8, 7], [9], [5, 6, 5, 5]], 2)),
        Case(([[], [1, 2, 3]], 5)),
    ]


EXERCISE = Exercise(
    number="24.1",
    title=Both("Pairs of a playlist", "歌单里的词对"),
    statement=Both(
        "List all (centre, neighbour) pairs of songs that stand at most `window` places apart in the same "
        "playlist, centre by centre from left to right, and of each centre its neighbours from left to right.",
        "列出同一歌单中相距不超过 `window` 个位置的所有（中心，邻居）对：中心从左到右，每个中心的邻居也从左到右。",
    ),
    solution=(playlist_pairs,),
    oracle={"playlist_pairs": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "window_short_on_the_right",
            Both(
                "the right side of the window is one place short: range ends before its last number",
                "窗口右边少了一个位置：range 不包含它的上界",
            ),
            edits=(("place + window + 1", "place + window"),),
        ),
        Mistake(
            "itself",
            Both(
                "every song is paired with itself at its own place; v . u of a song with itself then grows, and "
                "teaches nothing about others",
                "每首歌都和自己所在的位置配成了一对；这样只会让它与自己的 v . u 变大，对别的歌毫无帮助",
            ),
            edits=((" if other != place", ""),),
        ),
        Mistake(
            "same_song_left_out",
            Both(
                "a song that stands in the list twice is not paired with its other place: compare places, not songs",
                "一首歌在歌单里出现两次时，与另一处的自己没有配对：要比较位置，而不是比较歌",
            ),
            edits=(("if other != place", "if one[other] != centre"),),
        ),
        Mistake(
            "one_direction",
            Both(
                "only later songs are neighbours; each pair should be there in both directions, since every song is "
                "a centre",
                "只有后面的歌才算邻居；每首歌都要做中心，所以每一对应当两个方向都有",
            ),
            edits=(("first = max(0, place - window)", "first = place"),),
        ),
        Mistake(
            "across_lists",
            Both(
                "pairs reach over the end of a playlist into the next one",
                "词对越过了歌单的末尾，连到了下一个歌单",
            ),
            edits=(
                ("for one in lists:", "for one in [[song for part in lists for song in part]]:"),
            ),
        ),
        Mistake(
            "wraps_around",
            Both(
                "a negative place counts from the end in Python: the first song got the last ones as neighbours",
                "Python 中负数下标从末尾数起：第一首歌把最后几首当成了邻居",
            ),
            edits=(("first = max(0, place - window)", "first = place - window"),),
        ),
        Mistake(
            "neighbour_first",
            Both(
                "the pairs are (neighbour, centre): the set is the same, but not the order that is asked for",
                "给出的是（邻居，中心）：作为集合没有错，但顺序与要求不符",
            ),
            edits=(("(centre, one[other])", "(one[other], centre)"),),
        ),
    ),
    hints=(
        Both(
            "Write down all pairs of [1, 2, 3] with window 1 by hand. How many are there?",
            "先手写 [1, 2, 3]、窗口为 1 的所有词对，一共几个？",
        ),
        Both(
            "For the song at place i the neighbours stand at i - window ... i + window, cut off at both ends of the list.",
            "位置 i 的歌，邻居在 i - window 到 i + window，在歌单两端截断。",
        ),
        Both(
            "Loop over lists, then over places, then over other places; skip the place itself.",
            "依次对歌单、位置、其他位置做循环，跳过自己的位置。",
        ),
    ),
)
