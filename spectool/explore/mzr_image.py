"""Galaxies as a picture: where there are too many for points, each cell shows how many or what they are."""

import numpy as np

MAX_POINTS = 20_000
N_CELLS = (110, 80)


def find_cells(x, y, window, n_cells=N_CELLS):
    """Sort points into the cells of a window."""
    left, right, bottom, top = window
    across, up = n_cells
    column = np.floor((x - left) * (across / (right - left)))
    row = np.floor((y - bottom) * (up / (top - bottom)))
    inside = np.flatnonzero((column >= 0) & (column < across) & (row >= 0) & (row < up))
    return inside, (row[inside] * across + column[inside]).astype(np.uint16)


def count_image(x, y, window, n_cells=N_CELLS):
    """Count points in the cells of a window."""
    _, cell = find_cells(x, y, window, n_cells)
    counts = np.bincount(cell, minlength=n_cells[0] * n_cells[1]).astype(np.float32)
    counts[counts == 0] = np.nan
    return counts.reshape(n_cells[::-1])


def median_image(x, y, values, window, n_cells=N_CELLS):
    """Median of a quantity in the cells of a window."""
    known = np.flatnonzero(np.isfinite(values))
    # Sorted by value first; a stable sort by cell (of 16 bits: a radix sort) then leaves each cell sorted.
    known = known[np.argsort(values[known])]
    inside, cell = find_cells(x[known], y[known], window, n_cells)
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=n_cells[0] * n_cells[1])
    middle = np.cumsum(counts) - counts + (counts - 1) // 2
    image = np.full(counts.size, np.nan, dtype=np.float32)
    filled = counts > 0
    image[filled] = values[known][inside[order[middle[filled]]]]
    return image.reshape(n_cells[::-1])


def count_nearby(x, y, window, n_cells=(40, 30)):
    """Number of points in the same cell of a window, by point."""
    inside, cell = find_cells(x, y, window, n_cells)
    counts = np.full(len(x), np.nan)
    counts[inside] = np.bincount(cell)[cell] if cell.size else 0
    return counts
