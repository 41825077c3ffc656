"""Comparison of searches of one space: best reward over trials, and choices of the best networks.

    python -m benchmarks.search_samplers runs/tpe runs/random --out=samplers.png

Reads the `search.json` of each folder, which `--mode=search` wrote.
"""

import argparse
import itertools
import json
import os
from collections.abc import Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.plots import FAINT, LINES, figure_png, new_figure, plain_axes
from efficientnetv2.search.page import NUMBERS
from efficientnetv2.search.results import Found, cells, count_states, ranked, shares
from efficientnetv2.search.space import load_space

MARKS = (10, 20, 30, 40)


def read_search(folder: str) -> tuple[str, list[Found]]:
    """Returns the space and the trials of a search."""
    with open(os.path.join(folder, NUMBERS), encoding="utf-8") as file:
        numbers = json.load(file)
    return numbers["space"], [Found(**one) for one in numbers["trials"]]


def best_so_far(found: Sequence[Found]) -> list[float]:
    """Returns the best reward after each trial; 0 before the first complete trial."""
    return list(itertools.accumulate((one.reward or 0.0 for one in found), max))


def draw(searches: Mapping[str, Sequence[Found]]):
    """Plots the rewards of the searches' trials, and the best so far of each search."""
    figure = new_figure(7.2, 3.2)
    axes = plain_axes(figure, "Reward of each trial, and best so far")
    for colour, (name, found) in zip(LINES, searches.items()):
        complete = [one for one in found if one.reward is not None]
        places = zip(*[(one.number, one.reward) for one in complete])
        axes.scatter(*places, s=12, color=colour, alpha=0.5, linewidth=0)
        axes.step(range(len(found)), best_so_far(found), where="post", color=colour, label=name)
    rewards = [one.reward for found in searches.values() for one in found if one.reward]
    axes.set_ylim(0.98 * min(rewards), 1.02 * max(rewards))
    axes.set_xlabel("trial", fontsize=8, color=FAINT)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="of searches")
    parser.add_argument("--out", help="a PNG to write")
    arguments = parser.parse_args()
    searches, spaces = {}, set()
    for folder in arguments.folders:
        name = os.path.basename(os.path.normpath(folder))
        if name in searches:
            parser.error(f"two searches are called {name}; rename the folder of one")
        space, searches[name] = read_search(folder)
        spaces.add(space)
    if len(spaces) > 1:
        parser.error(f"the searches are of several spaces: {', '.join(sorted(spaces))}")
    space = load_space(space)
    for name, found in searches.items():
        best = best_so_far(found)
        after = "  ".join(f"{n}: {best[n - 1]:.4f}" for n in MARKS if n <= len(best))
        print(f"{name}  {count_states(found)}\n  best after {after}")
        print(f"  {'  '.join(cells(space, ranked(found)[0]))}")
    every = {}  # Drops duplicates, as searches may have drawn the same values.
    for one in itertools.chain(*searches.values()):
        every.setdefault(json.dumps(one.values), one)
    print(f"of the best quarter, and of all {len(every)} networks")
    for name, choice, top, all_share in shares(space, list(every.values())):
        print(f"  {name:16} {choice:7} {top:6.0%} {all_share:6.0%}")
    if arguments.out:
        atomic_write(arguments.out, figure_png(draw(searches)))


if __name__ == "__main__":
    main()
