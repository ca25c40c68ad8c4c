"""Units as files and people write them."""

import pytest
from astropy import units as u

from spectool.surveys.units import parse_unit

FLAM = u.erg / u.s / u.cm**2 / u.AA
READINGS = {
    1e-17 * FLAM: [
        "1E-17 erg/cm^2/s/Ang",
        "1E-17 erg/cm^2/s/Ang/spaxel",
        "1E-17ERG/CM**2/S/A",
        "10^-17 erg s^-1 cm^-2 A^-1",
        "10-17 erg s-1 cm-2 A-1",
        "10**(-17)erg/cm2/s/Ang",
        "10^{-17} erg/s/cm^2/A",
        "x10^-17 erg/s/cm2/A",
        "10**-17 erg/(s cm2 Angstrom)",
    ],
    1e-20 * FLAM: ["10**(-20)*erg/s/cm**2/Angstrom", "10(-20)*erg/s/cm**2/Angstrom"],
    FLAM: [
        "FLAM",
        "erg/cm2/s/A",
        "ERGS/CM2/S/A",
        "erg cm⁻² s⁻¹ Å⁻¹",
        "erg per s per cm2 per A",
        "(erg/s/cm^2/A)",
        "erg/(s*cm^2*A)",
    ],
    (1e-17 * FLAM) ** -2: [
        "1/(1E-17 erg/cm^2/s/Ang)^2",
        "(1E-17 erg/s/cm2/A)^-2",
        "1E+34 cm^4 s^2 Ang^2/erg^2",
    ],
    (1e-20 * FLAM) ** 2: ["(10**(-20)*erg/s/cm**2/Angstrom)**2"],
    u.W / u.m**2 / u.um: ["W/M2/UM", "W m-2 um-1"],
    u.AA: [
        "A",
        "Å",
        "AA",
        "Ang",
        "ANGSTROMS",
        "Angstroms",
        "'Angstrom'",
        u.A,
        u.Unit("Angstroms", parse_strict="silent"),
    ],
    u.um: ["um", "µm", "MICRONS", "micrometers"],
    u.uJy: ["uJy", "muJy", "UJY"],
    u.mJy: ["mJy"],
    u.MJy / u.sr: ["MJy/sr"],
    u.nmgy: ["nanomaggies", "nanomaggy", "nmgy"],
    u.ABmag: ["mag(AB)", "ABmag", "AB mag", "AB"],
    u.STmag: ["STmag", "mag (ST)"],
    u.dex(u.AA): ["log10(A)", "log Angstrom", "LOG(ANGSTROMS)"],
    u.dimensionless_unscaled: ["", "none", "normalized"],
}


@pytest.mark.parametrize(
    ("unit", "text"), [(unit, text) for unit, texts in READINGS.items() for text in texts]
)
def test_units_are_read_as_they_are_meant(unit, text):
    read = parse_unit(text, name="a.fits", column="FLUX", option="flux_unit")
    if isinstance(unit, u.Quantity):
        assert read.to(unit.unit) == pytest.approx(unit.value, rel=1e-12)
    else:
        assert read == unit


@pytest.mark.parametrize("text", ["erg/s/blob", "MJY", "1" + "/1" * 500, "10**9999 Jy", "e rg", "air", "\0"])
def test_an_unknown_unit_is_refused_with_file_column_and_remedy(text):
    with pytest.raises(ValueError, match="flux_unit=") as refusal:
        parse_unit(text, name="a.fits", column="FLUX", option="flux_unit")
    assert "a.fits" in str(refusal.value) and "'FLUX'" in str(refusal.value)
