"""What is attached is fitted to the number of pods, slowly."""

from __future__ import annotations

import pytest

from adapters.kubernetes.attach import STEADY, Fit, fitted

DAY = 86_400.0


@pytest.mark.parametrize(
    ("looks", "pods"),
    [
        ([(0.0, 10)], 10),
        ([(0.0, 10), (1.0, 12), (DAY, 12)], 10),
        ([(0.0, 10), (1.0, 8), (DAY, 8)], 10),
        ([(0.0, 10), (1.0, 13), (STEADY, 13)], 10),
        ([(0.0, 10), (1.0, 13), (1.0 + STEADY, 14)], 14),
        ([(0.0, 10), (1.0, 2), (1.0 + STEADY, 2)], 2),
        ([(0.0, 10), (1.0, 20), (100.0, 10), (101.0, 20), (1.0 + STEADY, 20)], 10),
        ([(0.0, 0), (1.0, 3)], 3),
    ],
)
def test_the_room_follows_pods_that_are_others_by_a_fifth_for_two_minutes(
    looks: list[tuple[float, int]], pods: int
) -> None:
    fit: Fit | None = None
    for now, count in looks:
        fit = fitted(fit, count, now)
    assert fit is not None and fit.pods == pods
