import numpy as np
import pytest

from benchmarks.lines import write_ppxf_templates
from spectool.measure.line_design import select_populations
from spectool.spectra import vacuum_to_air
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import SSPGrid
from tests.refusals import refused

SELECTION = ((1e8, 1e9, 3e9, 1e10), (-0.4, 0.0, 0.4))


@pytest.fixture(scope="module")
def file(grid, tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "spectra_ours.npz"
    write_ppxf_templates(grid, path, selection=SELECTION, wavelength_range=(3560, 7340))
    return path


@pytest.fixture
def changed(file, tmp_path):
    """The file with other arrays: those that functions of the old ones give; None takes one away."""

    def change(**arrays):
        with np.load(file) as archive:
            content = {key: archive[key] for key in archive.files}
        content |= {key: value(content) if callable(value) else value for key, value in arrays.items()}
        path = tmp_path / "changed.npz"
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path

    return change


def test_what_was_written_for_ppxf_is_read_back(grid, file):
    back = SSPGrid.from_ppxf(file)
    age, metal = select_populations(grid, SELECTION)
    inside = (grid.wavelength >= 3560) & (grid.wavelength <= 7340)
    np.testing.assert_allclose(back.age, grid.age[age])
    np.testing.assert_allclose(back.metallicity, grid.metallicity[metal])
    np.testing.assert_allclose(back.flux, grid.flux[np.ix_(metal, age, inside)], rtol=1e-6)
    np.testing.assert_allclose(back.surviving_mass, grid.surviving_mass[np.ix_(metal, age)])
    np.testing.assert_allclose(back.wavelength, grid.wavelength[inside], atol=1e-3)
    assert back.fwhm == grid.fwhm and back.nebular is None
    assert back.provenance["name"] == "spectra_ours" and "vacuum" in back.provenance["source"]


def test_air_is_brought_to_vacuum_and_rows_in_any_order_come_out_right(file, changed):
    path = changed(lam=lambda old: vacuum_to_air(old["lam"]))
    back = SSPGrid.from_ppxf(path)
    assert "air" in back.provenance["source"]
    np.testing.assert_allclose(back.wavelength, SSPGrid.from_ppxf(file).wavelength, atol=1e-3)
    believed = SSPGrid.from_ppxf(path, medium="vacuum")
    assert np.median(back.wavelength - believed.wavelength) > 1
    turned = changed(
        templates=lambda old: old["templates"][:, ::-1, ::-1],
        ages=lambda old: old["ages"][::-1],
        metals=lambda old: old["metals"][::-1],
        masses=lambda old: old["masses"][::-1, ::-1],
    )
    plain, back = SSPGrid.from_ppxf(file), SSPGrid.from_ppxf(turned, z_sun=0.0198, name="turned")
    np.testing.assert_array_equal(back.flux, plain.flux)
    np.testing.assert_array_equal(back.surviving_mass, plain.surviving_mass)
    np.testing.assert_allclose(back.metallicity / plain.metallicity, 0.0198 / 0.02)
    assert back.provenance["name"] == "turned"


def test_a_resolution_that_changes_with_wavelength_is_used(file, changed):
    fwhm = [lambda old: np.linspace(2.0, 3.5, old["lam"].size), None, 1.0]
    with np.load(file) as archive:
        fwhm[1] = float(np.interp(5050, archive["lam"], fwhm[0](archive)))
    wavelength = np.arange(5000.0, 5100.0)
    grids = (SSPGrid.from_ppxf(changed(fwhm=value)) for value in fwhm)
    varying, constant, sharp = (smooth_ssps(each, wavelength, 330) for each in grids)
    np.testing.assert_allclose(varying, constant, rtol=2e-3)
    # A file that takes itself for sharper is blurred more.
    plain = smooth_ssps(SSPGrid.from_ppxf(file), wavelength, 330)
    assert np.ptp(sharp[1, 2]) < np.ptp(plain[1, 2])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"ages": None, "metals": None}, {}, "lacks ages, metals"),
        ({"ages": np.array([1.0, 2.0])}, {}, "make .*2, 3"),
        ({"lam": np.linspace(15000, 16000, 7)}, {}, "lam, ages and metals make"),
        ({"lam": lambda old: old["lam"] * (1 + 140 / 299792)}, {}, "neither where vacuum"),
        ({}, {"medium": "water"}, "medium is"),
        ({}, {"wavelength_range": (1e4, 2e4)}, "nothing of 10000-20000 A"),
        ({"lam": lambda old: old["lam"] + 3000}, {}, "does not cover .* say whether its medium"),
    ],
)
def test_a_file_that_is_none_of_ppxfs_is_refused(changed, arrays, options, message):
    refused(message, SSPGrid.from_ppxf, changed(**arrays), **options)


def test_a_missing_or_broken_file_is_named(tmp_path):
    refused(r"nowhere\.npz", SSPGrid.from_ppxf, tmp_path / "nowhere.npz", error=FileNotFoundError)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    refused(r"broken\.npz is no \.npz", SSPGrid.from_ppxf, broken)
