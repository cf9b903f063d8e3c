"""The interactive page: what models attend to, in a browser, on one's own images."""
