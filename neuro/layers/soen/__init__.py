"""Layers of superconducting optoelectronic networks, and other layers to combine them with."""
