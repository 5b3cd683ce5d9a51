"""Learning rates by step and epoch."""

import math

import pytest

from training.schedule import cosine_rate, exponential_rate, warmed_up


def test_rate_is_set_at_step_1_and_at_multiples_only():
    rate = exponential_rate(1e-3, 0.96, 100_000)
    lr, expected = None, []
    steps = [1, 2, 99_999, 100_000, 100_001, 199_999, 200_000, 250_000]
    for step in range(1, 250_001):  # the published loop, step by step
        if step == 1 or step % 100_000 == 0:
            lr = 1e-3 * 0.96 ** (step / 100_000)
        if step in steps:
            expected.append(lr)
    assert [rate(step, 1) for step in steps] == expected


def test_schedules_rise_and_fall():
    rate = warmed_up(cosine_rate(2.0, 100), 10)
    assert rate(5, 1) == pytest.approx(0.5 * 2.0 * (1 + math.cos(math.pi * 0.05)) / 2)
    assert rate(50, 1) == pytest.approx(1.0) and rate(100, 1) == pytest.approx(0.0)
    assert rate(1, 1) < rate(9, 1) < rate(11, 1) > rate(60, 1)
    constant = lambda step, epoch: 1.0  # noqa: E731
    assert warmed_up(constant, 0) is constant
