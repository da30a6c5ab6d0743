"""Songs that go together: skip-gram with negative sampling over playlists, in one file.

    python music.py                                  # playlists made up in this file
    python music.py --path FOLDER                    # train.txt and song_hash.txt, as below
    python music.py --path FOLDER --playlist "Some Title; Another Title"

A playlist is read as a sentence and a song as a word: songs that stand near the same songs get similar
vectors. FOLDER/train.txt: two header lines, then a playlist a line, song ids between spaces;
FOLDER/song_hash.txt: id, title, artist between tabs. It needs torch alone.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

GENRES = ("folk", "jazz", "metal", "house", "soul", "punk")
MOODS = ("calm", "happy", "sad", "wild")


def make_playlists(count: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Names of 480 songs, and lists of a genre and a mood with a tenth of other songs."""
    rng = random.Random(seed)
    names, groups = [], []
    for number in range(480):
        genre, mood = GENRES[number % 6], MOODS[number // 6 % 4]
        names.append(f"{mood} {genre} {number // 24 + 1} - {genre} band {number // 24 % 5 + 1}")
        groups.append((genre, mood))
    lists = []
    for _ in range(count):
        theme = (rng.choice(GENRES), rng.choice(MOODS))
        fitting = [song for song, group in enumerate(groups) if group == theme]
        others = rng.sample(range(480), 2)
        one = list(dict.fromkeys(rng.sample(fitting, rng.randint(5, 12)) + others))
        rng.shuffle(one)
        lists.append(one)
    return names, lists


def read_playlists(folder: Path) -> tuple[list[str], list[list[int]]]:
    """The classic files; a line that cannot be read ends the program with its number."""
    names, place, lists = [], {}, []
    songs, file = folder / "song_hash.txt", folder / "train.txt"
    for needed in (songs, file):
        if not needed.exists():
            sys.exit(f"{needed} is missing; a folder holds train.txt and song_hash.txt")
    for number, line in enumerate(songs.read_text(encoding="utf-8").splitlines(), start=1):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3:
            sys.exit(f"{songs} line {number}: give id, title and artist between tabs")
        place[parts[0]] = len(names)
        names.append(f"{parts[1]} - {parts[2]}")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        unknown = [word for word in line.split() if word not in place]
        if number > 2 and unknown:
            sys.exit(
                f"{file} line {number}: song {unknown[0]} is not in {songs.name}; add it there"
            )
        if number > 2 and len(line.split()) > 1:
            lists.append([place[word] for word in line.split()])
    if not lists:
        sys.exit(f"{file} holds no list of two songs or more; give longer lists")
    return names, lists


def pairs_of(
    lists: list[list[int]], window: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """All (centre, neighbour) pairs; each centre looks 1 ... window songs far, drawn anew."""
    songs = torch.tensor([song for one in lists for song in one])
    row = torch.tensor([number for number, one in enumerate(lists) for _ in one])
    reach = torch.randint(1, window + 1, songs.shape, generator=generator)
    centres, neighbours = [], []
    for distance in range(1, window + 1):
        same = row[distance:] == row[:-distance]  # both songs stand in one list
        for centre, other in ((0, distance), (distance, 0)):
            near = same & (reach[centre : len(songs) - other] >= distance)
            centres.append(songs[centre : len(songs) - other][near])
            neighbours.append(songs[other : len(songs) - centre][near])
    return torch.cat(centres), torch.cat(neighbours)


def train(lists: list[list[int]], count: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Vectors v of songs as centres and u as neighbours, both (N, D).

    loss = -log sigmoid(v_centre . u_neighbour) - sum over drawn songs n of log sigmoid(-v_centre . u_n)
    """
    generator = torch.Generator().manual_seed(options.seed)
    v = (torch.rand(count, options.dimension, generator=generator) - 0.5) / options.dimension
    u = torch.zeros(count, options.dimension)
    noise = torch.bincount(torch.tensor([s for one in lists for s in one]), minlength=count) ** 0.75
    for epoch in range(options.epochs):
        lr = options.lr * (1 - epoch / options.epochs)
        centres, neighbours = pairs_of(lists, options.window, generator)
        order = torch.randperm(len(centres), generator=generator)
        total = 0.0
        for part in order.split(128):
            drawn = torch.multinomial(
                noise, len(part) * options.negatives, replacement=True, generator=generator
            )
            songs = torch.cat(
                [neighbours[part, None], drawn.view(len(part), -1)], dim=1
            )  # (B, 1+K)
            valid = songs != neighbours[part, None]  # a drawn song may be the right one: no lesson
            valid[:, 0] = True
            hidden, aims = v[centres[part]], u[songs]  # (B, D), (B, 1+K, D)
            logits = (hidden[:, None] * aims).sum(-1)
            error = logits.sigmoid()  # dloss/dlogit: sigmoid - 1 for the right song, sigmoid else
            error[:, 0] -= 1
            step = -lr * error * valid
            u.index_add_(0, songs.flatten(), (step[..., None] * hidden[:, None]).flatten(0, 1))
            v.index_add_(0, centres[part], (step[..., None] * aims).sum(1))
            logits[:, 1:] *= -1
            total -= float((F.logsigmoid(logits) * valid).sum())
        if epoch % 5 == 0 or epoch == options.epochs - 1:
            print(f"epoch {epoch + 1:3d}  loss {total / len(order):.3f}")
    return v, u


def recommend(one: list[int], v: Tensor, u: Tensor, log_noise: Tensor) -> Tensor:
    """Scores (N): the mean v . u over the last three songs, plus log of how often a song is drawn.

    v . u learns how much likelier a song is beside the centre than when drawn, so both together are
    log p(song | centre) but for a constant. Songs of the list are out.
    """
    scores = (v[one[-3:]] @ u.T).mean(0) + log_noise
    scores[one] = -torch.inf
    return scores


def recall(scores: list[Tensor], targets: list[int]) -> float:
    """Share of lists whose left-out last song is among the ten best of all songs."""
    hits = [target in row.topk(10).indices for row, target in zip(scores, targets, strict=True)]
    return sum(hits) / len(hits)


def find(names: list[str], wanted: str) -> int:
    """The song of this title, or of this title and artist."""
    wanted = wanted.strip().lower()
    found = [
        i for i, name in enumerate(names) if wanted in (name.lower(), name.lower().split(" - ")[0])
    ]
    if len(found) != 1:
        how = "no song is" if not found else f"{len(found)} songs are"
        sys.exit(f"{how} called '{wanted}'; give it as: {names[found[0]] if found else names[0]}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="a folder with train.txt and song_hash.txt")
    parser.add_argument("--playlist", help="songs to go on from, between semicolons")
    parser.add_argument("--count", type=int, default=1000, help="playlists to make up")
    parser.add_argument("--dimension", type=int, default=16)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.count, options.dimension, options.window, options.negatives, options.epochs) < 1:
        parser.error("--count, --dimension, --window, --negatives and --epochs are at least 1")
    names, lists = (
        read_playlists(options.path)
        if options.path
        else make_playlists(options.count, options.seed)
    )
    print(f"{len(lists)} playlists, {len(names)} songs; the last song of each is left out")
    known, targets = [one[:-1] for one in lists], [one[-1] for one in lists]
    v, u = train(known, len(names), options)

    counts = torch.bincount(torch.tensor([s for one in known for s in one]), minlength=len(names))
    log_noise = torch.where(counts > 0, 0.75 * counts.clamp(min=1).log(), -torch.inf)
    ours = recall([recommend(one, v, u, log_noise) for one in known], targets)
    popular = []
    for one in known:
        popular.append(counts.float())
        popular[-1][one] = -torch.inf
    print(f"recall@10: skip-gram {ours:.3f}, popularity {recall(popular, targets):.3f}, "
          f"chance {10 / len(names):.3f}")  # fmt: skip

    chosen = (
        [find(names, word) for word in options.playlist.split(";")]
        if options.playlist
        else known[0][:3]
    )
    print("\nbehind:", "; ".join(names[song] for song in chosen))
    scores = recommend(chosen, v, u, log_noise)
    unit = F.normalize(v, dim=1)
    for song in scores.topk(min(5, len(names) - len(chosen))).indices.tolist():
        nearest = chosen[int((unit[chosen] @ unit[song]).argmax())]
        print(f"  {names[song]:40s} {scores[song]:6.2f}  most like {names[nearest]}")


if __name__ == "__main__":
    main()
