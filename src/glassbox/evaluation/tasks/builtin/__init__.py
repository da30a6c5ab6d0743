"""The built-in tasks, one family a file: each module has TASKS, and GROUPS where there are any."""
