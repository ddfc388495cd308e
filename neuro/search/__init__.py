"""Hyperparameter search: Optuna studies that are stored and can be resumed.

Terms are Optuna's and Hydra's: a *sweep* is a call of `launch.py -m`; it runs *trials* of a stored
*study*, whose *sampler* draws values from a *space* of parameters. Several sweeps may work on one
study, one after the other or at once.

`sweeper` is the main loop. It uses `settings` (keys of hydra.sweeper), `space`, `samplers`, `study`
(in a `storage`), `precheck` (before the first trial), `frozen` (the copy of code and config),
`pruning` (a callback of the trials), and `results` and `summary` (at the end).
"""
