"""Scourfield, Saintonge, de Mijolla & Viti, "De-noising of galaxy optical spectra with autoencoders" (2023)."""
