"""What tests of real galaxies share: how measurements are compared, and a quick fit of populations."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def compare():
    """A function that says, and prints, how two measurements agree: correlation, median offset, robust scatter."""

    def told(name, ours, theirs):
        off = np.asarray(ours - theirs)
        offset = np.median(off)
        scatter = 1.4826 * np.median(np.abs(off - offset))
        correlation = np.corrcoef(ours, theirs)[0, 1]
        figures = f"correlation {correlation:.2f}, offset {offset:+.3f} dex, scatter {scatter:.3f} dex"
        print(f"{name}: {off.size} galaxies, {figures}")
        return correlation, offset, scatter

    return told


# Within 0.04 dex of 16 ages and a polynomial of degree 10, in a quarter of the time; metallicities that networks know.
QUICK = {"templates": (tuple(10 ** np.linspace(6.7, 10.1, 8)), (-1.7, -0.7, -0.4, 0.0, 0.4)), "mdegree": 6}


@pytest.fixture(scope="session")
def fit_quickly():
    from spectool.measure.populations import fit_populations

    return lambda galaxies: fit_populations(galaxies, progress=False, **QUICK)
