"""Figures, the report and the terminal: what a person sees."""
