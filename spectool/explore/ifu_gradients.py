"""Fitted radial gradients as figures draw them: the line, its band, and a few words."""

from dataclasses import dataclass

import numpy as np

from spectool.measure.gradients import fit_gradients

SEED = 5
PROBLEM_WORDS = {
    "too few spectra inside": "only {n_inside} spectra inside 1 Re",
    "too few spectra beyond": "no spectrum beyond 1 Re",
}


@dataclass(frozen=True)
class Gradient:
    """A line in radius through one quantity of one galaxy, from many resamplings."""

    slopes: np.ndarray
    centrals: np.ndarray
    slope: float
    error: float
    central: float
    reason: str = ""

    @property
    def known(self):
        """Whether there is a line."""
        return bool(np.isfinite(self.slope))

    def line(self, radius):
        """The mean line and its 68% band."""
        radius = np.asarray(radius, dtype=float)
        mean = self.central + self.slope * radius
        # Resamplings share most of their spectra: their spread is smaller than the error, in slope as in height.
        spread = self.slopes.std(ddof=1)
        factor = self.error / spread if spread > 0 else 1.0
        width = factor * (self.centrals[:, None] + self.slopes[:, None] * radius).std(axis=0, ddof=1)
        return mean - width, mean, mean + width

    def text(self):
        """Slope and error, such as "−0.21 ± 0.02 dex/Re"."""
        if not self.known:
            return "no gradient"
        return f"{self.slope:+.2f} ± {self.error:.2f} dex/Re".replace("-", "−")


def fit_galaxy(sample, columns):
    """Fit gradients of several columns in one galaxy."""
    return {name: _fit_column(sample, name) for name in columns}


def _fit_column(sample, name):
    found = fit_gradients(sample, columns=[name], seed=SEED, keep_fits=True).isel(galaxy=0)
    problem = str(found["gradient_problem"].item())
    return Gradient(
        slopes=found[f"{name}_slopes"].values,
        centrals=found[f"{name}_centrals"].values,
        slope=float(found[f"{name}_gradient"]),
        error=float(found[f"{name}_gradient_error"]),
        central=float(found[f"{name}_central"]),
        reason=PROBLEM_WORDS.get(problem, problem).format(n_inside=int(found["n_inside"])),
    )
