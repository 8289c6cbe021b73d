"""How a run is read: plots, one page without a server, and a comparison of several runs."""
