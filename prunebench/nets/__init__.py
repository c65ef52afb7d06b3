"""Nets as files and back: how the dense one is built, a small one saved and loaded, weights read, formats written."""
