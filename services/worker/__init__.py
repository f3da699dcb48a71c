"""The step worker: tasks in, step results out."""
