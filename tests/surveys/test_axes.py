"""Wavelengths from headers: one table of headers as surveys, IRAF and the standard write them, and what they mean."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from specutils import Spectrum

from spectool.spectra import air_to_vacuum
from spectool.surveys.axes import header_medium, header_wavelengths
from tests.refusals import refused

N = 101
PLAIN = {"CRVAL1": 4000.0, "CDELT1": 10.0, "CRPIX1": 1.0}
LOG = {"CRVAL1": 3.58, "CD1_1": 1e-3, "CRPIX1": 1.0}
LOG_ENDS = (10**3.58, 10**3.68)
AIR_ENDS = tuple(air_to_vacuum(np.array([4000.0, 5000.0])))
HALPHA = 6564.6e-10
C = 299792.458
MULTISPEC = {"CTYPE1": "MULTISPE", "WAT0_001": "system=multispec"}
MULTISPEC |= {"WAT1_001": "wtype=multispec label=Wavelength units=angstroms"}
TWO = 'wtype=multispec spec1 = "1 1 0 4000. 10. 101 0. 1. 9." spec2 = "2 2 0 5000. 10. 101 0. 9. 18."'


def header_of(**words):
    return fits.Header({word.replace("__", "-"): value for word, value in words.items() if value is not None})


def spec(text):
    """IRAF's text on cards of 68 characters."""
    text = f'wtype=multispec spec1 = "{text}"'
    cards = {f"WAT2_{k // 68 + 1:03d}": text[k : k + 68] for k in range(0, len(text), 68)}
    return MULTISPEC | cards


def chebyshev(x):
    return 4500 + 500 * x + 20 * (2 * x**2 - 1)


@pytest.mark.parametrize(
    ("words", "ends", "note"),
    [
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "Angstrom"}, (4000, 5000), None),
        (PLAIN | {"CTYPE1": "wave", "CUNIT1": "ANGSTROMS", "CRPIX1": 11.0}, (3900, 4900), None),
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "A"}, (4000, 5000), None),
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "um", "CRVAL1": 1.0, "CDELT1": 0.01}, (1e4, 2e4), None),
        (PLAIN | {"CTYPE1": "WAVE", "CRVAL1": 4e-7, "CDELT1": 1e-9}, (4000, 5000), "taken as m"),
        (PLAIN | {"CTYPE1": "WAVE"}, (4000, 5000), "taken as Angstrom"),
        (PLAIN | {"CTYPE1": "AWAV", "CUNIT1": "Angstrom"}, AIR_ENDS, "in air: converted"),
        (PLAIN | {"CTYPE1": "WAVE-LOG", "CUNIT1": "Angstrom"}, (4000, 4000 * np.exp(0.25)), None),
        (
            PLAIN | {"CTYPE1": "AWAV-LOG", "CUNIT1": "nm", "CRVAL1": 400.0, "CDELT1": 1.0},
            air_to_vacuum(np.array([4000, 4000 * np.exp(0.25)])),
            "in air",
        ),
        (
            PLAIN | {"CTYPE1": "WAVE-F2W", "CUNIT1": "Angstrom"},
            (4000, 4000 / (1 - 0.25)),
            None,
        ),
        (
            PLAIN | {"CTYPE1": "FREQ", "CUNIT1": "THz", "CRVAL1": 700.0, "CDELT1": -1.0},
            (2997924.58 / 700, 2997924.58 / 600),
            None,
        ),
        (
            PLAIN | {"CTYPE1": "ENER", "CUNIT1": "eV", "CRVAL1": 2.0, "CDELT1": 0.01},
            (12398.41984 / 2, 12398.41984 / 3),
            None,
        ),
        (PLAIN | {"CTYPE1": "WAVN", "CUNIT1": "cm-1", "CRVAL1": 20000.0}, (5000, 1e8 / 21000), None),
        (
            PLAIN | {"CTYPE1": "VOPT", "CUNIT1": "km/s", "CRVAL1": 0.0, "RESTWAV": HALPHA},
            (6564.6, 6564.6 * (1 + 1000 / C)),
            None,
        ),
        (
            PLAIN | {"CTYPE1": "VRAD", "CUNIT1": "km/s", "CRVAL1": 0.0, "RESTFRQ": C / 6564.6e-13},
            (6564.6, 6564.6 / (1 - 1000 / C)),
            None,
        ),
        (
            PLAIN | {"CTYPE1": "VELO", "CRVAL1": 0.0, "CDELT1": 1e4, "RESTWAV": HALPHA},
            (6564.6, 6564.6 * np.sqrt((C + 1000) / (C - 1000))),
            None,
        ),
        (
            PLAIN | {"CTYPE1": "ZOPT", "CRVAL1": 0.0, "CDELT1": 1e-3, "RESTWAV": HALPHA},
            (6564.6, 6564.6 * 1.1),
            None,
        ),
        ({"CTYPE1": "WAVE", "CUNIT1": "nm", "CRVAL1": 500.0, "CD1_1": -1.0, "CRPIX1": 1}, (5000, 4000), None),
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "PC1_1": 2.0}, (4000, 6000), None),
        (PLAIN | {"CTYPE1": "LINEAR", "CD1_1": 5.0}, (4000, 4500), "CD1_1 = 5 holds"),
        (PLAIN | {"CTYPE1": "LINEAR", "CRPIX1": None}, (4000, 5000), "no CRPIX1"),
        (PLAIN | {"CRVAL1": "4000.0"}, (4000, 5000), "air or vacuum: taken as vacuum"),
        (PLAIN | {"CRVAL1": 0.4, "CDELT1": 0.01}, (4000, 14000), "taken as um"),
        (PLAIN | {"CRVAL1": 400.0, "CDELT1": 1.0}, (4000, 5000), "taken as nm"),
        (
            PLAIN | {"CTYPE1": "LAMBDA", "WAT1_001": "wtype=linear label=Wavelength units=angstroms"},
            (4000, 5000),
            None,
        ),
        (
            PLAIN
            | {"CTYPE1": "LINEAR", "WAT1_001": "wtype=linear units=nanometers", "CRVAL1": 400, "CDELT1": 1.0},
            (4000, 5000),
            None,
        ),
        (LOG | {"CTYPE1": "LINEAR", "DC-FLAG": 1}, LOG_ENDS, "of Angstrom"),
        (
            LOG | {"CTYPE1": "LINEAR", "DC-FLAG": 1, "WAT1_001": "wtype=linear units=angstroms"},
            LOG_ENDS,
            None,
        ),
        (LOG | {"CTYPE1": "LOG10(LAMBDA)", "CUNIT1": "Angstrom"}, LOG_ENDS, None),
        (LOG | {"CTYPE1": "LOGLAM"}, LOG_ENDS, "of Angstrom"),
        (LOG | {"CUNIT1": "log(Angstrom)"}, LOG_ENDS, None),
        (LOG | {"CTYPE1": "WAVE", "CUNIT1": "Angstrom"}, LOG_ENDS, "cannot be: taken as log10"),
        (
            {"CRVAL1": np.log(4000), "CDELT1": 1e-3, "CRPIX1": 1.0, "CTYPE1": "LN(LAMBDA)"},
            (4000, 4000 * np.exp(0.1)),
            "of Angstrom",
        ),
        ({"COEFF0": 3.58, "COEFF1": 1e-3, "VACUUM": True}, LOG_ENDS, None),
        (PLAIN | {"VACUUM": False}, AIR_ENDS, "in air: converted"),
        (PLAIN | {"AIRORVAC": "air"}, AIR_ENDS, "in air"),
        (PLAIN | {"CTYPE1": "WAVE", "AIRORVAC": "air"}, AIR_ENDS, "says vacuum, another header word air"),
        (PLAIN | {"COMMENT": "Wavelengths are in air"}, AIR_ENDS, "in air"),
        (PLAIN | {"VACUUM": "T", "SPECSYS": "TOPOCENT"}, (4000, 5000), "TOPOCENT"),
        (PLAIN | {"CUNIT1": "Angstrom (air)"}, AIR_ENDS, "in air"),
        (
            PLAIN | {"CRVAL1": 1500.0, "CTYPE1": "AWAV"},
            (1500, air_to_vacuum(np.array([2500.0]))[0]),
            "in air",
        ),
        (spec("1 1 0 4000. 10. 101 0. 1. 9."), (4000, 5000), None),
        (spec("1 1 1 3.58 0.001 101 0.1 1. 9."), np.array(LOG_ENDS) / 1.1, "divided by 1 + 0.1"),
        (spec("1 1 0 4000. 10. 101 0. 1. 9.") | {"LTV1": -20.0}, (4200, 5200), None),
        (
            spec("1 1 2 0. 0. 101 0. 1. 9. 1. 0. 1 3 1. 101. 4500. 500. 20."),
            (chebyshev(-1), chebyshev(1)),
            None,
        ),
        (spec("1 1 2 0. 0. 101 0. 1. 9. 1. 10. 2 2 1. 101. 4500. 500."), (4010, 5010), None),
    ],
)
def test_headers_and_the_wavelengths_that_they_mean(words, ends, note):
    wavelength, notes = header_wavelengths(header_of(**words), N, name="a.fits")
    assert wavelength.shape == (N,)
    np.testing.assert_allclose(wavelength[[0, -1]], ends, rtol=2e-6)
    assert note is None or note in "\n".join(notes), notes


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"CRVAL1": 4000.0}, "no wavelengths"),
        (PLAIN | {"CDELT1": 0.0}, "no wavelengths"),
        (PLAIN | {"CDELT1": "wide"}, "CDELT1 is 'wide', not a number"),
        (LOG, "log10 of Angstrom or micron"),
        (PLAIN | {"CRVAL1": 1.0, "CDELT1": 1.0}, "counts pixels"),
        (PLAIN | {"CTYPE1": "PIXEL"}, "calibrate it first"),
        (PLAIN | {"CTYPE1": "LINEAR", "DC-FLAG": -1}, "calibrate it first"),
        (PLAIN | {"DC-FLAG": 1}, "is impossible"),
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "m"}, "is impossible"),
        (PLAIN | {"CRVAL1": -400.0, "CUNIT1": "Angstrom"}, "is impossible"),
        (PLAIN | {"CTYPE1": "RA---TAN"}, "RA---TAN.*no wavelength"),
        (PLAIN | {"CTYPE1": "OFFSET", "CUNIT1": "arcsec"}, "arcsec.*no wavelength"),
        (PLAIN | {"CUNIT1": "furlong"}, "furlong.*wavelength_unit"),
        (PLAIN | {"CTYPE1": "VOPT", "CUNIT1": "km/s"}, "RESTWAV"),
        (PLAIN | {"CTYPE1": "WAVE", "CUNIT1": "eV"}, "cannot be read"),
        (PLAIN | {"CTYPE1": "WAVE-TAB", "PS1_0": "T", "PS1_1": "W"}, "WAVE-TAB.* cannot be read"),
        (PLAIN | {"CD1_1": 10.0, "CD1_2": 0.5}, "along two axes"),
        (PLAIN | {"CTYPE1": "AWAV", "CUNIT1": "Angstrom", "VACUUM": True}, "air .*AWAV.* vacuum .*VACUUM"),
        (MULTISPEC | {"WAT2_001": TWO[:68], "WAT2_002": TWO[68:]}, "wavelengths of their own"),
        (spec("1 1 2 0. 0. 101 0. 1. 9. 1. 0. 3 2 1. 101. 4500. 500. 5."), "spline"),
        (spec("1 1 -1 1. 1. 101 0. 1. 9."), "no wavelengths yet"),
    ],
)
def test_headers_that_are_refused(words, problem):
    refused(f"a.fits: .*{problem}", header_wavelengths, header_of(**words), N, name="a.fits")


def test_what_the_user_says_wins_and_is_said():
    header = header_of(**PLAIN, CTYPE1="AWAV", CUNIT1="Angstrom", VACUUM=True)
    wavelength, notes = header_wavelengths(header, N, name="a", medium="vacuum")
    assert wavelength[0] == pytest.approx(4000)
    header = header_of(**PLAIN, CTYPE1="AWAV", CUNIT1="Angstrom")
    wavelength, notes = header_wavelengths(header, N, name="a", medium="vacuum", unit="0.1 Angstrom")
    assert wavelength[0] == pytest.approx(400)
    assert "in air: taken as vacuum, as asked" in notes[-1] and "read as 0.1 Angstrom, as asked" in notes[0]
    header = header_of(**LOG)
    np.testing.assert_allclose(
        header_wavelengths(header, N, name="a", unit="log10(Angstrom)")[0][0], 10**3.58
    )
    np.testing.assert_allclose(header_wavelengths(header, N, name="a", unit="um")[0][0], 35800)
    third = header_of(CTYPE3="WAVE", CUNIT3="nm", CRVAL3=400.0, CD3_3=1.0, CRPIX3=1.0, CTYPE1="RA---TAN")
    assert header_wavelengths(third, N, axis=3, name="a")[0][-1] == pytest.approx(5000)


def test_an_axis_in_a_table():
    column = fits.Column("W", format="101D", unit="nm", dim="(1,101)", array=[np.linspace(400, 500, N)])
    table = fits.BinTableHDU.from_columns([column], name="T")
    words = {"CTYPE1": "WAVE-TAB", "CUNIT1": "nm", "CRVAL1": 1.0, "CDELT1": 1.0, "CRPIX1": 1.0}
    header = header_of(**words, PS1_0="T", PS1_1="W", PV1_1=1, PV1_2=1, PV1_3=1)
    hdus = fits.HDUList([fits.PrimaryHDU(np.zeros(N), header), table])
    wavelength, _ = header_wavelengths(header, N, name="a", hdus=hdus)
    np.testing.assert_allclose(wavelength, np.linspace(4000, 5000, N))


@pytest.mark.parametrize(
    ("words", "columns", "medium"),
    [
        ({}, ["wavelength (air)"], "air"),
        ({}, ["LAMBDA_VAC"], "vacuum"),
        ({}, ["wave_air", "AIRMASS"], "air"),
        ({"AIRMASS": 1.2, "AIR": 1.0}, ["airmass", "wave"], None),
        ({"VACUUM": 1}, [], "vacuum"),
        ({"VACUUM": 1.2e-6}, [], None),
        ({"VAC": "no"}, [], "air"),
        ({"AIR": True}, [], "air"),
        ({"WAVEMED": "Vacuum"}, [], "vacuum"),
        ({"comments": ["flux in Jy", "wavelengths in vacuum"]}, [], "vacuum"),
        ({"COMMENT": "wavelengths converted from air to vacuum"}, [], None),
    ],
)
def test_what_headers_and_columns_say_of_the_medium(words, columns, medium):
    assert header_medium(words, columns) == medium


def test_where_specutils_reads_an_axis_otherwise():
    """The reason for a reader of our own: logarithms of IRAF and air are left as they are, A is the ampere."""

    def by_specutils(**words):
        hdus = fits.HDUList([fits.PrimaryHDU(np.ones(N), header_of(**words))])
        return Spectrum.read(hdus, format="wcs1d-fits", flux_unit=u.Unit("Jy")).spectral_axis.to_value(u.AA)

    log = LOG | {"CTYPE1": "LINEAR", "DC-FLAG": 1, "WAT1_001": "wtype=linear units=angstroms"}
    assert by_specutils(**log)[0] == pytest.approx(3.58)
    assert by_specutils(**PLAIN, CTYPE1="AWAV", CUNIT1="Angstrom")[0] == pytest.approx(4000)
    with pytest.raises(ValueError, match="charge"):
        by_specutils(**PLAIN, CTYPE1="WAVE", CUNIT1="A")
    plain = PLAIN | {"CTYPE1": "WAVE-LOG", "CUNIT1": "Angstrom"}
    ours, _ = header_wavelengths(header_of(**plain), N, name="a")
    np.testing.assert_allclose(by_specutils(**plain), ours, rtol=1e-12)
