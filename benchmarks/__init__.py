"""Benchmarks of encdec_eqx beside PyTorch's EncoderDecoderModel; a package only so that `python -m benchmarks.x` works.

It must not be imported by the library, and nothing here ships in the wheel.
"""
