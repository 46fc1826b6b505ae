"""Measurements with their baselines, run by ``deploy/bench``. One module a bench, see :mod:`bench.harness`."""
