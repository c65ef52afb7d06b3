"""Modules that methods and shrunk nets share."""
