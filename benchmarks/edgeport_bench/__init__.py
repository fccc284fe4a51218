"""Measure bundles: ``edgeport bench`` (speed, memory, size), ``similarity`` (quality), ``demo`` (the whole story).

Import the modules by name. This file stays empty of imports, so that a measuring process holds only what it measures.
"""
