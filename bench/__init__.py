"""The measurements.

`python -m bench` runs them all and writes tables of ratios into bench/results/.
"""
