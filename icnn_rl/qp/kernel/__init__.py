"""Compiled QP solvers, for problems on which calling torch is most of the cost: :mod:`.dispatch` says which."""
