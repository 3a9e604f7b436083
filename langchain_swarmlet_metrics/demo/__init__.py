"""The demonstration: a supervisor agent delegates three tasks, reads how its workers performed, and answers."""
