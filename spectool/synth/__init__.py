"""What galaxies are: stellar populations, histories, dust, gas, and populations of galaxies."""

from spectool.synth.grid import SSPGrid
from spectool.synth.synthesis import describe, synthesize

__all__ = ["SSPGrid", "describe", "synthesize"]
