"""The network: one file of layers, one of the network itself, one of ensembles."""

from movinet.model.ensemble import Ensemble, TemporalEnsemble
from movinet.model.network import MoViNet

__all__ = ["Ensemble", "MoViNet", "TemporalEnsemble"]
