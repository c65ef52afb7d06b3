"""From text to checked values: what a configuration may say, which run it is, and what a dotted path names."""
