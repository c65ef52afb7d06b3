"""What everything talks about: a method and its hooks, the run that it may ask, the task, the result."""
