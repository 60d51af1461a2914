"""Federated training on Flower: clients train on their own data, a server averages their weights.

A client's round is an ordinary training of this package. :mod:`lad.federated.flower` and what imports it need Flower,
the extra ``federated``.
"""
