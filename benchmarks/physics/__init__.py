"""Physics-informed nets, in float64, beside the solvers that their field uses."""
