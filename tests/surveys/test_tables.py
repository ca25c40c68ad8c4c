"""Real catalogues: DustPedia's, GAMA's form, any form, Pipe3D's; what is wrong is masked and counted, or named."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from spectool.measure.gradients import add_radius, fit_gradients
from spectool.spectra import Z_SUN
from spectool.surveys import SurveyWarning, tables
from spectool.surveys.gama import BANDS
from spectool.surveys.photometry import luminosity_distance
from spectool.surveys.tables import move_to_redshift, read_photometry, read_pipe3d
from tests.refusals import refused
from tests.surveys.conftest import FIVE, make_catalogue, pipe3d_path


@pytest.fixture
def table():
    return make_catalogue()


def count(sample, problem, band):
    return int(sample["photometry_problems"].sel(problem=problem, band=band))


def test_dustpedia_where_it_is_and_where_gama_is(shared):
    path = shared / "data/dustpedia.csv"
    options = {"bad_flags": "ACN", "labels": tables.DUSTPEDIA_LABELS, "label_suffix": "_cigale"}
    sample, raw = read_photometry(path, units="Jy", distance="dist_best", **options), pd.read_csv(path)
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
    dust = 10 ** sample["log_dust_luminosity_cigale"].values[labelled]
    assert labelled.sum() == 814 and np.allclose(dust, raw["Ldust__Lsol"][labelled])
    moved = move_to_redshift(sample, 0.05)
    ratio = (moved["flux"] / sample["flux"]).sel(band="W1").values
    expected = 1.05 * (sample["distance"].values / luminosity_distance(0.05)) ** 2
    fine = ~sample["mask"].sel(band="W1").values
    assert np.allclose(ratio[fine], expected[fine], rtol=1e-4)
    signal = [s["flux"] / s["flux_error"] for s in (moved, sample)]
    assert np.allclose(*signal, rtol=1e-4, equal_nan=True) and (moved["redshift"] == 0.05).all()
    refused("no distances", move_to_redshift, sample.drop_vars("distance"), 0.05)


@pytest.mark.parametrize("ending", ["csv", "fits", "ecsv", "vot"])
def test_gamas_tables_in_any_format(table, tmp_path, ending):
    path = tmp_path / f"gama.{ending}"
    table.write(path, format="votable" if ending == "vot" else None)
    sample = read_photometry(path, units="Jy", labels=tables.GAMA_LABELS)
    assert np.allclose(sample["flux"].sel(band="r"), table["r_flux"])
    assert np.allclose(sample["flux_error"].sel(band="FUV"), table["FUV_fluxerr"])
    assert np.allclose(sample["redshift"], table["Z"])
    assert sample["mask"].sel(band="S500").all() and not sample["mask"].sel(band=list(FIVE)).any()
    assert np.allclose(sample["log_mass"], 10) and np.isnan(sample["log_sfr"][0])


def test_sentinels_gaps_and_errors_are_masked_and_counted(table):
    table["FUV_flux"][:3] = [-999.0, -99.0, np.nan]
    table["FUV_fluxerr"][3] = 9999.0
    table["g_fluxerr"][:3] = [0.0, -0.1, np.nan]
    table["r_flux"][0] = -1e-5
    table["i_flux"] = np.where(np.arange(8) == 2, "", table["i_flux"].astype(str))
    table["Z"][2] = -9.0
    sample = read_photometry(table, units="Jy")
    assert count(sample, "sentinel", "FUV") == 3 and count(sample, "no data", "FUV") == 1
    assert count(sample, "error not positive", "g") == 2 and count(sample, "no error", "g") == 1
    assert count(sample, "no data", "i") == 1
    assert sample["mask"].sel(band="FUV").values.tolist() == [True] * 4 + [False] * 4
    assert np.isnan(sample["flux"].values[sample["mask"].values]).all() and np.isnan(sample["redshift"][2])
    # A negative flux with an error is a measurement.
    assert np.isclose(sample["flux"].sel(band="r")[0], -1e-5) and int(sample["n_negative"].sum()) == 1
    words = ("sentinel: 3 fluxes (most: FUV 3)", "kept: 1 negative flux", "1 galaxies have no redshift")
    assert all(text in sample.attrs["history"] for text in words)


def test_units_may_be_the_tables_and_wrong_ones_are_flagged(table):
    milli = table.copy()
    for name in (f"{band}_{what}" for band in FIVE for what in ("flux", "fluxerr")):
        milli[name] = 1e3 * milli[name]
    with pytest.warns(SurveyWarning, match="8 of 8 galaxies have an impossible luminosity: wrong units"):
        sample = read_photometry(milli, units="Jy")
    assert sample["implausible_luminosity"].all() and not sample["mask"].sel(band="r").any()
    for name in (f"{band}_{what}" for band in FIVE for what in ("flux", "fluxerr")):
        milli[name].unit = "mJy"
    ours = read_photometry(table, units="Jy")["flux"]
    assert np.allclose(read_photometry(milli)["flux"], ours, equal_nan=True)


def as_magnitudes(table):
    for band in FIVE:
        flux, error = table[f"{band}_flux"], table[f"{band}_fluxerr"]
        table[f"{band}_fluxerr"] = 2.5 / np.log(10) * error / flux
        table[f"{band}_flux"] = -2.5 * np.log10(flux / 3631)
    return table


def test_magnitudes_are_recognised_and_converted(table):
    magnitudes = as_magnitudes(table.copy())
    words = r'8 of 8 galaxies have .* in all bands, as in row 0\): pass units="mag\(AB\)"'
    refused(words, read_photometry, magnitudes, units="Jy")
    magnitudes["r_flux"][1] = 99.0
    converted, sample = read_photometry(magnitudes, units="mag(AB)"), read_photometry(table, units="Jy")
    assert count(converted, "sentinel", "r") == 1
    fine = ~converted["mask"].values
    assert np.allclose(converted["flux"].values[fine], sample["flux"].values[fine], rtol=1e-4)
    assert np.allclose(converted["flux_error"].values[fine], sample["flux_error"].values[fine], rtol=0.05)
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
    refused(r"columns r_flux, SDSS_r all look like band 'r', and differ", read_photometry, frame, units="Jy")
    assert read_photometry(frame, units="Jy", columns={"r": "SDSS_r"})["flux"].sel(band="r").notnull().all()
    path = tmp_path / "twice.csv"
    path.write_text("r_flux,r_fluxerr,r_flux\n0.001,0.0001,0.001\n0.002,0.0001,0.003\n")
    refused(r"twice.csv: columns r_flux, r_flux.1 all look like band 'r'", read_photometry, path, units="Jy")


def test_any_table_with_named_bands(table):
    own = Table({"blue": [1.0, 2.0], "e_blue": [0.1, 0.1], "red": [3.0, 4.0], "red noise": [0.3, 0.3]})
    where = {"columns": {"B": "blue", "R": "red"}, "errors": {"R": "red noise"}}
    sample = read_photometry(own, **where, units={"B": "mJy", "R": "uJy"})
    assert list(sample["band"].values) == ["B", "R"]
    assert np.allclose(sample["flux"], [[1e-3, 3e-6], [2e-3, 4e-6]])
    refused("no column holds the errors of 'red'", read_photometry, own, columns={"R": "red"}, units="Jy")
    guessed = read_photometry(own, columns={"R": "red"}, units="Jy", relative_error=0.2)
    assert np.allclose(guessed["flux_error"], 0.2 * guessed["flux"])
    sample = read_photometry(Table({"u": [1e-3], "u_err": [1e-5], "z": [0.1], "X": [512.0]}), units="Jy")
    assert sample["band"].values[~sample["mask"].values[0]].tolist() == ["u"], "a bare z is no band"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"r": "nowhere"}}, "no columns nowhere; there are CATAID"),
        ({"labels": {"log_age": "age"}}, "no column 'age' for log_age"),
        ({"redshift": "zed"}, "no column 'zed' of redshift"),
        ({"redshift": [0.1, 0.2, 0.3]}, r"redshift has shape \(3,\) for 8 galaxies"),
        ({"units": "W / m2"}, "is in W / m2, which is no flux per frequency"),
        ({"units": "janskies"}, "unit 'janskies' of 'FUV_flux' is not known"),
        ({"units": "mag"}, "unnamed system"),
        ({"columns": {"r": "SFR_0_1Gyr_percentile50"}, "units": "mag(ST)", "relative_error": 0.1}, "only AB"),
        ({"errors": {"r": "nothing"}}, "no columns nothing; there are CATAID"),
        ({"units": None}, r"column 'FUV_flux' has no unit: say it, such as units=\"Jy\""),
    ],
)
def test_what_is_not_there_or_no_unit_is_named(table, options, says):
    refused(f"table: .*{says}", read_photometry, table, **{"units": "Jy"} | options)


def test_tables_without_bands_or_numbers_are_named(table):
    with pytest.raises(ValueError, match="table: no band of GAMA among the columns CATAID, Z"):
        read_photometry(table["CATAID", "Z"], units="Jy")
    table["r_flux"] = np.where(np.arange(8) == 2, "bright", table["r_flux"].astype(str))
    refused("table: column 'r_flux' is not numeric", read_photometry, table, units="Jy")


# edge_pydb/dat_glob/external/edge_leda.csv and califa/edge_califa.csv
LEDA = {"center": (180.7111065, 48.6362161), "position_angle": 99.87, "inclination": 41.31}
RE = 18.598  # arcsec
COLUMNS = ["log_age_fit", "log_z_fit"]


@pytest.fixture(scope="module")
def spaxels():
    return Table.read(pipe3d_path(), path="SSP", format="hdf5")


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
    # LEDA's centre is the light's to within a spaxel
    light = read_pipe3d(spaxels, by_zone=False)
    assert np.abs(light["x"] - sample["x"]).max() < 1 and np.abs(light["y"] - sample["y"]).max() < 1


def test_the_solar_metallicity_is_that_of_the_table(spaxels):
    history = Table.read(pipe3d_path(), path="SFH", format="hdf5")
    names = [name for name in history.colnames if name.startswith("lumfrac_met")]
    share = np.nan_to_num(np.stack([np.asarray(history[name], float) for name in names], axis=1))
    log_z = share @ np.log10([float(name.split("_")[-1]) for name in names]) / share.sum(axis=1).clip(0.1)
    rows = np.isfinite(spaxels["ZH_lwt"]) & (share.sum(axis=1) > 0.9)
    solar = 10 ** (log_z - np.asarray(spaxels["ZH_lwt"], float))[rows]
    assert np.median(solar) == pytest.approx(Z_SUN, rel=1e-3)


def test_gradients_of_a_real_galaxy():
    """Older and richer in metals inside (Gonzalez Delgado et al. 2015); by spaxel, the outer zones weigh more."""
    made = (read_pipe3d(pipe3d_path(), center=LEDA["center"], by_zone=by_zone) for by_zone in (True, False))
    by_zone, by_spaxel = map(with_radii, made)
    assert by_zone.sizes["spectrum"] == 1098
    fit, other = (fit_gradients(sample, columns=COLUMNS, seed=1) for sample in (by_zone, by_spaxel))
    inside = by_zone["radius"].values < 1
    for column in COLUMNS:
        slope, central = np.polyfit(by_zone["radius"].values[inside], by_zone[column].values[inside], 1)
        gradient, error = (fit[f"{column}_gradient{end}"].item() for end in ("", "_error"))
        assert gradient == pytest.approx(slope, abs=0.3 * error) and gradient < -5 * error
        assert fit[f"{column}_central"].item() == pytest.approx(central, abs=0.01) and 0.005 < error < 0.05
    assert other["n_inside"] > fit["n_inside"] == inside.sum()
    assert other["log_age_fit_gradient"] > fit["log_age_fit_gradient"]


def test_what_is_wrong_with_spaxels_is_told(spaxels):
    names = ("ra_abs", "dec_abs", "age_lwt", "ZH_lwt", "Av_ssp", "cont_segm", "Vcont_ssp")
    small = spaxels[names][2600:2700].copy()
    refused("no column ZH_lwt", read_pipe3d, small[[name for name in names if name != "ZH_lwt"]])
    odd = small.copy()
    odd["age_lwt"].unit = None
    refused(r"column age_lwt is in no unit, not in dex\(Gyr\)", read_pipe3d, odd)
    odd = small.copy()
    odd["age_lwt"][:3] = 99
    sample = read_pipe3d(odd, by_zone=False)
    assert sample.sizes["spectrum"] == np.isfinite(small["age_lwt"][3:]).sum()
    assert "impossible age: 3 spaxels" in sample.attrs["history"]
    odd["age_lwt"][:] = np.nan
    refused("none of 100 spaxels", read_pipe3d, odd)
