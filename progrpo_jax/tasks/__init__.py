"""Tasks, one module each; `base` defines what a task is."""
