"""Reading, checking and building of published data sets."""
