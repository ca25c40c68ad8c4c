import numpy as np
import pytest

from benchmarks.lines import require_equal_fluxes

FLUX = np.linspace(10, 100, 20)


@pytest.mark.parametrize(
    ("error", "factor"), [(np.full(20, 0.1), 1.01), (np.full(20, 2.0), 1.009)], ids=["to 2%", "to 0.3 errors"]
)
def test_equal_fluxes_count(error, factor):
    require_equal_fluxes(FLUX, FLUX * factor, error)


def test_a_speed_for_other_fluxes_does_not_count():
    with pytest.raises(ValueError, match=r"fluxes differ from the peer's by 5.0%"):
        require_equal_fluxes(FLUX, FLUX * 1.05, np.full(20, 0.1))


def test_nor_does_one_for_faint_lines_alone():
    with pytest.raises(ValueError, match="only 0 lines are strong enough"):
        require_equal_fluxes(FLUX, FLUX, FLUX)
