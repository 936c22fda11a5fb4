"""What stands around a network in a surrogate: scalers, encodings, ensembles, as layers."""

from hessarray.surrogates.columns import Decode, Encode
from hessarray.surrogates.ensembles import Ensemble, Mean, Mirror
from hessarray.surrogates.gaussian_process import GaussianProcess
from hessarray.surrogates.scaling import Clip, Scale
from hessarray.surrogates.terms import Polynomial, Softmax

__all__ = [
    "Clip",
    "Decode",
    "Encode",
    "Ensemble",
    "GaussianProcess",
    "Mean",
    "Mirror",
    "Polynomial",
    "Scale",
    "Softmax",
]
