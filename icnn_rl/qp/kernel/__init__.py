"""Compiled code for problems so tiny that calling torch is most of the cost: :mod:`.dispatch` says which."""
