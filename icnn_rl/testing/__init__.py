"""Problem families with answers of known accuracy, and slow references that are obviously right.

Tests, benchmarks and solvers of your own share them. They need SciPy and Clarabel: the extra ``test``.
"""
