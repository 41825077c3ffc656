"""What a study has found: ranks, front, shares, importance, files, figures, the page."""

import dataclasses
import itertools
import json
import random

import html_check
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from search_run import small_space

from efficientnetv2.hparams.spec import load_spec
from efficientnetv2.search import results
from efficientnetv2.search.cost_model import DEVICES, predicted_step
from efficientnetv2.search.page import Results, write_results
from efficientnetv2.search.results import Found, draw_pareto, draw_progress

SPACE = small_space(kernels=(3, 5))


def values(kind="mbconv", repeats=1, kernel=3) -> dict:
    return {"stage1.kind": kind, "stage1.repeats": repeats, "stage1.kernel": kernel}


def complete(number, reward, accuracy=0.5, step=0.1, parameters=1000, **more) -> Found:
    made = Found(
        number=number,
        first=number,
        state="complete",
        values=more.pop("values", values()),
        ending=f"reward {reward}",
        reward=reward,
        accuracy=accuracy,
        step_seconds=step,
        parameters=parameters,
        baseline_step_seconds=0.1,
        baseline_parameters=1000,
        image_size=32,
        batch_size=8,
    )
    return dataclasses.replace(made, **more)


def failed(number) -> Found:
    return Found(number, number, "fail", values(), "failed  <diverged>")


PRUNED = complete(3, None, 0.2, 0.3, state="pruned", ending="pruned at reward 0.2000")
FOUND = [
    complete(0, 0.50, 0.50, 0.10, 1000),
    complete(1, 0.60, 0.60, 0.20, 2000, values=values("fused")),
    complete(2, 0.40, 0.40, 0.15, 1500),  # Beaten by 0.
    PRUNED,
    failed(4),
    complete(5, 0.60, 0.60, 0.20, 2000, values=values("fused"), same_as=1),
    complete(6, 0.45, 0.45, 0.10, 900, values=values(repeats=3)),
]


def numbers(found) -> list[int]:
    return [one.number for one in found]


def many(count=40) -> list[Found]:
    """Trials of all values, in which Fused-MBConv with three layers is best."""
    rng = random.Random(0)
    options = itertools.cycle(itertools.product(("mbconv", "fused"), (1, 2, 3), (3, 5)))
    found = []
    for number, (kind, repeats, kernel) in zip(range(count), options):
        reward = 0.5 + 0.2 * (kind == "fused") + 0.05 * repeats + 0.01 * rng.random()
        found.append(complete(number, reward, values=values(kind, repeats, kernel)))
    return found


def test_the_ranks_and_the_front():
    assert numbers(results.ranked(FOUND)) == [1, 0, 6, 2]
    assert numbers(results.pareto(FOUND)) == [1, 0, 6]
    assert results.count_states(FOUND) == {"complete": 4, "pruned": 1, "fail": 1, "same": 1}
    assert results.pareto([]) == results.ranked([failed(0)]) == []


def test_of_equal_figures_all_are_on_the_front():
    assert numbers(results.pareto([complete(0, 0.5), complete(1, 0.5)])) == [0, 1]


def test_step_times_of_other_hosts_count_relative_to_their_baselines():
    slow_host = complete(1, 0.5, 0.5, step=0.3, parameters=1000, baseline_step_seconds=0.6)
    assert numbers(results.pareto([complete(0, 0.5), slow_host])) == [1]


def test_what_the_best_have_in_common():
    rows = {(name, choice): pair for name, choice, *pair in results.shares(SPACE, many())}
    assert rows["stage1.kind", "fused"] == [1.0, 0.45]
    assert rows["stage1.kind", "mbconv"] == [0.0, 0.55]
    assert rows["stage1.repeats", "3"][0] > rows["stage1.repeats", "3"][1]
    assert results.shares(SPACE, FOUND) == []


def test_importance_is_that_of_the_parameter_that_decides(study):
    distributions = {
        "stage1.kind": CategoricalDistribution(("mbconv", "fused")),
        "stage1.repeats": CategoricalDistribution((1, 2, 3)),
        "stage1.kernel": CategoricalDistribution((3, 5)),
    }
    for one in many():
        trial = optuna.create_trial(
            params=one.values, distributions=distributions, value=one.reward
        )
        study.study.add_trial(trial)
    found = results.found_in(study)
    shares = results.importance(study, found)
    assert list(shares)[-1] == "stage1.kernel"
    assert sum(shares.values()) == pytest.approx(1)
    assert results.importance(study, found[:3]) == {}


def test_cost_models_are_ranked_against_measured_steps():
    def step(one):
        return predicted_step(results.spec_of(SPACE, one), 32, 8, DEVICES["a100"])

    found = [dataclasses.replace(one, step_seconds=step(one)) for one in many(12)]
    correlations = results.cost_models(SPACE, found)
    assert set(correlations) == {*DEVICES, "fitted"}
    assert correlations["a100"] == pytest.approx(1)
    assert results.cost_models(SPACE, found[:3]) == {}
    assert set(results.cost_models(SPACE, many(12))) == set()  # All steps take the same time.


def test_the_best_networks_are_files_that_train(tmp_path):
    files = results.save_best(SPACE, FOUND, str(tmp_path))
    assert list(files) == [1, 0, 6, 2]
    assert load_spec(files[6]) == results.spec_of(SPACE, FOUND[6])
    assert load_spec(files[6]).blocks[0].repeats == 3
    for name in ("notes.txt", "small-0001.yaml"):  # The latter is of a command.
        (tmp_path / "best" / name).write_text("mine")
    results.save_best(SPACE, FOUND[:1], str(tmp_path))
    left = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert left == ["notes.txt", "small-0000.json"]


def test_beside_the_best_the_rest_of_the_front_is_kept():
    found = [complete(n, 0.9 - n / 100, 0.9) for n in range(results.BEST)]
    small = complete(9, 0.1, 0.1, 0.1, 10)
    assert numbers(results.chosen([*found, small])) == [0, 1, 2, 3, 4, 9]


def test_the_table_has_a_line_for_each_and_aligns():
    lines = results.table(SPACE, results.ranked(FOUND)).splitlines()
    assert lines[1].split() == ["1", "0.6000", "0.6000", "200.0", "2.00", "0.002", "F1k3e1"]
    assert len({len(line) for line in lines}) == 1


def test_the_figures_show_what_there_is():
    axes = draw_pareto(FOUND).axes[0]
    points = {one.get_label(): len(one.get_offsets()) for one in axes.collections}
    assert points == {"pruned": 1, "complete": 1, "Pareto front": 3}
    assert [note.get_text() for note in axes.texts] == ["1", "0", "6"]
    assert "(ms)" in axes.get_xlabel()
    other_host = complete(7, 0.5, baseline_step_seconds=0.3)
    assert "relative" in draw_pareto([*FOUND, other_host]).axes[0].get_xlabel()
    [best] = draw_progress(FOUND).axes[0].lines
    assert list(best.get_ydata()) == [0.5, 0.6, 0.6, 0.6, 0.6]
    assert draw_pareto([failed(0)]) is draw_progress([failed(0)]) is None


def given(found, **more) -> Results:
    commands = [(1, "python main.py --data_dir='<photos>'")]
    empty = {"importance": {}, "shares": [], "cost_models": {}}
    return Results("study", SPACE, found, commands, **{**empty, **more})


def test_the_page_holds_it_all(tmp_path):
    shown = given(
        FOUND,
        importance={"stage1.kind": 0.75, "stage1.repeats": 0.25},
        shares=[("stage1.kind", "fused", 0.9, 0.5)],
        cost_models={"cpu": 0.5, "fitted": 0.9},
    )
    path = write_results(shown, str(tmp_path))
    page = html_check.Page((tmp_path / "search.html").read_text())
    assert path == str(tmp_path / "search.html")
    assert {"best", "front", "progress", "importance", "cost", "trials"} == set(page.ids)
    assert len(page.images) == 2
    best, front = [[row[0] for row in rows[1:]] for rows in page.tables if "reward" in rows[0]]
    assert (best, front) == (["1", "0", "6", "2"], ["1", "0", "6"])
    assert "python main.py --data_dir='<photos>'" in page.text["best"]
    assert "failed  <diverged>" in page.text["trials"]
    assert page.table_with("coefficients") == [["cpu", "0.500"], ["fitted", "0.900"]]
    assert page.table_with("parameter", "choice")[0][:4] == ["stage1.kind", "fused", "90%", "50%"]
    for name in ("pareto.png", "progress.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "search.json").read_text())
    assert (saved["best"], saved["pareto"]) == ([1, 0, 6, 2], [1, 0, 6])
    assert len(saved["trials"]) == len(FOUND)


def test_the_page_of_a_search_without_a_complete_trial_says_so(tmp_path):
    write_results(given([failed(0)]), str(tmp_path))
    text = (tmp_path / "search.html").read_text()
    html_check.Page(text)
    assert "No trial is complete yet." in text
    assert not (tmp_path / "pareto.png").exists()
