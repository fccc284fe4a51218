"""Measure bundles: ``edgeport bench`` (speed, memory, size), ``edgeport evaluate`` (quality), ``demo`` (all of it).

Import the modules by name. This file stays empty of imports, so that a measuring process holds only what it measures.
"""
