"""Marziano, "Understanding Galaxy Populations and Their Evolution Through Machine Learning" (2024)."""
