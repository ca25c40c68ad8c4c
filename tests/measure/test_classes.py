"""The curves are the published ones, and the five classes follow from the rules in their order."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.classes import BPT_LINES, CLASSES, classify, kauffmann2003, kewley2001, log_ratio
from tests.refusals import refused

ELG, ABS, QUI, NLAGN, BLAGN = CLASSES
DEFAULTS = {"net_h_alpha_sn": 50.0, "net_h_beta_sn": 20.0, "balmer_absorption_sn": -20.0, "fit_status": 0}
DEFAULTS |= {"broad_h_alpha_sn": 0.0, "broad_gain": 0.0, "broad_h_alpha_ew": 0.0}
BROAD = {"broad_h_alpha_sn": 20.0, "broad_gain": 500.0, "broad_h_alpha_ew": 20.0}


def make_table(*rows):
    """A line table of (Hβ, [O III], Hα, [N II]) fluxes with errors 1, and columns that rows change."""
    flux = np.array([row.get("flux", (30, 15, 90, 30)) for row in rows], float)
    table = xr.Dataset({"line_flux": (("galaxy", "line"), flux), "line_sn": (("galaxy", "line"), flux)})
    for name, default in DEFAULTS.items():
        table[name] = ("galaxy", np.array([row.get(name, default) for row in rows]))
    return table.assign_coords(line=list(BPT_LINES))


def classes(*rows, **options):
    return classify(make_table(*rows), **options)["spectral_class"].values.tolist()


@pytest.mark.parametrize(
    ("log_n2", "kewley", "kauffmann"),
    [(-1.0, 0.7750, 0.7190), (-0.5, 0.5611, 0.1909), (-0.2, 0.2796, -1.14), (0.0, -0.1079, -10.9)],
)
def test_curves_pass_where_their_equations_put_them(log_n2, kewley, kauffmann):
    assert kewley2001(log_n2) == pytest.approx(kewley, abs=1e-4)
    assert kauffmann2003(log_n2) == pytest.approx(kauffmann, abs=1e-4)


def test_nothing_forms_stars_beyond_the_asymptotes():
    assert kewley2001([0.47, 0.6]).tolist() == [-np.inf, -np.inf]
    assert kauffmann2003([0.05, 1.0]).tolist() == [-np.inf, -np.inf]
    assert np.isnan(kewley2001(np.nan))
    x = np.linspace(-1.25, 0.04, 300)  # they cross at -1.28
    assert (kauffmann2003(x) < kewley2001(x)).all()


def test_log_ratio_of_fluxes_that_have_no_logarithm_is_nan(recwarn):
    ratio = log_ratio([10, -1, 1, 0, np.nan, 1], [1, 1, -2, 1, 1, np.nan])
    np.testing.assert_array_equal(ratio, [1] + [np.nan] * 5)
    assert not recwarn.list


def test_emission_is_split_by_kewley_and_balmer_lines_decide_what_is_emission():
    on_curve = 10 ** kewley2001(np.log10(60 / 90))
    above, below = (30, 30 * on_curve * 1.01, 90, 60), (30, 30 * on_curve * 0.99, 90, 60)
    assert classes({"flux": above}, {"flux": below}) == [NLAGN, ELG]
    assert classes({"flux": (0.2, 2.9, 90, 60)}, {"flux": (30, 400, 90, 2.9)}) == [ELG, ELG]
    assert classes({"flux": (30, 400, 90, 3.1)}) == [NLAGN]

    def balmer(alpha, beta, absorption):
        return dict(zip(DEFAULTS, (alpha, beta, absorption), strict=False))

    weak, deep, filled = balmer(2.0, -1.0, 1.0), balmer(-9.0, -5.0, 9.0), balmer(12.0, -4.0, 4.0)
    assert classes(weak, deep, filled, {}, balmer(2.0, -1.0, 3.1)) == [QUI, ABS, ABS, ELG, ABS]
    assert classes(filled, net=False) == [ELG]  # stars subtracted, both lines are in emission
    assert classes({"flux": (2, 15, 90, 30), **deep}, net=False) == [ABS]


def test_broad_lines_come_first_but_need_all_three_signs():
    quiet = {"net_h_alpha_sn": 0.0, "net_h_beta_sn": 0.0, "balmer_absorption_sn": 0.0}
    assert classes(BROAD, BROAD | quiet) == [BLAGN, BLAGN]
    weak = {"broad_gain": 5.0, "broad_h_alpha_sn": 4.0, "broad_h_alpha_ew": 2.0}
    assert classes(*(BROAD | {name: value} for name, value in weak.items())) == [ELG] * 3
    assert classes(BROAD | {"broad_h_alpha_ew": np.nan}) == [ELG]


def test_what_is_missing_is_unclassified_named_and_counted_or_refused():
    failed, without_net = BROAD | {"fit_status": 2}, BROAD | {"net_h_alpha_sn": np.nan}
    rows = {"net_h_beta_sn": np.nan}, {"flux": (30, 15, 90, np.nan)}, failed, {}, without_net
    table = classify(make_table(*rows))
    assert table["spectral_class"].values.tolist() == ["unclassified"] * 3 + [ELG, BLAGN]
    history = table.attrs["history"]
    assert "unclassified: 3 with a line missing or a failed fit (rows 0, 1, 2)" in history
    assert np.isnan(table["log_n2"].values[1])
    table = make_table({})
    refused("no `net_h_beta_sn`", classify, table.drop_vars("net_h_beta_sn"))
    refused("no `line_sn`", classify, table.drop_vars("line_sn"))
    refused("classes need the lines", classify, table.sel(line=["Hβ", "Hα"]))
