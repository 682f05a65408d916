"""Downloaders side by side: the same bytes from the same server, in one run. `python bench/peers --help`."""
