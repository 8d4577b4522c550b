"""A one-node Kubernetes and an OpenBao server on this machine, for the demo and the tests.

Nothing here is part of the product: it only gives the product something real to run on, built from
Go modules, Debian packages and one wheel, without a container registry.
"""
