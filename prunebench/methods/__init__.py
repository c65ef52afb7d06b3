"""One file a method (or a family that is one class with options); none imports another."""
