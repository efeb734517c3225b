"""Readers: one module a format, all returning a `Dataset`."""
