"""Principal axes of more cells than fit in memory, in one pass. Nothing here is private."""
