"""Models: whole sequences and an explicit state in, the same out."""

from neuro.models.file import load as load
from neuro.models.file import save as save
