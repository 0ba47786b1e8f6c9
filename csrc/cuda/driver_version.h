// Which driver there is. Plain C++, like dense.h.
#ifndef TF_ADADELTA_CUDA_DRIVER_VERSION_H_
#define TF_ADADELTA_CUDA_DRIVER_VERSION_H_

#include "api.h"

namespace tf_adadelta::cuda {

// Returns the newest CUDA that the driver supports, such as 12040 for 12.4; 0 where there is none.
TF_ADADELTA_API int DriverVersion();

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_DRIVER_VERSION_H_
