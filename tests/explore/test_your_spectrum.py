"""The page for one's own spectrum: what it does is right without a widget; the widgets only show and drive it."""

import datetime
import re

import numpy as np
import pytest
import xarray as xr

from spectool.explore.view import limits
from spectool.explore.your_spectrum import STEPS, YourSpectrum, YourSpectrumView, prepare_in_steps
from spectool.papers import Answer
from spectool.prepare import prepare_spectra
from spectool.surveys import packaged_spectra, read_spectrum


def make_answers(sample):
    """Two models: one that answers out of range, one that does not apply."""
    result = xr.Dataset(
        {
            "value": (("galaxy", "quantity"), [[9.8]]),
            "error": (("galaxy", "quantity"), [[0.1]]),
            "out_of_range": ("galaxy", [True]),
            "reason": ("galaxy", ["latent 3 <is> odd"]),
            "reconstruction": (("galaxy", "wavelength"), np.ones((1, 4582), np.float32)),
        },
        coords={
            "quantity": ["age_lw"],
            "label": ("quantity", ["age"]),
            "unit": ("quantity", ["Gyr"]),
            "note": ("quantity", [""]),
        },
    )
    return [
        Answer("a", "Model A", result),
        Answer("b", "Model B", None, "needs ultraviolet"),
    ]


@pytest.fixture
def state():
    state = YourSpectrum(ask=make_answers)
    assert state.read_example()
    return state


def test_steps_end_where_the_models_begin():
    sample = read_spectrum(packaged_spectra()["NGC 3522"], ebv=0.02)
    steps = prepare_in_steps(sample)
    assert tuple(steps) == STEPS
    xr.testing.assert_identical(steps["normalised"], prepare_spectra(sample))
    assert "extinction corrected" not in prepare_in_steps(sample.drop_vars("ebv"))


def test_the_example_is_read_and_answered(state):
    assert state.title == "NGC3522_SDSS_DR18.fits" and not state.failed and not state.busy
    assert state.table()["quantity"].tolist() == ["age", "does not apply"]
    assert state.out_of_range() == {"Model A": "latent 3 <is> odd"}
    assert any("extinction corrected with F99" in line for line in state.history())


def test_curves_show_masked_pixels_as_masked(state):
    curves = state.curves("sky lines masked")
    mask = state.steps["sky lines masked"]["mask"].values[0]
    np.testing.assert_array_equal(np.isnan(curves["good"]), mask)
    np.testing.assert_array_equal(np.isnan(curves["sigma"]), mask)
    assert np.isfinite(curves["bad"][mask]).all(), "NGC 3522 has data under its sky lines"
    assert all(v.dtype == np.float32 for v in curves.values())


def test_masked_ranges_hold_exactly_the_masked_pixels(state):
    ranges = state.masked_ranges("normalised")
    wavelength = state.steps["normalised"]["wavelength"].values
    inside = ((wavelength[:, None] > ranges[:, 0]) & (wavelength[:, None] < ranges[:, 1])).any(axis=1)
    np.testing.assert_array_equal(inside, state.steps["normalised"]["mask"].values[0])


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("no/such/file.fits", {}, "no such file"),
        (b"SIMPLE  =   T", {"name": "cut.fits"}, "cut.fits: the FITS file is truncated"),
        (packaged_spectra()["NGC 3522"], {"redshift": -0.4}, "redshift -0.4"),
        (packaged_spectra()["NGC 3522"], {"redshift": True}, "redshift is 'True', which is no number"),
        (packaged_spectra()["NGC 3522"].parent, {}, "is a folder"),
        ("~nobody there/x.fits", {}, "no such file"),
    ],
)
def test_a_bad_file_is_told_and_leaves_the_last_one(state, source, options, says):
    before = state.sample
    assert not state.read(source, **options)
    assert state.failed and says in state.message and not state.busy
    assert state.sample is before and state.title == "NGC3522_SDSS_DR18.fits"
    with pytest.raises(ValueError, match=re.escape(says)):
        state.table()
    assert state.read_example("NGC 3073") and not state.failed


def test_a_missing_file_is_no_empty_table():
    fresh = YourSpectrum(ask=lambda sample: [])
    with pytest.raises(ValueError, match="no spectrum was read yet"):
        fresh.table()
    assert not fresh.read("no/such/file.fits")
    with pytest.raises(ValueError, match=r"no answers: no/such/file\.fits: no such file"):
        fresh.table()


def test_view_follows_the_state(state):
    view = YourSpectrumView(state)
    sources = view._sources
    np.testing.assert_array_equal(sources["observed"].data["good"], state.curves("sky lines masked")["good"])
    assert (sources["prepared"].data["reconstruction"] == 1).all()
    assert "9.80 ± 0.10 Gyr" in view.tables.value and "latent 3 &lt;is&gt; odd" in view.tables.value
    assert "Out of range" in view.tables.value and "needs ultraviolet" in view.tables.value
    assert "extinction corrected with F99" in view.tables.value
    assert "age <b>9.80 ± 0.10</b> Gyr ⚠ out of range" in view.verdict.value
    state.read_example("NGC 3073")
    assert "NGC3073" in view.status.value
    np.testing.assert_array_equal(sources["observed"].data["good"], state.curves("sky lines masked")["good"])


def test_the_dust_is_named_only_where_it_is_known(state):
    view = YourSpectrumView(state)
    dusty, undusted = view.figures["rest"].legend[0].items
    assert dusty.visible and undusted.label.value == "without"
    state.set(ebv="")
    assert not dusty.visible and "not known" in undusted.label.value
    assert np.isnan(view._sources["before"].data["good"]).all()


def test_a_shared_view_asks_for_the_file_that_is_not_here(state):
    state.read(packaged_spectra()["NGC 3073"].read_bytes(), name="mine.fits", redshift=0.0038)
    text, fresh = state.share(), YourSpectrum(ask=make_answers)
    with pytest.raises(ValueError, match=r"this view is of mine\.fits .*upload that file"):
        fresh.load(text)
    fresh.read(packaged_spectra()["NGC 3073"].read_bytes(), name="mine.fits", redshift=0.1)
    fresh.load(text)
    assert fresh.sample["redshift"].values[0] == 0.0038


def test_view_reads_uploads_and_paths(state):
    view = YourSpectrumView(state)
    content = packaged_spectra()["NGC 3073"].read_bytes()
    view.upload.value = (
        {
            "name": "mine.fits",
            "type": "",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime.datetime.now(datetime.UTC),
        },
    )
    view.redshift.value, view.ebv.value = "0.00380", "0.01"
    view.button.click()
    assert state.title == "mine.fits" and state.sample["redshift"].values[0] == 0.0038
    assert state.sample["ebv"].values[0] == 0.01
    view.where.value = str(packaged_spectra()["NGC 3522"])
    view.button.click()
    assert state.title == "NGC3522_SDSS_DR18.fits"
    typed = {
        "far away": "no number",
        "0,1": "no number: write 0.1",
        "nan": "no number",
        "1_0": "no number",
        "-1": "outside",
    }
    for text, says in typed.items():
        view.redshift.value = text
        view.button.click()
        assert state.failed and says in view.verdict.value and view.redshift.value == text
    view.example.click()
    assert not state.failed and state.sample["redshift"].values[0] != 0.0038


def test_the_last_spectrum_is_read_again_with_another_redshift(state):
    view = YourSpectrumView(state)
    view.redshift.value = "0.1"
    view.button.click()
    assert state.title == "NGC3522_SDSS_DR18.fits" and state.sample["redshift"].values[0] == 0.1
    assert state.sample["ebv"].values[0] == 0.02, "what is not given anew stays"
    np.testing.assert_allclose(view._sources["rest"].data["wavelength"][0] * 1.1, 3826.5, atol=1)
    view.redshift.value = view.ebv.value = ""
    view.button.click()
    assert (
        state.sample["redshift"].values[0] == pytest.approx(0.004018, abs=1e-6) and "ebv" not in state.sample
    )


def test_what_a_file_does_not_say_is_asked_for_and_what_was_assumed_is_said(state, tmp_path):
    view = YourSpectrumView(state)

    def shown():
        return {name for name, field in view.asked.items() if field.layout.display != "none"}

    wave = np.linspace(4000.0, 7000.0, 3000)
    lines = [f"{w},{18.0 + np.sin(w / 100)}" for w in wave]
    path = tmp_path / "mags.csv"
    path.write_text("\n".join(["wavelength,flux (mag)", *lines]))
    assert view.ebv.value == "0.02"
    view.where.value, view.redshift.value = f'"{path}"', "0.1"
    assert view.ebv.value == "", "the dust before the example is not that before another galaxy"
    view.button.click()
    assert state.failed and shown() == {"flux_unit"} and view.redshift.value == "0.1"
    view.asked["flux_unit"].value = "mag(AB)"
    view.button.click()
    assert not state.failed and state.sample["flux"].attrs["units"] and shown() == {"flux_unit"}
    for words in ("taken as vacuum", "from the scatter of neighbouring pixels"):
        assert words in state.message and words in view.status.value
    path.write_text("\n".join(["wavelength,flux", *lines]))
    view.where.value = str(path)
    assert view.asked["flux_unit"].value == "", "what was said of the file before is not said of this one"
    view.button.click()
    assert not state.failed and "flux has no unit" in state.message and not shown()
    assert not state.read(path, redshift=0.1, target="all") and "number of one spectrum" in state.message
    assert state.read(path, redshift=0.1, flux_unit="none") and state.sample["flux"].attrs["units"] == ""


def test_view_says_that_there_is_nothing_to_read():
    view = YourSpectrumView(YourSpectrum(ask=make_answers))
    view.button.click()
    assert "upload a file" in view.verdict.value and "No spectrum yet" in view.status.value


def test_limits_ignore_spikes_and_empty_spectra():
    values = np.append(np.linspace(1, 2, 1000), [1e9, np.nan])
    low, high = limits(values)
    assert 0.8 < low < 1 and 2 < high < 2.5
    assert limits(np.full(3, np.nan)) == (0.0, 1.0)
