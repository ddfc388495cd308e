"""Optuna searches that survive: what hydra-optuna-sweeper parses, run as a study on disk.

`sweeper` is the loop and reads from top to bottom. It knows the `space` that is searched, the
`samplers` that propose from it, the `study` that stores the `trials`, what is `frozen` when the
search begins, and the `outcome` that is told in the end.
"""
