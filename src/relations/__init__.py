"""One module for each interface: read the databag into a typed object, or write it."""
