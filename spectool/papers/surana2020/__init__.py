"""Surana, Wadadekar, Bait & Bhosle, "Predicting star formation properties of galaxies using deep learning" (2020)."""
