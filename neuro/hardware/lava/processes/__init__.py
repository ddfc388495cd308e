"""Lava processes that Lava does not have: what they are, and how a CPU runs them in fixed point.

A package of its own because Lava, looking for the model of a process, executes every module that
lies beside the one of the process. Only `hardware/lava/network.py` imports it, and only to run.
"""
