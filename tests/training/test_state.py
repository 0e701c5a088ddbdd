"""Counting epochs and the best of them."""

import math

from scanseg.training.state import TrainingState
from scanseg.training.timetable import Timetable


def new_state() -> TrainingState:
    return TrainingState(timetable=Timetable(epochs=9, iterations=2, validation_iterations=1))


def test_the_moving_average_is_nnunets():
    state = new_state()
    assert [state.finish_epoch(value) for value in (0.5, 0.7, 0.1, 0.9)] == [True, True, False, True]
    assert math.isclose(state.ema, 0.9 * (0.9 * (0.9 * 0.5 + 0.1 * 0.7) + 0.1 * 0.1) + 0.1 * 0.9)
    assert (state.best_ema, state.best_epoch, state.epoch) == (state.ema, 4, 4)


def test_nan_is_never_the_best():
    state = new_state()
    assert not state.finish_epoch(math.nan)
    assert (state.ema, state.best_ema, state.best_epoch) == (None, None, None)
    assert state.finish_epoch(0.2)
    assert not state.finish_epoch(math.nan)
    assert (state.ema, state.best_epoch, state.epoch) == (0.2, 2, 3)


def test_states_survive_json_exactly():
    state = new_state()
    state.finish_epoch(1 / 3)
    state.losses = [0.1 + 0.2, -1e-17]
    state.note_skipped()
    again = TrainingState.model_validate_json(state.model_dump_json())
    assert again == state
    assert (again.skipped, again.skipped_in_epoch, again.skipped_in_row, again.step) == (1, 1, 1, 2)
