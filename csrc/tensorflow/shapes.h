// Which shapes the inputs of a call must have.
#ifndef TF_ADADELTA_TENSORFLOW_SHAPES_H_
#define TF_ADADELTA_TENSORFLOW_SHAPES_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/inputs.h"

namespace tf_adadelta {

// Checks the shapes of all inputs; `shape` returns that of an input (of the value of a resource),
// and `describe` what to call it.
absl::Status CheckShapes(const Inputs& inputs,
                         const std::function<const tensorflow::TensorShape&(int)>& shape,
                         const std::function<std::string(int)>& describe);

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_SHAPES_H_
