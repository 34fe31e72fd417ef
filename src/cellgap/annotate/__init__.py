"""Classifiers of cells that hold across donors, under label noise and attack, and know when they do not know."""
