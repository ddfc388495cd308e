"""Lava processes of neurons that Lava lacks, and their fixed-point models for the CPU.

This is a separate package because Lava, to find the model of a process, executes every module
beside that of the process. Only `hardware/lava/network.py` imports it, when it runs a network.
"""
