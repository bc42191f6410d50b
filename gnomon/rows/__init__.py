"""Rows of a generation: their plan, how they are answered, which tokens are kept, how they lie on disk.

What the steps `generate` and `capture` share. Beside `step` in the order of imports; torch only inside functions.
"""
