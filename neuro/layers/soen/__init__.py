"""Layers of superconducting optoelectronic networks, and virtual ones to put beside them."""
