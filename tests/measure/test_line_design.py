"""Templates are what pPXF would make of the same grid, reddened and cut to the spectra's pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
from ppxf import sps_util

from benchmarks.lines import write_ppxf_templates
from spectool.measure import line_design as design
from spectool.measure.line_design import select_populations, stellar_templates, template_pixels
from tests.refusals import refused

SELECTION = ((1e7, 1e9, 1e10), (-0.4, 0.0))


def pixels(velscale=276.0):
    """What `template_pixels` asks of spectra."""
    about = {"velscale": velscale, "step": velscale / 299792.458, "reach": (3700.0, 7900.0)}
    return SimpleNamespace(**about, lsf_at=lambda wavelength: np.full(wavelength.size, 80.0))


def test_ppxf_reads_the_file_and_makes_the_same_pixels(grid, tmp_path):
    """The grid as pPXF's own reader sees it, on SDSS's pixels; where the grid's own pixels are uniform."""
    path = tmp_path / "spectra_ours.npz"
    write_ppxf_templates(grid, path, selection=SELECTION, wavelength_range=(3560, 7340))
    library = sps_util.sps_lib(path, 69.0297)
    age, metal = select_populations(grid, SELECTION)
    np.testing.assert_allclose(library.age_grid[:, 0] * 1e9, grid.age[age])
    np.testing.assert_allclose(library.metal_grid[0], np.log10(grid.metallicity[metal] / grid.z_sun))
    np.testing.assert_allclose(library.mass_no_gas_grid, grid.surviving_mass[np.ix_(metal, age)].T)
    step = library.ln_lam_temp[1] - library.ln_lam_temp[0]
    edges = np.exp(library.ln_lam_temp[0] + step * (np.arange(len(library.lam_temp) + 1) - 0.5))
    inside = slice(5, -5)  # pPXF extrapolates at the ends
    no_blur = np.zeros(edges.size - 1)
    ours = stellar_templates(edges[5:-5], no_blur[inside], grid, selection=SELECTION, reddening=(0.0,))
    theirs = library.templates.transpose(2, 1, 0).reshape(6, -1)[:, inside]
    np.testing.assert_allclose(ours, theirs / np.median(theirs, axis=1, keepdims=True), rtol=1e-4)


def test_the_compact_set_is_small_the_full_one_is_all_and_others_are_refused(grid, tmp_path):
    sizes = {"compact": (len(design.COMPACT_AGES), len(design.COMPACT_METALLICITIES))}
    sizes["full"] = (len(grid.age), len(grid.metallicity))
    for selection, size in sizes.items():
        assert tuple(map(len, select_populations(grid, selection))) == size
    for selection in ("all", ((), (0.0,)), ((-1.0,), (0.0,))):
        refused(r"compact|positive age", select_populations, grid, selection)
    with pytest.raises(ValueError, match="no pixel within"):
        write_ppxf_templates(grid, tmp_path / "none.npz", wavelength_range=(20000, 30000))
    refused("beyond the grid", stellar_templates, np.linspace(700.0, 900.0, 101), np.zeros(100), grid)


def test_templates_are_kept_and_dust_reddens_as_a_power_law(grid):
    _, edges, lsf, _ = template_pixels(pixels())
    first = stellar_templates(edges, lsf, grid)
    assert stellar_templates(edges, lsf, grid) is first
    assert stellar_templates(edges, lsf + 1, grid) is not first
    assert len(first) == len(design.COMPACT_AGES) * len(design.COMPACT_METALLICITIES) * len(design.REDDENING)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    _, edges, lsf, _ = template_pixels(pixels())
    clear, dusty = stellar_templates(edges, lsf, grid, selection=((1e9,), (0.0,)), reddening=(0.0, 1.0))
    depth = -np.log(dusty / clear)
    power = (np.sqrt(edges[1:] * edges[:-1]) / 5500) ** -0.7
    np.testing.assert_allclose(np.ptp(depth - power), 0, atol=1e-9)


@pytest.mark.parametrize(("velscale", "own"), [(276.0, -(69.0297**2)), (69.0, 69.0**2)])
def test_template_pixels_fit_into_those_of_the_spectra(velscale, own):
    """And a pixel's own width is in the resolution once, whether spectra were rebinned or not."""
    ratio, edges, lsf, log_start = template_pixels(pixels(velscale))
    assert ratio == (4 if velscale > 75 else 1) and (edges.size - 1) % ratio == 0
    np.testing.assert_allclose(np.diff(np.log(edges)) * 299792.458, velscale / ratio)
    assert edges[0] < 3700 * (1 - 900 / 299792) and edges[-1] > 7900 * (1 + 900 / 299792)
    np.testing.assert_allclose(lsf**2 + own / 12, 80.0**2, rtol=1e-6)
    assert np.exp(log_start) == pytest.approx(edges[: ratio + 1].mean(), rel=1e-5)
