"""The small spectra that the tests of de-noisers share."""

from tests.models.conftest import toy as toy
from tests.models.conftest import trained as trained
