"""Marziano, "Understanding Galaxy Populations and Their Evolution Through Machine Learning" (2024)."""

from spectool.papers.marziano2024.network import make_predictor as make_predictor
