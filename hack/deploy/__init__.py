"""What the demonstration and the e2e tests put into a cluster: the chart, and the storage servers of this machine.

Standard library only. `kubectl.py` is the way to the cluster that hack/cluster started or was given; the rest uses it.
Every failure is a ClusterError: one sentence with the end of what the program said.
"""
