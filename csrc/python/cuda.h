// The CUDA kernel on device arrays that speak DLPack, and on NumPy arrays in emulation.
#ifndef TF_ADADELTA_PYTHON_CUDA_H_
#define TF_ADADELTA_PYTHON_CUDA_H_

#include <pybind11/pybind11.h>

namespace tf_adadelta {

void DefineCudaFunctions(pybind11::module_& module);
void DefineCudaEmulation(pybind11::module_& module);

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PYTHON_CUDA_H_
