"""A line whose slope may change once, fitted with noise that may be correlated.

Floor 6: numbers in, numbers out. What the search for two phases computes with. Derived
in this project from textbook regression.
"""

import dataclasses
import math

import numpy as np
import scipy.stats
from jaxtyping import Float

from ntk_fed.measured import Enclosure, estimate

TRIM = 0.1  # share of the points at either end that holds no change

Vector = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Places:
    """For each place: F of the change, its size and standard error, and what is left.

    A perfect fit leaves no noise: F is then infinite where the change explains all.
    """

    f: Vector
    gain: Vector
    error: Vector
    rest: Vector


@dataclasses.dataclass(frozen=True)
class JoinedLine:
    """Regressions on one set of rounds; ``scale`` is the size of the noise at each."""

    x: Vector
    even: bool
    scale: Vector
    _cache: dict = dataclasses.field(default_factory=dict, init=False)

    @property
    def places(self) -> Vector:
        """Where a change is looked for."""
        cut = max(2, math.ceil(TRIM * len(self.x)))
        return self.x[cut:-cut]

    def whitened(
        self, values: Float[np.ndarray, "n *k"], correlation: float
    ) -> np.ndarray:
        """Noise of one size and, after the first point, without serial correlation."""
        scaled = (values.T / self.scale).T
        if correlation == 0:
            return scaled
        first = math.sqrt(1 - correlation**2) * scaled[:1]  # Prais, Winsten (1954)
        return np.concatenate([first, scaled[1:] - correlation * scaled[:-1]])

    def _bases(self, correlation: float) -> tuple[np.ndarray, np.ndarray, Vector]:
        """Orthonormal lines; unit directions of the change at each place; lengths."""
        if correlation not in self._cache:
            lines = np.column_stack([np.ones_like(self.x), self.x - self.x.mean()])
            q = np.linalg.qr(self.whitened(lines, correlation))[0]
            hinges = np.maximum(self.x[:, None] - self.places, 0)
            hinges = self.whitened(hinges, correlation)
            hinges = hinges - q @ (q.T @ hinges)
            lengths = np.linalg.norm(hinges, axis=0)
            self._cache[correlation] = (q, hinges / lengths, lengths)
        return self._cache[correlation]

    def at(self, y: Vector, correlation: float) -> Places:
        """Regressions with the change at each place, the correlation given."""
        q, unit, lengths = self._bases(correlation)
        whole = self.whitened(y, correlation)
        left = whole - q @ (q.T @ whole)
        along = unit.T @ left
        # What is left may end below rounding of the curve itself, never under it.
        floor = (np.finfo(float).eps * np.linalg.norm(whole)) ** 2
        rest = np.maximum(left @ left - along**2, floor)
        variance = rest / (len(y) - 3)
        return Places(
            along**2 / variance, along / lengths, np.sqrt(variance) / lengths, rest
        )

    def statistics(self, y: Vector) -> tuple[Places, float]:
        """Regressions with the serial correlation found, which is returned too."""
        found, correlation = self.at(y, 0.0), 0.0
        if not self.even:
            return found, correlation
        for _ in range(2):
            correlation = self._correlation(y, correlation, int(found.rest.argmin()))
            found = self.at(y, correlation)
        return found, correlation

    def _correlation(self, y: Vector, correlation: float, place: int) -> float:
        """Of neighbouring residuals of the best joined line, corrected for its bias."""
        columns = self.columns_of(self.places[place])
        left, right = self.whitened(columns, correlation), self.whitened(y, correlation)
        coefficients = np.linalg.lstsq(left, right, rcond=None)[0]
        e = (y - columns @ coefficients) / self.scale
        n, size = len(e), float(e @ e)
        raw = float(e[1:] @ e[:-1]) / size if size > 0 else 0.0
        # A fit of four parameters bends the residuals: their correlation is too low by
        # about (4 + 3 r)/n (Marriott, Pope 1954, with our count of parameters).
        corrected = raw + (4 + 3 * raw) / n
        return round(min(max(corrected, 0.0), 0.98), 2)  # rounded: bases are kept

    def columns_of(self, place: float) -> np.ndarray:
        """Level, line and change of slope, ``(n, 3)``."""
        x = self.x
        return np.column_stack([np.ones_like(x), x, np.maximum(x - place, 0)])

    def bends(self, y: Vector, place: float) -> float:
        """What lines leave of the curve over what a parabola in each phase leaves.

        Near 1 for lines with noise, however large; correlated noise bends a little.
        """
        lines, span = self.columns_of(place), np.ptp(self.x)
        u, v = (self.x - self.x.mean()) / span, lines[:, 2] / span
        _, straight = self.solve(lines, y, 0.0)
        _, bent = self.solve(np.column_stack([lines, u**2, v**2]), y, 0.0)
        # Where nothing but rounding is left of either, nothing bends.
        floor = (16 * np.finfo(float).eps * np.linalg.norm(y / self.scale)) ** 2
        return float((straight @ straight + floor) / (bent @ bent + floor))

    def solve(
        self, columns: np.ndarray, y: Vector, correlation: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients, and what is left of the whitened curve."""
        left, right = self.whitened(columns, correlation), self.whitened(y, correlation)
        q, r = np.linalg.qr(left)
        return np.linalg.solve(r, q.T @ right), right - q @ (q.T @ right)

    def line(self, y: Vector, correlation: float, level: float) -> Enclosure:
        """Slope of one line through all."""
        columns = self.columns_of(math.inf)[:, :2]
        coefficients, rest = self.solve(columns, y, correlation)
        whitened = self.whitened(columns, correlation)
        return _slope(coefficients, rest, whitened, np.array([0.0, 1.0]), level)

    def slopes(
        self, y: Vector, correlation: float, place: float, level: float
    ) -> tuple[Enclosure, Enclosure]:
        """Slopes before and after, with the error that an uncertain place adds."""
        columns = self.columns_of(place)
        coefficients, rest = self.solve(columns, y, correlation)
        moving = -coefficients[2] * (self.x > place)  # derivative in the place
        tangent = self.whitened(np.column_stack([columns, moving]), correlation)
        solution = np.append(coefficients, 0.0)
        before, after = np.array([0.0, 1, 0, 0]), np.array([0.0, 1, 1, 0])
        return (
            _slope(solution, rest, tangent, before, level),
            _slope(solution, rest, tangent, after, level),
        )


def _slope(
    coefficients: np.ndarray,
    rest: Vector,
    columns: np.ndarray,
    combination: np.ndarray,
    level: float,
) -> Enclosure:
    """A combination of coefficients with its t interval."""
    n, k = columns.shape
    r = np.linalg.qr(columns)[1]
    spread = np.linalg.norm(np.linalg.solve(r.T, combination))
    error = float(spread * math.sqrt(rest @ rest / (n - k)))
    quantile = float(scipy.stats.t.ppf(1 - level / 2, n - k))
    return estimate(float(combination @ coefficients), quantile * error, "regression")


def noise_levels(fit: JoinedLine, y: Vector) -> Vector:
    """Size of 1/loss at each round by the best joined line, for relative noise."""
    scale = y
    for _ in range(3):
        weighted = dataclasses.replace(fit, scale=scale)
        columns = fit.columns_of(fit.places[int(weighted.at(y, 0.0).rest.argmin())])
        smooth = columns @ weighted.solve(columns, y, 0.0)[0]
        scale = np.where(smooth > 0, smooth, y)
    return scale
