"""Every numerical tolerance of the test suite, in one place. Knows no test and no model.

Each name says what is compared; beside its value stands the largest error that was measured when it was set (and
on what), so that a tolerance that has become too generous can be seen. Errors are absolute unless the name says
otherwise. Token ids, lengths and anything copied bit for bit are compared with `==`, never with a tolerance.
"""

EXACT = 0.0
"""Two ways to run the same float operations in the same order (a reload, a bit-for-bit conversion)."""

LOSS_RELATIVE = 1e-6
"""`seq2seq_loss` against the formula in float64, relative (measured: 1.2e-7)."""

LOSS_GRADIENT = 1e-6
"""Gradient of `seq2seq_loss` against softmax minus target (measured: 6e-8)."""
