"""Emission-line labels never cover each other, and say which lines they stand for."""

import itertools

import numpy as np
import pytest

from spectool.explore.spectrum import CHARACTER_WIDTH, LABEL_SIZE, flux_range, layout_lines
from spectool.spectra import LINES

WINDOWS = [(1000.0, 10000.0), (3500.0, 7400.0), (4780.0, 5080.0), (6480.0, 6800.0), (6560.0, 6570.0)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("width", [350, 560, 1200])
def test_no_label_covers_another_or_leaves_the_frame(window, width):
    placed = layout_lines(window, width)
    scale = (window[1] - window[0]) / width
    boxes = []
    for x, label, row in zip(placed["x"], placed["label"], placed["row"], strict=True):
        half = 0.5 * len(label) * CHARACTER_WIDTH * LABEL_SIZE * scale
        boxes.append((row, x - half, x + half))
        assert window[0] <= x <= window[1]
    for (row, left, right), (other, other_left, other_right) in itertools.combinations(boxes, 2):
        assert row != other or right <= other_left or other_right <= left


def test_the_important_lines_are_named_on_a_narrow_page():
    text = " ".join(layout_lines((1000.0, 10000.0), 500)["label"])
    for name in ("Lyα", "[O II]", "Hβ", "[O III]", "Hα"):
        assert name in text


def test_neighbours_share_a_label_far_away_and_part_when_one_zooms_in():
    assert "[N II] + Hα" in layout_lines((1000.0, 10000.0), 600)["label"]
    near = layout_lines((6500.0, 6650.0), 600)["label"]
    assert {"[N II] 6548", "Hα", "[N II] 6583"} <= set(near)


def test_a_window_without_lines_has_no_labels():
    assert layout_lines((7200.0, 7300.0), 600, lines=LINES)["label"] == []


def test_the_flux_range_holds_the_spectra_and_skips_gaps():
    flux = np.array([[0.2, np.nan, 3.0], [0.1, 0.4, np.nan]])
    low, high = flux_range(flux)
    assert low < 0.0
    assert high > 3.0
    assert flux_range(np.full(4, np.nan)) == (0.0, 1.0)
