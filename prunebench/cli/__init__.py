"""The command line: the only code, beside the rows, that knows Hydra."""
