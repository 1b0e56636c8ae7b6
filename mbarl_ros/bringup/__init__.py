"""Which processes make up a graph, and running them."""
