"""Exact removal of channels: which ones are live (``graph``), by zeroing (``zero``), by cutting (``shrink``)."""
