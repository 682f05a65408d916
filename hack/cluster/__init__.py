"""A Kubernetes cluster to develop and test against, with or without Docker: `python3 hack/cluster up`.

Standard library only: it runs before any virtual environment exists. `commands.py` is the command line, `provider.py`
decides which of three clusters is meant, and the rest is one module per part of the cluster without Docker.
"""
