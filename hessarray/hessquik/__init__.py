"""hessQuik's own names, as torch modules that hessarray evaluates.

A script written for hessQuik (Newman and Ruthotto, JOSS 2022) runs after its import lines change::

    import hessarray.hessquik.activations as act
    import hessarray.hessquik.layers as lay
    import hessarray.hessquik.networks as net
    from hessarray.hessquik.utils import peaks, train_one_epoch, test, print_headers

Weights have hessQuik's names and shapes, so that a ``state_dict`` loads in either direction.
Importing this package imports torch.
"""

from hessarray.hessquik import activations, layers, networks, utils

__all__ = ["activations", "layers", "networks", "utils"]
