"""The search space, the next setting, pruning and its cost, and the conclusions of a sweep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lensmith.config import Recipe, load_recipe
from lensmith.errors import UserError
from lensmith.search.outcome import Finalist, best_first, finalists, importance, scatter, sentences, tied, verdict
from lensmith.search.trials import (
    STAGES,
    Dimension,
    Entry,
    budget,
    format_values,
    key_of,
    search_space,
    settings,
    should_continue,
    suggest,
    valid_entries,
    with_values,
)


def recipe_over(over: str, *more: str) -> Recipe:
    return load_recipe(None, [f"sweep.over={over}", *more])


def entry(number: int, state: Any = "running", **more: Any) -> Entry:
    about: dict[str, Any] = {"values": {"tune.rank": number}, "key": f"k{number}", "origin": number} | more
    return Entry(number, state, **about)


# The search space


def test_values_get_the_type_of_their_option() -> None:
    recipe = recipe_over(
        "{train.epochs: [1, 2], train.learning_rate: {low: 1e-4, high: 1e-2, log: true}, tune.rank: {low: 4, high: 9}, "
        "tune.targets: [null, [q_proj, w1]], augment.mix: [none, mixup]}"
    )
    space = search_space(recipe)
    assert space["train.epochs"].choices == (1.0, 2.0)
    assert space["tune.rank"] == Dimension((), 4, 9, integer=True)
    assert isinstance(space["tune.rank"].low, int)
    assert space["train.learning_rate"] == Dimension((), 1e-4, 1e-2, log=True)  # YAML reads 1e-4 as text
    assert space["tune.targets"].choices == (None, ["q_proj", "w1"])
    for dimension in space.values():
        for choice in dimension.choices:
            assert dimension.decode(dimension.encode(choice)) == choice
    tried = with_values(recipe, {"tune.targets": ["q_proj"], "tune.rank": 7})
    assert (tried.tune.targets, tried.tune.rank) == (["q_proj"], 7)
    assert recipe.tune.rank == 16, "the recipe itself is unchanged"


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ("{tune.rang: [1, 2]}", r"no option 'tune.rang' to search.*Did you mean 'tune.rank'"),
        ("{tune.rank: []}", r"list of tune.rank in sweep.over is empty"),
        ("{tune.rank: [4, many]}", r"Option tune.rank in sweep.over is 'many', but input should be a valid integer"),
        ("{tune.rank: [4, -1]}", r"Option tune.rank in sweep.over is -1, but input should be greater than 0"),
        ("{tune.rank: {low: 1.5, high: 8}}", r"Option tune.rank in sweep.over is 1.5, but .*integer"),
        ("{tune.rank: {low: 0, high: 8}}", r"Option tune.rank in sweep.over is 0.0, but .*greater than 0"),
        ("{train.learning_rate: {low: 1e-2, high: 1e-3}}", r"range of train.learning_rate .* is empty: low is 0.01"),
        ("{tune.alpha: {low: 8, high: 8}}", r"range of tune.alpha .* is empty"),
        ("{train.weight_decay: {low: 0, high: 1, log: true}}", r"train.weight_decay .* no logarithm"),
        ("{tune.dora: {low: 0, high: 1}}", r"tune.dora isn't a number"),
        ("{augment.mix: {low: 0, high: 1}}", r"Option augment.mix in sweep.over is 0.0, but"),
        ("{tune.rank: {low: 1, high: 8, step: 2}}", r"There is no option 'sweep.over.tune.rank.step'"),
        ("{tune.rank: 8}", r"Option sweep.over.tune.rank"),
        ("{data.uri: [a, b]}", r"data.uri can't be searched"),
        ("{seed: [1, 2]}", r"seed can't be searched"),
        ("{sweep.trials: [1, 2]}", r"sweep.trials can't be searched"),
        ("{train.tracker: [local, wandb]}", r"train.tracker can't be searched"),
        ("{train.validate_every: [1, 2]}", r"train.validate_every can't be searched"),
        ("{}", r"sweep.over"),
    ],
)
def test_an_option_that_can_not_be_searched_is_named(over: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        search_space(recipe_over(over))


# The next setting


def test_the_recipe_comes_first_and_no_setting_is_tried_twice() -> None:
    recipe = recipe_over("{tune.rank: [4, 8, 16], augment.flip: [false, true]}")
    space, tried = search_space(recipe), list[Entry]()
    assert settings(space) == 6
    while len(tried) < 6:
        values = suggest(space, tried, recipe)
        state = ("finished", "pruned", "running", "failed")[len(tried) % 4]
        tried.append(entry(len(tried), state, values=values, accuracy=0.5, reports={1: 0.5}))
    assert tried[0].values == {"tune.rank": 16, "augment.flip": False}
    assert len({key_of(e.values) for e in tried}) == 6


def test_a_recipe_outside_of_the_ranges_is_not_tried() -> None:
    recipe = recipe_over("{tune.rank: [4, 8], train.epochs: {low: 1, high: 3}}")  # 16 and 4 by default
    space = search_space(recipe)
    first = suggest(space, [], recipe)
    assert all(first[key] in dimension for key, dimension in space.items())


def test_the_search_learns_and_is_reproducible() -> None:
    def search(seed: int) -> list[dict[str, Any]]:
        recipe = recipe_over("{train.learning_rate: {low: 1e-6, high: 1, log: true}}", f"seed={seed}")
        space, tried = search_space(recipe), list[Entry]()
        for i in range(30):
            values = suggest(space, tried, recipe)
            rate = values["train.learning_rate"]
            assert float(f"{rate:.3g}") == rate, "the values shown are exactly those used in training"
            tried.append(entry(i, "finished", values=values, accuracy=1 - abs(rate - 0.01) / (rate + 0.01)))
        return [e.values for e in tried]

    found = [search(seed) for seed in range(3)]
    assert found[0] == search(0)
    assert found[0] != found[1]
    near = [1e-3 < values["train.learning_rate"] < 1e-1 for one in found for values in one[6:]]
    assert sum(near) > len(near) / 2, "at random, a third would be near the optimum"


# Pruning


def test_the_first_trial_continues_and_then_the_best_third() -> None:
    def continues(mine: float, *others: float) -> bool:
        own = entry(99, reports={1: mine})
        return should_continue(
            own, [entry(i, "pruned", reports={1: v}, fraction=0.1) for i, v in enumerate(others)] + [own], 99
        )

    assert continues(0.1)
    assert continues(0.6, 0.5)
    assert not continues(0.4, 0.5)
    assert not continues(0.55, 0.5, 0.5, 0.6, 0.5)  # second of five: one continues
    assert continues(0.55, 0.5, 0.5, 0.6, 0.5, 0.5)  # second of six: two do


def test_a_trial_can_be_pruned_once_at_each_rung() -> None:
    better = [entry(i, "pruned", reports={1: 0.9, 3: 0.9}, fraction=0.3) for i in range(3)]

    def continues(**reports: float) -> bool:
        return should_continue(
            entry(9, reports={int(stage[1:]): value for stage, value in reports.items()}), better, 99
        )

    assert not continues(p1=0.5)
    assert continues(p1=0.5, p2=0.5), "no trial is pruned between two rungs"
    assert not continues(p1=0.5, p2=0.5, p3=0.5)
    assert not continues(p1=0.5, p4=0.5), "a rung may be skipped"
    assert continues(p1=0.5, p3=0.5, p4=0.5)


def test_ties_between_trials_are_broken_at_random() -> None:
    entries = [entry(i, "pruned", reports={1: 0.5}, fraction=0.1) for i in range(60)]
    on = sum(should_continue(replace(e, state="running"), entries, 999) for e in entries)
    assert on == 20, "a third, not all or none"


def simulated(trials: int, workers: int, seed: int, gain: float) -> list[Entry]:
    """Trials whose accuracy grows with training, and by `gain` from each to the next."""
    chance, entries = random.Random(seed), list[Entry]()
    while True:
        running = [e for e in entries if e.state == "running"]
        if len(running) < workers and len(entries) < trials:
            entries.append(entry(len(entries)))
            continue
        if not running:
            return entries
        own = chance.choice(running)
        stage = max(own.reports, default=0) + 1
        value = 0.4 + gain * own.number + 0.02 * stage + chance.gauss(0, 0.02)
        reports = own.reports | {stage: max([value, *own.reports.values()])}
        own = replace(own, reports=reports, fraction=stage / STAGES)
        if stage == STAGES:
            own = replace(own, state="finished", accuracy=reports[stage])
        else:
            entries[own.number] = own
            own = own if should_continue(own, entries, trials) else replace(own, state="pruned")
        entries[own.number] = own


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.1])
def test_twenty_trials_cost_at_most_eight_trainings(workers: int, gain: float) -> None:
    for seed in range(10):
        entries = simulated(20, workers, seed, gain)
        assert sum(e.fraction for e in entries) <= 8 + 1e-9
        best = max(e.accuracy or 0 for e in entries if e.state == "finished")
        assert best >= sorted(max(e.reports.values()) for e in entries)[10], "the better half was not stopped"


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_one_of_a_few_trials_is_trained_in_full(trials: int) -> None:
    entries = simulated(trials, 1, 0, 0.1)
    assert sum(e.fraction for e in entries) <= budget(trials) + 1e-9
    assert any(e.state == "finished" for e in entries)


# Claims


def test_the_first_of_equal_claims_is_valid_and_left_work_is_resumed() -> None:
    entries = [
        entry(0, "left"),
        entry(1, "finished"),
        entry(2, "left", key="k1"),  # not valid: the one before was first
        entry(3, "running"),
        entry(4, "left", key="after 0", origin=0),
        entry(5, "left", key="after 0", origin=0),  # not valid
        entry(6, "finished", key="after 4", origin=0),
    ]
    assert [e.number for e in valid_entries(entries)] == [6, 1, 3]
    assert [e.number for e in valid_entries(entries, 2)] == [6, 1]


def test_the_position_of_a_trial_never_changes() -> None:
    chance = random.Random(0)
    for _ in range(200):
        entries: list[Entry] = []
        for number in range(12):
            key = f"k{chance.randrange(6)}"
            before: Sequence[Entry] = valid_entries(entries)
            if before and chance.random() < 0.4:
                left = chance.choice(before)
                new = entry(number, key=f"after {left.number}", origin=left.origin)
            else:
                new = entry(number, key=key)
            entries.append(new)
            then = [e.origin for e in before]
            assert [e.origin for e in valid_entries(entries)][: len(then)] == then


# Conclusions


def trial(number: int, accuracy: float, state: str = "finished", reports: dict[int, float] | None = None) -> Entry:
    return entry(number, state, accuracy=accuracy, reports=reports or {1: accuracy / 2, 9: accuracy})


def repeat(origin: int, shift: int, accuracy: float | None, **more: Any) -> Entry:
    about: dict[str, Any] = {"state": "finished", "values": {"trial": origin, "shift": shift}, "accuracy": accuracy}
    about |= more
    return entry(100 + 10 * origin + shift, **about)


def test_the_best_mean_wins_and_not_the_best_training() -> None:
    trials = [trial(0, 0.80), trial(1, 0.90), trial(2, 0.85), trial(3, 0.7)]
    chosen = best_first(trials, 2, retrained=True)
    assert [e.number for e in chosen] == [1, 2]
    repeats = [repeat(1, 1, 0.70), repeat(1, 2, 0.71), repeat(2, 2, 0.87), repeat(2, 1, 0.86)]
    found = finalists(chosen, trials, repeats)
    assert [f.number for f in found] == [3, 2], "counted from 1"
    assert found[0].accuracies == [0.85, 0.86, 0.87]
    assert verdict(found[0], 300) == (
        "Train with tune.rank=2: 86.0 % of 300 validation images correct, the mean of 3 trainings (85.0 to 87.0)."
    )


def test_a_trial_pruned_late_may_be_a_finalist_and_a_diverged_training_counts() -> None:
    trials = [trial(0, 0.8), trial(1, 0.9, "pruned", {1: 0.6, 3: 0.9}), trial(2, 0.95, "pruned", {1: 0.95})]
    assert [e.number for e in best_first(trials, 3, retrained=True)] == [1, 0], (
        "not one that was stopped at the first rung"
    )
    assert [e.number for e in best_first(trials, 3, retrained=False)] == [0]
    repeats = [repeat(1, 0, 0.9), repeat(1, 1, None, state="failed", diverged=True)]
    found = finalists(best_first(trials, 3, retrained=True), trials, repeats)
    assert {f.number: f.accuracies for f in found} == {1: [0.8], 2: [0.9, 0.0]}


def test_a_lead_within_the_noise_of_seeds_is_not_a_difference() -> None:
    close = [Finalist(1, trial(0, 0.8), [0.80, 0.82, 0.84]), Finalist(2, trial(1, 0.8), [0.79, 0.81, 0.83])]
    far = [Finalist(1, trial(0, 0.8), [0.90, 0.91]), Finalist(2, trial(1, 0.8), [0.70, 0.71])]
    assert scatter(close) == pytest.approx(0.02)
    assert "1.0 points above that of the next finalist" in sentences(close, None, 300)[0]
    assert "can't be distinguished" in sentences(close, None, 300)[0]
    assert "chance doesn't explain the lead" in sentences(far, None, 300)[0]
    text = sentences(far, trial(7, 0.85), 100)
    assert "5.5 points above the original recipe" in text[1]
    assert "With 100 images, such an accuracy is known to within ±5.7 points" in text[-1]
    stopped = replace(trial(7, 0.31), state="pruned")
    assert "original recipe" not in " ".join(sentences(far, stopped, 100)), "a pruned trial isn't compared"
    assert "original recipe" not in " ".join(sentences(far, far[0].trial, 100)), "the winner isn't compared with itself"
    assert scatter([Finalist(1, trial(0, 0.8), [0.8])]) is None


def test_importance_compares_trials_where_all_can_be_compared() -> None:
    recipe = recipe_over("{tune.rank: [4, 8, 16], train.epochs: {low: 1, high: 9}, tune.dropout: [0.0]}")
    space, chance, trials = search_space(recipe), random.Random(0), list[Entry]()
    for i in range(24):
        values = {"tune.rank": chance.choice([4, 8, 16]), "train.epochs": chance.uniform(1, 9), "tune.dropout": 0.0}
        first = 0.1 + values["train.epochs"] / 10 + chance.gauss(0, 0.01)
        # The results of the few that continued say the opposite, and must not count.
        reports = {1: first} | ({9: values["tune.rank"] / 20} if i % 6 == 0 else {})
        trials.append(entry(i, "pruned", values=values, reports=reports))
    found = dict(importance(space, trials, prune=True))
    assert set(found) == {"tune.rank", "train.epochs"}, "an option that doesn't vary has no importance"
    assert found["train.epochs"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert importance(space, trials[:3], prune=True) == []
    assert importance(space, [replace(e, reports={1: 0.5}) for e in trials], prune=True) == []


def test_random_pruning_is_reported() -> None:
    same = [trial(i, 0.5, "pruned", {1: 0.25}) for i in range(4)]
    assert "4 of 5 trials had the same accuracy" in tied([*same, trial(4, 0.9, "pruned", {1: 0.3})])
    assert tied([trial(i, 0.5, "pruned", {1: i / 10}) for i in range(5)]) == ""


def test_values_are_shown_as_on_the_command_line() -> None:
    values = {"train.learning_rate": 2e-4, "tune.targets": ["w1"], "tune.rank": 8, "augment.mix": "none"}
    assert format_values(values) == 'train.learning_rate=0.0002, tune.targets=["w1"], tune.rank=8, augment.mix=none'
