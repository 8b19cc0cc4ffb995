"""The network: one file of layers, one of the network itself, one of ensembles."""

from movinet.model.network import MoViNet

__all__ = ["MoViNet"]
