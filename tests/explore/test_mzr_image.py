"""Galaxies sorted into cells, against an independent way to do the same."""

import numpy as np
import pytest
from scipy.stats import binned_statistic_2d

from spectool.explore.mzr_image import count_image, count_nearby, find_cells, median_image

WINDOW = (9.0, 11.0, 8.0, 9.0)
CELLS = (13, 7)
EDGES = [np.linspace(9, 11, 14), np.linspace(8, 9, 8)]


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(4)
    return rng.normal(10, 0.6, 3001), rng.normal(8.5, 0.3, 3001), rng.normal(size=3001)


def test_every_point_of_the_window_is_counted_once(points):
    x, y, _ = points
    expected = np.histogram2d(x, y, bins=EDGES)[0].T
    image = count_image(x, y, WINDOW, CELLS)
    np.testing.assert_array_equal(np.nan_to_num(image), expected)
    assert np.isnan(image[expected == 0]).all()


def lower_median(values):
    return np.sort(values)[(len(values) - 1) // 2]


def test_a_cell_shows_the_median_of_what_is_known(points):
    x, y, values = points
    values = np.where(values > 1.5, np.nan, values)
    known = np.isfinite(values)
    expected = binned_statistic_2d(x[known], y[known], values[known], lower_median, bins=EDGES)[0].T
    np.testing.assert_allclose(median_image(x, y, values, WINDOW, CELLS), expected, rtol=1e-6)


def test_a_median_of_classes_is_a_class(points):
    x, y, values = points
    classes = np.digitize(values, [-0.5, 0.5]).astype(float)
    image = median_image(x, y, classes, WINDOW, CELLS)
    assert set(np.unique(image[np.isfinite(image)])) <= {0.0, 1.0, 2.0}


def test_nothing_known_is_an_empty_image(points):
    x, y, values = points
    assert np.isnan(median_image(x, y, values * np.nan, WINDOW, CELLS)).all()
    assert np.isnan(count_image(x + 50, y, WINDOW, CELLS)).all()


def test_neighbours_are_those_of_the_same_cell(points):
    x, y, _ = points
    inside, cell = find_cells(x, y, WINDOW, CELLS)
    nearby = count_nearby(x, y, WINDOW, CELLS)
    for point in inside[:50]:
        assert nearby[point] == np.sum(cell == cell[inside == point])
    assert np.isnan(np.delete(nearby, inside)).all()
