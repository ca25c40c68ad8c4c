"""Real catalogues: DustPedia's, GAMA's form, any form, Pipe3D's; what is wrong is masked and counted, or named."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.table import Table

from spectool.measure.gradients import add_radius, fit_gradients
from spectool.spectra import Z_SUN
from spectool.surveys import SurveyWarning
from spectool.surveys.gama import BANDS
from spectool.surveys.photometry import luminosity_distance
from spectool.surveys.tables import (
    DUSTPEDIA_LABELS,
    GAMA_LABELS,
    move_to_redshift,
    read_photometry,
    read_pipe3d,
)

FIVE = ("FUV", "g", "r", "i", "K")


@pytest.fixture
def table():
    """Eight galaxies in five bands, as GAMA's tables have them: mJy-bright, with redshifts."""
    rng = np.random.default_rng(0)
    colours = dict(zip(FIVE, (0.02, 0.6, 1.0, 1.4, 2.5), strict=True))
    bright = rng.uniform(0.5e-3, 2e-3, 8)
    columns = {"CATAID": np.arange(8), "Z": np.linspace(0.05, 0.2, 8)}
    for band, colour in colours.items():
        columns[f"{band}_flux"] = bright * colour
        columns[f"{band}_fluxerr"] = 0.05 * bright * colour
    columns["mass_stellar_percentile50"] = np.full(8, 1e10)
    columns["SFR_0_1Gyr_percentile50"] = np.r_[0.0, np.full(7, 2.0)]
    columns["L_dust_percentile50"] = np.full(8, 3e10)
    return Table(columns)


def count(sample, problem, band):
    return int(sample["photometry_problems"].sel(problem=problem, band=band))


def test_dustpedia(shared):
    sample = read_photometry(
        shared / "data/dustpedia.csv",
        units="Jy",
        bad_flags="ACN",
        distance="dist_best",
        labels=DUSTPEDIA_LABELS,
        label_suffix="_cigale",
    )
    raw = pd.read_csv(shared / "data/dustpedia.csv")
    assert sample.sizes["galaxy"] == 875 and list(sample["band"].values) == list(BANDS)
    assert (~sample["mask"]).any("galaxy").sum() == 19, "VISTA's X and Y it has not"
    for band, column in {"FUV": "GALEX_FUV", "K": "2MASS_Ks", "W1": "WISE_3.4", "S250": "SPIRE_250"}.items():
        fine = ~sample["mask"].sel(band=band).values
        assert np.allclose(sample["flux"].sel(band=band).values[fine], raw[column][fine])
        assert np.allclose(sample["flux_error"].sel(band=band).values[fine], raw[f"{column}_err"][fine])
        flags = raw[f"{column}_flag"].fillna("")
        assert count(sample, "no data", band) == raw[column].isna().sum()
        assert count(sample, "flagged", band) == (raw[column].notna() & flags.str.contains("[ACN]")).sum()
    assert count(sample, "error not positive", "S500") == 6
    assert int(sample["n_negative"].sum()) > 500 and "kept: 654 negative fluxes" in sample.attrs["history"]
    labelled = np.isfinite(sample["log_mass_cigale"].values)
    assert labelled.sum() == 814
    assert np.allclose(
        10 ** sample["log_dust_luminosity_cigale"].values[labelled], raw["Ldust__Lsol"][labelled]
    )
    assert int(sample["implausible_luminosity"].sum()) <= 1


def test_dustpedia_moved_to_where_gama_is(shared):
    sample = read_photometry(shared / "data/dustpedia.csv", units="Jy", distance="dist_best")
    moved = move_to_redshift(sample, 0.05)
    ratio = (moved["flux"] / sample["flux"]).sel(band="W1").values
    expected = 1.05 * (sample["distance"].values / luminosity_distance(0.05)) ** 2
    assert np.allclose(ratio, expected, rtol=1e-4)
    assert np.allclose(
        moved["flux"] / moved["flux_error"], sample["flux"] / sample["flux_error"], rtol=1e-4, equal_nan=True
    )
    assert (moved["redshift"] == 0.05).all() and "moved to z = 0.05" in moved.attrs["history"]
    with pytest.raises(ValueError, match="no distances"):
        move_to_redshift(sample.drop_vars("distance"), 0.05)


@pytest.mark.parametrize("ending", ["csv", "fits", "ecsv", "vot"])
def test_gamas_tables_in_any_format(table, tmp_path, ending):
    path = tmp_path / f"gama.{ending}"
    table.write(path, format="votable" if ending == "vot" else None)
    sample = read_photometry(path, units="Jy", labels=GAMA_LABELS)
    assert np.allclose(sample["flux"].sel(band="r"), table["r_flux"])
    assert np.allclose(sample["flux_error"].sel(band="FUV"), table["FUV_fluxerr"])
    assert np.allclose(sample["redshift"], table["Z"])
    assert sample["mask"].sel(band="S500").all() and not sample["mask"].sel(band=list(FIVE)).any()
    assert np.allclose(sample["log_mass"], 10) and np.isnan(sample["log_sfr"][0])
    for name in ("flux", "flux_error", "redshift", "log_mass", "log_sfr", "log_dust_luminosity"):
        u.Unit(sample[name].attrs["units"])


def test_sentinels_gaps_and_errors_are_masked_and_counted(table):
    table["FUV_flux"][:3] = [-999.0, -99.0, np.nan]
    table["FUV_fluxerr"][3] = 9999.0
    table["g_fluxerr"][:3] = [0.0, -0.1, np.nan]
    table["r_flux"][0] = -1e-5
    sample = read_photometry(table, units="Jy")
    assert count(sample, "sentinel", "FUV") == 3 and count(sample, "no data", "FUV") == 1
    assert count(sample, "error not positive", "g") == 2 and count(sample, "no error", "g") == 1
    assert sample["mask"].sel(band="FUV").values.tolist() == [True] * 4 + [False] * 4
    assert np.isnan(sample["flux"].values[sample["mask"].values]).all()
    assert np.isclose(sample["flux"].sel(band="r")[0], -1e-5), (
        "a negative flux with an error is a measurement"
    )
    assert int(sample["n_negative"].sum()) == 1
    told = sample.attrs["history"]
    assert "masked, sentinel: 3 fluxes (most: FUV 3)" in told
    assert "masked, error not positive: 2 fluxes" in told and "kept: 1 negative flux" in told


def test_masked_cells_and_text_in_numbers(table):
    cells = table["r_flux"].astype(str)
    table["r_flux"] = np.where(np.arange(8) == 2, "", cells)
    assert count(read_photometry(table, units="Jy"), "no data", "r") == 1
    table["r_flux"] = np.where(np.arange(8) == 2, "bright", cells)
    with pytest.raises(ValueError, match="table: column 'r_flux' is not numeric"):
        read_photometry(table, units="Jy")


def test_units_may_be_the_tables(table):
    milli = table.copy()
    for band in FIVE:
        for name in (f"{band}_flux", f"{band}_fluxerr"):
            milli[name] = 1e3 * milli[name]
            milli[name].unit = "mJy"
    ours = read_photometry(table, units="Jy")["flux"]
    assert np.allclose(read_photometry(milli)["flux"], ours, equal_nan=True)


def test_milli_janskys_taken_for_janskys_are_flagged(table):
    for band in FIVE:
        table[f"{band}_flux"] *= 1e3
        table[f"{band}_fluxerr"] *= 1e3
    with pytest.warns(SurveyWarning, match="8 of 8 galaxies have an impossible luminosity: wrong units"):
        sample = read_photometry(table, units="Jy")
    assert sample["implausible_luminosity"].all() and not sample["mask"].sel(band="r").any()


def as_magnitudes(table):
    for band in FIVE:
        flux, error = table[f"{band}_flux"], table[f"{band}_fluxerr"]
        table[f"{band}_fluxerr"] = 2.5 / np.log(10) * error / flux
        table[f"{band}_flux"] = -2.5 * np.log10(flux / 3631)
    return table


def test_magnitudes_are_recognised_and_converted(table):
    magnitudes = as_magnitudes(table.copy())
    with pytest.raises(
        ValueError, match=r'8 of 8 galaxies have .* in all bands, as in row 0\): pass units="mag\(AB\)"'
    ):
        read_photometry(magnitudes, units="Jy")
    magnitudes["r_flux"][1] = 99.0
    converted, sample = read_photometry(magnitudes, units="mag(AB)"), read_photometry(table, units="Jy")
    assert count(converted, "sentinel", "r") == 1
    fine = ~converted["mask"].values
    assert np.allclose(converted["flux"].values[fine], sample["flux"].values[fine], rtol=1e-4)
    assert np.allclose(converted["flux_error"].values[fine], sample["flux_error"].values[fine], rtol=0.05)
    with pytest.raises(ValueError, match="unnamed system"):
        read_photometry(magnitudes, units="mag")


def test_a_galaxy_whose_row_holds_magnitudes_is_masked(table):
    table[3] = as_magnitudes(table.copy())[3]
    sample = read_photometry(table, units="Jy")
    assert sample["mask"].sel(band=list(FIVE)).all("band").values.tolist() == [i == 3 for i in range(8)]
    assert "looks like magnitudes: 5 fluxes" in sample.attrs["history"]


def test_a_band_twice_is_taken_once_or_refused(table, tmp_path):
    frame = table.to_pandas()
    frame["SDSS_r"], frame["SDSS_r_err"] = frame["r_flux"], frame["r_fluxerr"]
    sample = read_photometry(frame, units="Jy")
    assert "band r is there twice: column SDSS_r equals r_flux" in sample.attrs["history"]
    frame["SDSS_r"] *= 1.1
    with pytest.raises(ValueError, match=r"columns r_flux, SDSS_r all look like band 'r', and differ"):
        read_photometry(frame, units="Jy")
    assert read_photometry(frame, units="Jy", columns={"r": "SDSS_r"})["flux"].sel(band="r").notnull().all()
    path = tmp_path / "twice.csv"
    path.write_text("r_flux,r_fluxerr,r_flux\n0.001,0.0001,0.001\n0.002,0.0001,0.003\n")
    with pytest.raises(ValueError, match=r"twice.csv: columns r_flux, r_flux.1 all look like band 'r'"):
        read_photometry(path, units="Jy")


def test_any_table_with_named_bands(table):
    own = Table({"blue": [1.0, 2.0], "e_blue": [0.1, 0.1], "red": [3.0, 4.0], "red noise": [0.3, 0.3]})
    sample = read_photometry(
        own, columns={"B": "blue", "R": "red"}, errors={"R": "red noise"}, units={"B": "mJy", "R": "uJy"}
    )
    assert list(sample["band"].values) == ["B", "R"]
    assert np.allclose(sample["flux"], [[1e-3, 3e-6], [2e-3, 4e-6]])
    with pytest.raises(ValueError, match="no column holds the errors of 'red'"):
        read_photometry(own, columns={"R": "red"}, units="Jy")
    guessed = read_photometry(own, columns={"R": "red"}, units="Jy", relative_error=0.2)
    assert np.allclose(guessed["flux_error"], 0.2 * guessed["flux"])


def test_a_bare_z_is_no_band_without_its_error():
    bare = Table({"u": [1e-3], "u_err": [1e-5], "z": [0.1], "X": [512.0]})
    sample = read_photometry(bare, units="Jy")
    assert sample["band"].values[~sample["mask"].values[0]].tolist() == ["u"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"r": "nowhere"}}, "no columns nowhere; there are CATAID"),
        ({"labels": {"log_age": "age"}}, "no column 'age' for log_age"),
        ({"redshift": "zed"}, "no column 'zed' of redshift"),
        ({"redshift": [0.1, 0.2, 0.3]}, r"redshift has shape \(3,\) for 8 galaxies"),
        ({"units": "W / m2"}, "is in W / m2, which is no flux per frequency"),
        ({"units": "janskies"}, "'janskies' is not a unit"),
        ({"units": None}, r"column 'FUV_flux' has no unit: say it, such as units=\"Jy\""),
    ],
)
def test_what_is_not_there_or_no_unit_is_named(table, options, says):
    with pytest.raises(ValueError, match=f"table: .*{says}"):
        read_photometry(table, **({"units": "Jy"} | options))


def test_files_that_are_no_catalogue_are_named(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_photometry(tmp_path / "none.fits")
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE  =   not FITS")
    with pytest.raises(ValueError, match=r"broken\.fits: cannot be read as a table"):
        read_photometry(broken)
    with pytest.raises(ValueError, match="table: no band of GAMA among the columns CATAID, Z"):
        read_photometry(table["CATAID", "Z"], units="Jy")


def test_unknown_redshifts_are_told(table):
    table["Z"][2] = -9.0
    sample = read_photometry(table, units="Jy")
    assert np.isnan(sample["redshift"][2]) and "1 galaxies have no redshift" in sample.attrs["history"]


# edge_pydb/dat_glob/external/edge_leda.csv and califa/edge_califa.csv
LEDA = {"center": (180.7111065, 48.6362161), "position_angle": 99.87, "inclination": 41.31}
RE = 18.598  # arcsec
COLUMNS = ["log_age_fit", "log_z_fit"]


@pytest.fixture(scope="module")
def path():
    """In the package's folder: importing it would write a file there."""
    folder = Path(find_spec("edge_pydb").submodule_search_locations[0])
    return folder / "img_califa" / "NGC4047_allpix.pipe3d.hdf5"


@pytest.fixture(scope="module")
def spaxels(path):
    return Table.read(path, path="SSP", format="hdf5")


def with_radii(sample):
    where = {k: v for k, v in LEDA.items() if k != "center"}
    return add_radius(sample, re=RE, **where)


def test_positions_are_those_of_the_package(spaxels):
    sample = with_radii(read_pipe3d(spaxels, center=LEDA["center"], by_zone=False))
    rows = np.isfinite(spaxels["age_lwt"])
    assert sample.sizes["spectrum"] == rows.sum() == 4282
    assert "no age, metallicity or dust: 1262 spaxels" in sample.attrs["history"]
    # their radii, by other code and in single precision
    np.testing.assert_allclose(sample["radius"] * RE, spaxels["rad_arc"][rows], atol=0.03)
    np.testing.assert_allclose(sample["log_age_fit"], spaxels["age_lwt"][rows] - 9, atol=1e-6)
    assert sample["galaxy_name"].item() == "NGC4047"
    # the column of age errors holds none
    np.testing.assert_allclose(spaxels["e_age_lwt"], spaxels["age_mwt"] - 9, atol=1e-5)
    # LEDA's centre is the light's to within a spaxel
    light = read_pipe3d(spaxels, by_zone=False)
    assert np.abs(light["x"] - sample["x"]).max() < 1
    assert np.abs(light["y"] - sample["y"]).max() < 1


def test_the_solar_metallicity_is_that_of_the_table(path, spaxels):
    history = Table.read(path, path="SFH", format="hdf5")
    names = [name for name in history.colnames if name.startswith("lumfrac_met")]
    share = np.nan_to_num(np.stack([np.asarray(history[name], float) for name in names], axis=1))
    log_z = share @ np.log10([float(name.split("_")[-1]) for name in names]) / share.sum(axis=1).clip(0.1)
    rows = np.isfinite(spaxels["ZH_lwt"]) & (share.sum(axis=1) > 0.9)
    solar = 10 ** (log_z - np.asarray(spaxels["ZH_lwt"], float))[rows]
    assert np.median(solar) == pytest.approx(Z_SUN, rel=1e-3)


def test_gradients_of_a_real_galaxy(path):
    sample = with_radii(read_pipe3d(path, center=LEDA["center"]))
    assert sample.sizes["spectrum"] == 1098
    found = fit_gradients(sample, columns=COLUMNS, seed=1)
    inside = sample["radius"].values < 1
    assert found["n_inside"].item() == inside.sum()
    for column in COLUMNS:
        slope, central = np.polyfit(sample["radius"].values[inside], sample[column].values[inside], 1)
        error = found[f"{column}_gradient_error"].item()
        assert found[f"{column}_gradient"].item() == pytest.approx(slope, abs=0.3 * error)
        assert found[f"{column}_central"].item() == pytest.approx(central, abs=0.01)
        # discs of CALIFA are older and richer in metals inside (Gonzalez Delgado et al. 2015)
        assert found[f"{column}_gradient"].item() < -5 * error
        assert 0.005 < error < 0.05
    # counted by their spaxels, the outer zones weigh more: 813 spaxels are 628 zones
    spaxels = with_radii(read_pipe3d(path, center=LEDA["center"], by_zone=False))
    by_spaxel = fit_gradients(spaxels, columns=COLUMNS, seed=1)
    assert by_spaxel["n_inside"] > found["n_inside"]
    assert by_spaxel["log_age_fit_gradient"] > found["log_age_fit_gradient"]


def test_what_is_wrong_is_told(tmp_path, spaxels):
    with pytest.raises(FileNotFoundError):
        read_pipe3d(tmp_path / "nowhere.hdf5")
    (tmp_path / "text.hdf5").write_text("no table")
    with pytest.raises(ValueError, match=r"text.hdf5: cannot be read as Pipe3D"):
        read_pipe3d(tmp_path / "text.hdf5")
    small = spaxels["ra_abs", "dec_abs", "age_lwt", "ZH_lwt", "Av_ssp", "cont_segm", "Vcont_ssp"][
        2600:2700
    ].copy()
    with pytest.raises(ValueError, match="no column ZH_lwt"):
        read_pipe3d(small["ra_abs", "dec_abs", "age_lwt", "Av_ssp", "cont_segm", "Vcont_ssp"])
    odd = small.copy()
    odd["age_lwt"].unit = None
    with pytest.raises(ValueError, match=r"column age_lwt is in no unit, not in dex\(Gyr\)"):
        read_pipe3d(odd)
    odd = small.copy()
    odd["age_lwt"][:3] = 99
    good = np.isfinite(small["age_lwt"][3:]).sum()
    sample = read_pipe3d(odd, by_zone=False)
    assert sample.sizes["spectrum"] == good
    assert "impossible age: 3 spaxels" in sample.attrs["history"]
    odd["age_lwt"][:] = np.nan
    with pytest.raises(ValueError, match="none of 100 spaxels"):
        read_pipe3d(odd)
