"""Timetables: progress, time budgets, and changes on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanseg.training.recipe import Recipe
from scanseg.training.timetable import Pace, Timetable

RECIPE = Recipe()


def test_progress_is_nnunets_per_epoch():
    times = Timetable.of_recipe(RECIPE)
    assert [times.progress(step, per="epoch") for step in (0, 249, 250, 249_999)] == [0.0, 0.0, 0.001, 0.999]


def test_progress_per_step():
    times = Timetable(epochs=4, iterations=5, validation_iterations=1)
    assert [times.progress(step, per="step") for step in range(20)] == pytest.approx(
        [step / 20 for step in range(20)]
    )


@given(
    step_s=st.floats(1e-3, 100),
    validation_s=st.floats(0, 30),
    overhead_s=st.floats(0, 10),
    minutes=st.floats(0.01, 600),
)
def test_a_budget_is_filled_as_well_as_whole_epochs_allow(step_s, validation_s, overhead_s, minutes):
    pace, seconds = Pace(step_s, validation_s, overhead_s), 60 * minutes
    times = Timetable.of_budget(RECIPE, pace, seconds=seconds)
    epoch_s = pace.epoch_s(times.iterations, times.validation_iterations)
    assert times.epochs >= 1
    assert 1 <= times.iterations <= RECIPE.iterations_per_epoch
    assert 1 <= times.validation_iterations <= RECIPE.validation_iterations
    assert abs(times.epochs * epoch_s - seconds) <= 0.5 * epoch_s * 1.0001 or times.epochs == 1


def test_a_small_budget_gets_short_epochs():
    times = Timetable.of_budget(RECIPE, Pace(step_s=3.0, validation_s=1.0), seconds=20 * 60)
    assert (times.epochs, times.iterations, times.validation_iterations) == (21, 18, 4)


def test_without_validation():
    recipe = RECIPE.changed(validation_iterations=0)
    times = Timetable.of_budget(recipe, Pace(1.0, 0.0), seconds=100.0)
    assert (times.epochs, times.iterations, times.validation_iterations) == (20, 5, 0)


def test_small_deviations_change_nothing():
    times = Timetable(epochs=40, iterations=10, validation_iterations=1)
    assert times.adjusted(10, seconds_left=30 * 10.0, epoch_s=10.9) is times
    assert times.adjusted(38, seconds_left=10.0, epoch_s=10.0) is times
    assert times.adjusted(40, seconds_left=100.0, epoch_s=10.0) is times


@pytest.mark.parametrize(("epoch_s", "epochs"), [(20.0, 25), (5.0, 70)])
def test_a_slower_or_faster_machine_changes_the_epochs_but_not_the_progress(epoch_s, epochs):
    times = Timetable(epochs=40, iterations=10, validation_iterations=1)
    changed = times.adjusted(10, seconds_left=300.0, epoch_s=epoch_s)
    assert changed.epochs == epochs
    for per in ("epoch", "step"):
        assert changed.progress(100, per=per) == pytest.approx(times.progress(100, per=per))
        rates = [changed.progress(step, per=per) for step in range(100, 10 * epochs)]
        assert rates == sorted(rates)
        assert rates[-1] < 1
    assert changed.progress(10 * epochs, per="step") == pytest.approx(1.0)


def test_changed_twice():
    times = Timetable(epochs=40, iterations=10, validation_iterations=1)
    times = times.adjusted(10, seconds_left=300.0, epoch_s=20.0)
    again = times.adjusted(20, seconds_left=300.0, epoch_s=20.0)
    assert again.epochs == 35
    assert again.progress(200, per="step") == pytest.approx(times.progress(200, per="step"))


def test_a_spent_budget_ends_at_once():
    times = Timetable(epochs=40, iterations=10, validation_iterations=1)
    assert times.adjusted(7, seconds_left=-5.0, epoch_s=10.0).epochs == 7
