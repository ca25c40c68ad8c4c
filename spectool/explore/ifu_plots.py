"""What figures of the narrow bands share: labels, a colour, and names of absorption features."""

from spectool.explore.spectrum import LineMarks
from spectool.explore.style import OKABE_ITO
from spectool.measure.indices import stellar_marks

BAND_COLOR = OKABE_ITO["vermillion"]
F_NU_LABEL = "f_ν / mean of bands"
RADIUS_LABEL = "deprojected radius (Re)"


def absorption_marks(plot, window, width):
    """Name absorption features above a spectrum."""
    shown = {name: x for name, x in stellar_marks().items() if window[0] < x < window[1]}
    return LineMarks(plot, window, width, lines=shown)
