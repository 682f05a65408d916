"""The main job, done for real on one machine: `make demo`, or `python3 hack/demo`.

Standard library only. `commands.py` is the command line, `steps.py` the whole demonstration on one screen; the others
are one module per part of it. What is not particular to the demonstration is in hack/cluster, hack/images, hack/storage
and hack/deploy.
"""
