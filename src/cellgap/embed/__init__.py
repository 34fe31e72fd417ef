"""Contrastive representations of cells, with a diagnosis of what their pairs can and cannot identify."""
