"""The one euro filter: smooths a signal without looking ahead, less where it moves fast.

Source: Casiez, Roussel, Vogel: 1 euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input
in Interactive Systems, CHI 2012.
"""

import math

import numpy as np


class OneEuro:
    """Filters points that move. It keeps the last of them: use one object for each person.

    Each point is filtered with a cutoff of its own, ``min_cutoff + beta * speed``. The speed is
    that of the point in space, so the result does not depend on the axes.
    """

    def __init__(self, min_cutoff: float, beta: float, speed_cutoff: float = 1.0) -> None:
        """
        Args:
            min_cutoff: Hz, of a point at rest: lower is smoother.
            beta: Hz for each unit a second: higher lags less behind fast movements.
            speed_cutoff: Hz, of the speed itself.
        """
        self._min_cutoff, self._beta, self._speed_cutoff = min_cutoff, beta, speed_cutoff
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(self, points: np.ndarray, seconds: float) -> np.ndarray:
        """Filter the points of one image.

        Args:
            points: (..., D). A point with a NaN comes back as it is, and the filter starts anew
                with its next one.
            seconds: since the points before, above 0.

        Returns:
            (..., D) filtered points. The first ones come back as they are.
        """
        if self._value is None:
            self._value, self._speed = points, np.zeros_like(points)
            return points
        speed = np.nan_to_num((points - self._value) / seconds)
        self._speed = self._speed + _share(self._speed_cutoff, seconds) * (speed - self._speed)
        rate = np.linalg.norm(self._speed, axis=-1, keepdims=True)
        step = _share(self._min_cutoff + self._beta * rate, seconds) * (points - self._value)
        moved = self._value + step
        self._value = np.where(np.isnan(moved), points, moved)
        return self._value


def _share(cutoff: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """The share of a new value in a low-pass filter's next one."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * seconds))
