"""Proving that a model works for clients: what is asked of it, and what its answers are worth.

Everything but ``driver`` is pure: a step says what is to be asked, is told what was heard, and
gives a finding. So ``ctl test`` and the daemon can take the same steps, each with connections of
its own.
Standard library only.
"""
