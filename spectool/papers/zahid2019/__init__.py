"""Zahid, Ho & Kudritzki (2019): star-forming galaxy spectra and machine learning models, a draft."""
