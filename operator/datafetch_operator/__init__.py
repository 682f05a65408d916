"""The operator of DataFetch: turns resources into Jobs and what the Jobs say into status. It never touches the data."""

__version__ = "0.1.0"
