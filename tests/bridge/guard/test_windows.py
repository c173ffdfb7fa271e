"""What was lost and won within windows of any length: a question forgets nothing."""

from __future__ import annotations

from bridge.guard.windows import Windows


def test_a_replacement_cancels_a_loss_and_an_old_loss_leaves_the_window() -> None:
    windows = Windows()
    windows.add("pay", 0.0, -3)
    windows.add("pay", 100.0, 2)
    assert windows.start("pay", 9, 200.0, 600.0) == 10
    assert windows.start("pay", 9, 650.0, 600.0) == 7
    assert windows.start("pay", 9, 800.0, 600.0) == 9


def test_a_question_with_a_short_window_makes_no_other_forget() -> None:
    windows = Windows()
    windows.add("pay", 0.0, -3)
    assert windows.start("pay", 9, 100.0, 0.5) == 9
    assert windows.start("pay", 9, 100.0, 600.0) == 12


def test_what_is_older_than_every_window_is_forgotten() -> None:
    windows = Windows()
    windows.add("pay", 0.0, -3)
    windows.add("old", 0.0, -3)
    windows.add("pay", 100.0, -1)
    windows.forget(50.0)
    assert windows.net("pay") == -1
    assert len(windows) == 1


def test_what_is_told_late_is_counted_when_it_happened() -> None:
    windows = Windows()
    windows.add("pay", 100.0, -1)
    windows.add("pay", 20.0, -2)
    assert windows.net("pay", 0.0, 50.0) == -2
    assert windows.lost(0.0) == {"pay": [(20.0, -2), (100.0, -1)]}
    assert windows.start("pay", 9, 625.0, 600.0) == 10


def test_what_was_lost_after_a_larger_gain_is_lost_in_a_shorter_window() -> None:
    windows = Windows()
    windows.add("pay", 10.0, 5)
    windows.add("pay", 100.0, -3)
    windows.add("grown", 10.0, -3)
    windows.add("grown", 100.0, 3)
    assert windows.lost(0.0) == {"pay": [(10.0, 5), (100.0, -3)]}


def test_a_gain_of_unknown_age_cancels_losses_and_pays_for_none_to_come() -> None:
    windows = Windows()
    windows.add("pay", 10.0, -3)
    windows.add("pay", 50.0, -1)
    windows.cancel("pay", 2)
    assert windows.net("pay") == -2
    assert windows.net("pay", after=40.0) == -1
    windows.cancel("pay", 9)
    assert windows.net("pay") == 0
    windows.cancel("unknown", 9)
    assert windows.net("unknown") == 0


def test_many_changes_of_one_second_are_remembered_as_one() -> None:
    windows = Windows()
    for step in range(1000):
        windows.add("pay", step / 1000, -1)
    assert windows.start("pay", 0, 1.0, 600.0) == 1000
    assert windows.lost(-1.0) == {"pay": [(0.0, -1000)]}
