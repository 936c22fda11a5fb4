"""hessQuik's utilities: data, training, timing, derivative tests, parameters as one vector."""

from hessarray.check import convert_to_base
from hessarray.hessquik.utils._data import peaks
from hessarray.hessquik.utils._inputs import (
    directional_derivative_check,
    directional_derivative_laplacian_check,
    input_derivative_check,
    input_derivative_check_finite_difference,
    input_derivative_check_finite_difference_laplacian,
)
from hessarray.hessquik.utils._vector import (
    extract_data,
    insert_data,
    module_getattr,
    module_setattr,
)
from hessarray.hessquik.utils._weights import network_derivative_check
from hessarray.hessquik.utils.timing import timing_test
from hessarray.training import evaluate_loss as test
from hessarray.training import print_headers, train_one_epoch

__all__ = [
    "convert_to_base",
    "directional_derivative_check",
    "directional_derivative_laplacian_check",
    "extract_data",
    "input_derivative_check",
    "input_derivative_check_finite_difference",
    "input_derivative_check_finite_difference_laplacian",
    "insert_data",
    "module_getattr",
    "module_setattr",
    "network_derivative_check",
    "peaks",
    "print_headers",
    "test",
    "timing_test",
    "train_one_epoch",
]
