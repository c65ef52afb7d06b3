"""One run: from checked values to ``result.json``."""
