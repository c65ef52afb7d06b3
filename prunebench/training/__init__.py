"""One phase's training with Lightning: the only package that imports it, and it takes seconds to import."""
