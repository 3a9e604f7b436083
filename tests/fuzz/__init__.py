"""Fuzz the readers of worker folders, and every tool that a model calls: ``make fuzz``."""
