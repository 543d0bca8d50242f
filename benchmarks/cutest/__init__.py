"""CUTEst's unconstrained problems, as sif2jax has them: the runs and their page."""
