"""Data sets: one per file, read from their official formats, never through a loop over single pictures.

``loaders.ImageData`` is what a run sees; ``splits`` decides which picture is in which split and batch,
``batches`` cuts and normalises, ``files`` and ``download`` read, check and fetch the official files.
"""
