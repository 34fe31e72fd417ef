"""Answers with their conditions and their sources: from text, and from tables of measured and predicted effects."""
