"""Galaxy spectra, synthetic and real, and the small models that learn from them."""

__version__ = "0.1.0"
