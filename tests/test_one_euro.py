"""The one euro filter, against its definition and what it promises."""

import math

import numpy as np

from common.one_euro import OneEuro
from common.prediction import Prediction
from training.predicting import Smoother


def as_defined(signal: np.ndarray, rate: float, min_cutoff: float, beta: float) -> list[float]:
    """The filter of one number, as the paper writes it."""

    def alpha(cutoff: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau * rate)

    value, speed, out = float(signal[0]), 0.0, [float(signal[0])]
    for new in signal[1:]:
        change = (new - value) * rate
        speed = alpha(1.0) * change + (1 - alpha(1.0)) * speed
        share = alpha(min_cutoff + beta * abs(speed))
        value = share * new + (1 - share) * value
        out.append(value)
    return out


def filtered(signal: np.ndarray, rate: float, **options: float) -> np.ndarray:
    one_euro = OneEuro(**options)
    return np.stack([one_euro(points, 1 / rate) for points in signal])


def test_one_number_is_filtered_as_defined():
    signal = np.random.default_rng(0).normal(size=40).cumsum()
    options = {"min_cutoff": 0.7, "beta": 0.3}
    found = filtered(signal[:, None], 30, **options)[:, 0]
    assert np.allclose(found, as_defined(signal, 30, **options))


def test_the_axes_do_not_matter():
    signal = np.random.default_rng(1).normal(size=(30, 5, 3)).cumsum(axis=0)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    options = {"min_cutoff": 1.0, "beta": 2.0}
    assert np.allclose(
        filtered(signal @ turn, 25, **options), filtered(signal, 25, **options) @ turn
    )


def test_points_are_filtered_one_by_one():
    signal = np.random.default_rng(1).normal(size=(30, 2, 3)).cumsum(axis=0)
    both = filtered(signal, 25, min_cutoff=1.0, beta=2.0)
    alone = filtered(signal[:, 1:], 25, min_cutoff=1.0, beta=2.0)
    assert np.allclose(both[:, 1:], alone)


def test_noise_at_rest_goes_and_a_jump_comes_through():
    noise = np.random.default_rng(3).normal(0, 0.02, (200, 1, 3))
    calm = filtered(noise, 30, min_cutoff=1.0, beta=5.0)
    assert calm[20:].std() < 0.5 * noise.std()
    jump = np.where(np.arange(40) < 20, 0.0, 1.0)[:, None]
    slow, quick = (filtered(jump, 30, min_cutoff=1.0, beta=beta)[23, 0] for beta in (0.0, 5.0))
    assert slow < 0.6 < 0.9 < quick < 1


def test_what_is_not_known_stays_so_and_spoils_nothing():
    signal = np.random.default_rng(4).normal(size=(10, 2, 3))
    signal[4, 0] = np.nan
    found = filtered(signal, 30, min_cutoff=1.0, beta=1.0)
    assert np.isnan(found[4, 0]).all() and np.isfinite(np.delete(found, 4, axis=0)).all()
    assert np.allclose(found[5, 0], signal[5, 0])  # it starts anew


def test_a_gap_counts_as_the_time_it_takes():
    def smooth(frames: list[int], fps: float) -> np.ndarray:
        poses = np.zeros((2, 1, 3), np.float32)
        poses[1] = 0.1
        empty = np.zeros((2, 1), np.float32)
        frames = np.array(frames)
        prediction = Prediction(
            poses, ("Hip",), empty, empty, empty, frames, 1, (9, 9), fps, poses.copy()
        )
        return Smoother()(prediction)

    later, slower, near = smooth([0, 4], 20.0), smooth([0, 1], 5.0), smooth([0, 1], 20.0)
    assert np.allclose(later.poses_3d, slower.poses_3d)
    assert near.poses_3d[1, 0, 0] < later.poses_3d[1, 0, 0] < 0.1
    assert np.allclose(later.absolute_3d, slower.absolute_3d)
