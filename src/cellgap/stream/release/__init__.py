"""Statistics released again and again while cells come in, so that no donor can be told from the releases."""
