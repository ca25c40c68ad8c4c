import numpy as np
import pytest

from benchmarks.lines import write_ppxf_templates
from spectool.measure.line_design import select_populations
from spectool.spectra import vacuum_to_air
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import SSPGrid

SELECTION = ((1e8, 1e9, 3e9, 1e10), (-0.4, 0.0, 0.4))


@pytest.fixture(scope="module")
def file(grid, tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "spectra_ours.npz"
    write_ppxf_templates(grid, path, selection=SELECTION, wavelength_range=(3560, 7340))
    return path


def changed(file, folder, **arrays):
    """The file with other arrays; None takes one away."""
    with np.load(file) as archive:
        content = {key: archive[key] for key in archive.files} | arrays
    path = folder / "changed.npz"
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


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


def test_air_is_recognised_and_brought_to_vacuum(grid, file, tmp_path):
    with np.load(file) as archive:
        vacuum = archive["lam"]
    path = changed(file, tmp_path, lam=vacuum_to_air(vacuum))
    back = SSPGrid.from_ppxf(path)
    assert "air" in back.provenance["source"]
    np.testing.assert_allclose(back.wavelength, SSPGrid.from_ppxf(file).wavelength, atol=1e-3)
    believed = SSPGrid.from_ppxf(path, medium="vacuum")
    assert np.median(back.wavelength - believed.wavelength) > 1


def test_rows_in_any_order_and_another_sun_come_out_right(grid, file, tmp_path):
    with np.load(file) as archive:
        content = {key: archive[key] for key in archive.files}
    turned = {
        "templates": content["templates"][:, ::-1, ::-1],
        "ages": content["ages"][::-1],
        "metals": content["metals"][::-1],
        "masses": content["masses"][::-1, ::-1],
    }
    plain = SSPGrid.from_ppxf(file)
    back = SSPGrid.from_ppxf(changed(file, tmp_path, **turned), z_sun=0.0198, name="turned")
    np.testing.assert_array_equal(back.flux, plain.flux)
    np.testing.assert_array_equal(back.surviving_mass, plain.surviving_mass)
    np.testing.assert_allclose(back.metallicity / plain.metallicity, 0.0198 / 0.02)
    assert back.provenance["name"] == "turned"


def test_a_resolution_that_changes_with_wavelength_is_used(file, tmp_path):
    with np.load(file) as archive:
        lam = archive["lam"]
    fwhm = np.linspace(2.0, 3.5, lam.size)
    back = SSPGrid.from_ppxf(changed(file, tmp_path, fwhm=fwhm))
    wavelength = np.arange(5000.0, 5100.0)
    constant = SSPGrid.from_ppxf(changed(file, tmp_path, fwhm=float(np.interp(5050, lam, fwhm))))
    np.testing.assert_allclose(
        smooth_ssps(back, wavelength, 330), smooth_ssps(constant, wavelength, 330), rtol=2e-3
    )
    # A file that takes itself for sharper is blurred more.
    sharp = SSPGrid.from_ppxf(changed(file, tmp_path, fwhm=1.0))
    contrast = [np.ptp(smooth_ssps(g, wavelength, 330)[1, 2]) for g in (sharp, SSPGrid.from_ppxf(file))]
    assert contrast[0] < contrast[1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ages": None, "metals": None}, "lacks ages, metals"),
        ({"ages": np.array([1.0, 2.0])}, "make .*2, 3"),
        ({"lam": np.linspace(15000, 16000, 7)}, "lam, ages and metals make"),
    ],
)
def test_a_file_that_is_none_of_ppxfs_is_refused(file, tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        SSPGrid.from_ppxf(changed(file, tmp_path, **arrays))


def test_lines_at_neither_place_are_not_guessed_about(file, tmp_path):
    with np.load(file) as archive:
        lam = archive["lam"] * (1 + 140 / 299792)
    with pytest.raises(ValueError, match="neither where vacuum"):
        SSPGrid.from_ppxf(changed(file, tmp_path, lam=lam))


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        SSPGrid.from_ppxf(tmp_path / "nowhere.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken\.npz is no \.npz"):
        SSPGrid.from_ppxf(broken)
    with pytest.raises(ValueError, match="medium is"):
        np.savez(broken, templates=np.ones((3, 1, 1)), lam=np.arange(3.0), ages=[1.0], metals=[0.0])
        SSPGrid.from_ppxf(broken, medium="water")
