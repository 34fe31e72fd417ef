"""Judging predicted populations: metrics, baselines, and a scale from the mean effect to a repeat of the experiment."""
