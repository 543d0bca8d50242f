"""NIST's 27 nonlinear regressions: the files, the models, the runs and their page."""
